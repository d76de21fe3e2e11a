"""A person's photo as it is stored: its own bytes wherever a reader could take them."""

import io

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maskclip_jax.data.builders.files import is_turned, orientation, read_photo
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.photos import photo_from_bytes

# Files whose bytes are kept, where their pixels are of one of these modes.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP')
_MODES = ('L', 'RGB', 'P', '1')
_QUALITY = 95


def stored_photo(
  file: RawFile, labelled: tuple[int, int] | None, upright: bool = False
) -> tuple[bytes, tuple[int, int]]:
  """The photo that a record holds, and its height and width.

  Tools show photos upright, and some of them write sizes and outlines of that picture,
  others of the unrotated one: the size that was labelled tells. In the first case the
  photo is stored upright. Colours of 16 bits and photos with alpha become what
  prediction sees of them.

  Args:
    file: the photo.
    labelled: height and width of what was labelled, if that is told.
    upright: whether the upright picture was labelled, where the size does not tell.

  Raises:
    ValueError: it cannot be read, or another size was labelled.
  """
  data, size = read_photo(file)
  turn = orientation(file)
  if turn >= 5 and labelled is not None and size[0] != size[1]:
    upright = labelled == size[::-1]
  upright = upright and turn > 1
  if labelled not in (None, size[::-1] if upright and turn >= 5 else size):
    raise ValueError(
      f'{file.path} is {size[1]} x {size[0]} and its labels are for {labelled[1]} x '
      f'{labelled[0]} pixels: give the photos that were labelled, at their size'
    )
  with Image.open(io.BytesIO(data)) as image:
    lossy = image.format == 'JPEG'
    plain = image.format in _FORMATS and image.mode in _MODES
    plain = plain and 'transparency' not in image.info
  if plain and not upright:
    return data, size
  pixels = photo_from_bytes(data, file.path)
  if turn > 1 and not upright:
    raise ValueError(
      f'{file.path} carries a rotation, and its labels are not of the turned picture: '
      'save it upright, or as JPEG'
    )
  return _encoded(pixels, '.jpg' if lossy else '.png'), pixels.shape[:2]


def upright_size(file: RawFile) -> tuple[int, int]:
  """Height and width of a photo as its camera's note turns it.

  Raises:
    ValueError: it cannot be read.
  """
  _, size = read_photo(file)
  return size[::-1] if is_turned(file) else size


def _encoded(pixels: UInt8[np.ndarray, 'h w 3'], ending: str) -> bytes:
  options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if ending == '.jpg' else []
  return cv2.imencode(ending, pixels[..., ::-1], options)[1].tobytes()
