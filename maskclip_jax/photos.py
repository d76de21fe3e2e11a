"""Reading photos as people have them: any mode, any orientation, one clear error."""

import pathlib
import warnings
from typing import Literal

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset(
  {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.ppm', '.jp2'}
)


def read_photo(path: str | pathlib.Path) -> UInt8[np.ndarray, 'h w 3']:
  """Reads an image file as upright RGB, 0..255.

  EXIF orientation is applied. Grey, palette, RGBA (over white) and 16-bit images are
  accepted; of an animation the first frame is read.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not an image, is truncated, or is too large.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    what = 'is a folder' if path.is_dir() else 'does not exist'
    raise FileNotFoundError(f'{path} {what}: give the path of an image file')
  try:
    with warnings.catch_warnings():
      # Pillow warns from 89 megapixels on; its hard limit (twice that) is ours.
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      with Image.open(path) as image:
        return photo_from_pil(image)
  except UnidentifiedImageError:
    raise ValueError(
      f'{path} is not an image that can be read: check that the file is what its name '
      'says, or convert it to PNG or JPEG'
    ) from None
  except Image.DecompressionBombError:
    raise ValueError(
      f'{path} has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels: shrink '
      'or crop it first'
    ) from None
  except (OSError, SyntaxError, ValueError) as error:
    # Pillow reports damage in the middle of a file by these three types.
    raise ValueError(
      f'{path} is damaged ({error}): fetch or export the image again'
    ) from None


def photo_from_pil(image: Image.Image) -> UInt8[np.ndarray, 'h w 3']:
  """A Pillow image as upright RGB, 0..255; see `read_photo`."""
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I') or image.mode == 'F':
    return photo_from_array(np.asarray(image))
  if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
    image = image.convert('RGBA')
    canvas = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(canvas, image)
  return np.asarray(image.convert('RGB'))


def photo_from_array(array: Num[np.ndarray, '...']) -> UInt8[np.ndarray, 'h w 3']:
  """An array as RGB, 0..255.

  Args:
    array: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); uint8, wider integers holding 16
      bits, or floats in 0..1.

  Raises:
    ValueError: another shape, an empty image, NaN, or floats beyond 0..1.
  """
  array = np.asarray(array)
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  if (
    array.ndim not in (2, 3)
    or 0 in array.shape
    or array.shape[2:]
    not in (
      (),
      (3,),
      (4,),
    )
  ):
    raise ValueError(
      f'an image must be (height, width) or (height, width, 3 or 4), not {array.shape}'
    )
  if np.issubdtype(array.dtype, np.floating):
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
      raise ValueError('a float image must be finite and within 0..1')
    array = np.round(array * 255).astype(np.uint8)
  elif array.dtype == bool:
    array = array.astype(np.uint8) * 255
  elif array.dtype != np.uint8:
    if array.min() < 0 or array.max() > 65535:
      raise ValueError(
        f'an integer image must be within 0..255 (uint8) or 0..65535, not '
        f'{array.min()}..{array.max()}'
      )
    array = np.round(array.astype(np.float32) / 257).astype(np.uint8)
  if array.ndim == 2:
    return np.repeat(array[..., None], 3, axis=-1)
  if array.shape[-1] == 4:
    return photo_from_pil(Image.fromarray(array, 'RGBA'))
  return array


def find_photos(names: list[str]) -> list[pathlib.Path]:
  """The image files that names, folders and glob patterns stand for, in order.

  Raises:
    FileNotFoundError: a name matches nothing, or a folder holds no image.
  """
  found = []
  for name in names:
    path = pathlib.Path(name)
    if path.is_dir():
      matches = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
      if not matches:
        raise FileNotFoundError(f'the folder {name} holds no image')
    elif any(c in name for c in '*?[') and not path.exists():
      matches = sorted(pathlib.Path(path.anchor or '.').glob(_relative(path)))
      if not matches:
        raise FileNotFoundError(f'no file matches {name}')
    else:
      matches = [path]
    found += matches
  return list(dict.fromkeys(found))


def _relative(path: pathlib.Path) -> str:
  return str(path.relative_to(path.anchor)) if path.anchor else str(path)


def resize_photo(
  photo: UInt8[np.ndarray, 'h w 3'],
  height: int,
  width: int,
  resample: Literal['pillow', 'opencv'] = 'pillow',
) -> UInt8[np.ndarray, 'h2 w2 3']:
  """Bilinear on uint8.

  Args:
    photo: RGB.
    height, width: of the result.
    resample: Pillow's way, antialiased when shrinking, as detectron2 tests; or
      OpenCV's, which is not, as mmsegmentation does.
  """
  if photo.shape[:2] == (height, width):
    return photo
  if resample == 'opencv':
    # Not needed by most, and its import takes a tenth of a second.
    import cv2

    return cv2.resize(photo, (width, height), interpolation=cv2.INTER_LINEAR)
  image = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
  return np.asarray(image)
