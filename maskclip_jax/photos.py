"""Reading photos as people have them: any mode, any orientation, one clear error."""

import contextlib
import contextvars
import functools
import io
import os
import pathlib
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, UnidentifiedImageError

SUFFIXES = frozenset(
  {
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.avif'),
    *('.bmp', '.tif', '.tiff', '.gif', '.ppm', '.jp2'),
  }
)

# Formats of pictures alone, as Pillow calls them: others that it knows start programs.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'AVIF', 'BMP', 'TIFF', 'GIF', 'PPM', 'JPEG2000')

# Bits that cameras, microscopes and scanners store in integers of 16.
_DEPTHS = (8, 10, 12, 14, 16)
# How far arithmetic leaves floats outside of 0..1.
_ROUNDING = 1e-3

_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 0x0102
# Tags of TIFF: 0 in the first is white; 2 in the second is colours in planes.
_PHOTOMETRIC, _PLANAR = 0x0106, 0x011C
# What turns a photo upright, by its EXIF orientation; 1 is upright.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_PNG = b'\x89PNG\r\n\x1a\n'
# Texts and colour profiles in a PNG, which Pillow refuses from 1 MB on.
_PNG_TEXTS = (b'tEXt', b'zTXt', b'iTXt', b'iCCP')


# What a photo may be given as: a path, a Pillow image, or an array.
Photo = str | os.PathLike | Image.Image | Num[np.ndarray, '...']


class PhotoWarning(UserWarning):
  """What had to be assumed to read a photo."""


_heard = contextvars.ContextVar[list[str] | None]('heard', default=None)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
  """What would be a `PhotoWarning` inside, as texts in a list.

  Only of this thread, unlike `warnings.catch_warnings`.
  """
  texts: list[str] = []
  token = _heard.set(texts)
  try:
    yield texts
  finally:
    _heard.reset(token)


class PhotoTooLarge(ValueError):
  """A photo has more pixels than anybody should decode."""


def open_photo(photo: Photo, white: float | None = None) -> UInt8[np.ndarray, 'h w 3']:
  """A photo in any form as upright RGB, 0..255; see `read_photo`."""
  if isinstance(photo, Image.Image):
    return photo_from_pil(photo, white)
  if isinstance(photo, str | os.PathLike):
    return read_photo(photo, white)
  return photo_from_array(photo, white)


def check_list(photo_list: Iterable[Photo], function: str) -> None:
  """Refuses one photo in place of several: its rows would be taken for photos.

  Args:
    photo_list: what was given to a function that takes several.
    function: its name.

  Raises:
    ValueError: it is one photo.
  """
  one = isinstance(photo_list, str | bytes | os.PathLike | Image.Image | Mapping)
  if isinstance(photo_list, list | tuple) and photo_list:
    shape = _shape(photo_list[0])
    one = len(shape) == 1 or shape[1:] in ((3,), (4,))
  elif not one and hasattr(photo_list, 'shape'):
    one = len(photo_list.shape) in (0, 2, 3)
  if one or not isinstance(photo_list, Iterable):
    raise ValueError(
      f'{function} takes a list of photos: write {function}([photo], ...) for one'
    )


def _shape(value: Any) -> tuple[int, ...]:
  """The shape of an array or of nested lists; empty for anything else."""
  if not isinstance(value, list | tuple) and not hasattr(value, 'shape'):
    return ()
  try:
    return tuple(np.shape(value))
  except ValueError:
    return ()


def read_photo(
  path: str | pathlib.Path, white: float | None = None
) -> UInt8[np.ndarray, 'h w 3']:
  """Reads an image file as upright RGB, 0..255.

  EXIF orientation is applied. Grey, palette, RGBA (over white), 16-bit and float images
  are accepted; of an animation the first frame is read.

  Args:
    path: the file.
    white: the value that is white in images of more than 8 bits; see
      `photo_from_array`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not an image, is truncated, or is too large.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    what = 'is a folder' if path.is_dir() else 'does not exist'
    raise FileNotFoundError(f'{path} {what}: give the path of an image file')
  return _photo(functools.partial(path.open, 'rb'), str(path), white)


def photo_from_bytes(
  content: bytes, name: str, white: float | None = None
) -> UInt8[np.ndarray, 'h w 3']:
  """The content of an image file as upright RGB, 0..255; see `read_photo`.

  Args:
    content: the file.
    name: what to call it where it cannot be read.
    white: as of `read_photo`.

  Raises:
    ValueError: it is not an image, is truncated, or is too large.
  """
  return _photo(functools.partial(io.BytesIO, content), name, white)


def photo_size(file: BinaryIO, name: str) -> tuple[int, int]:
  """Height and width of an image file as it lies there, from its head alone.

  For files of strangers, before anything is decoded.

  Args:
    file: stands at its beginning, before and after.
    name: what to call it where it cannot be read.

  Raises:
    PhotoTooLarge: Pillow's own limit is exceeded.
    ValueError: it is not an image of `FORMATS`.
  """
  Image.init()
  formats = [known for known in FORMATS if known in Image.OPEN]
  try:
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', module=r'PIL\.')
      image = Image.open(file, formats=formats)
    return image.height, image.width
  except Image.DecompressionBombError:
    raise _too_large(name) from None
  except Exception:
    # Decoders raise errors of any type on damage.
    raise ValueError(
      f'{name} is not an image that can be read: send {", ".join(FORMATS[:4])} or TIFF'
    ) from None
  finally:
    file.seek(0)


def _too_large(name: str) -> PhotoTooLarge:
  return PhotoTooLarge(
    f'{name} has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels: shrink '
    'or crop it first'
  )


def _photo(
  opened: Callable[[], BinaryIO], name: str, white: float | None
) -> UInt8[np.ndarray, 'h w 3']:
  """What `read_photo` returns for a file of any kind."""
  try:
    with opened() as file:
      pixels, known_white, turn = _decode(file)
  except UnidentifiedImageError:
    raise ValueError(
      f'{name} is not an image that can be read: check that the file is what its name '
      'says, or convert it to PNG or JPEG'
    ) from None
  except Image.DecompressionBombError:
    raise _too_large(name) from None
  except PermissionError:
    raise
  except Exception as error:
    # Decoders raise errors of any type on damage in the middle of a file.
    reason = str(error) or type(error).__name__
    raise ValueError(
      f'{name} is damaged ({reason}): fetch or export the image again'
    ) from None
  return _turned(photo_from_array(pixels, white or known_white, name), turn)


def _decode(file: BinaryIO):
  """What `_pixels` returns for a file."""
  with warnings.catch_warnings():
    # Of odd EXIF, and from 89 megapixels on; Pillow's hard limit (twice that) is ours.
    warnings.filterwarnings('ignore', module=r'PIL\.')
    try:
      # Of a name Pillow would map grey TIFF into memory, and mix up turned ones.
      with Image.open(file) as image:
        return _pixels(image)
    except ValueError:
      file.seek(0)
      content = file.read()
      if not content.startswith(_PNG):
        raise
    with Image.open(io.BytesIO(_without_texts(content))) as image:
      return _pixels(image)


def _without_texts(png: bytes) -> bytes:
  """A PNG without its texts and its colour profile."""
  kept, at = [_PNG], len(_PNG)
  while at + 12 <= len(png):
    (length,) = struct.unpack_from('>I', png, at)
    if png[at + 4 : at + 8] not in _PNG_TEXTS:
      kept.append(png[at : at + 12 + length])
    at += 12 + length
  return b''.join(kept)


def photo_from_pil(
  image: Image.Image, white: float | None = None
) -> UInt8[np.ndarray, 'h w 3']:
  """A Pillow image as upright RGB, 0..255; see `read_photo`."""
  pixels, known_white, turn = _pixels(image)
  return _turned(photo_from_array(pixels, white or known_white), turn)


def _pixels(
  image: Image.Image,
) -> tuple[Num[np.ndarray, '...'], int | None, Image.Transpose | None]:
  """The pixels of an image, what is white where the file says it, and how to turn."""
  deep = _deep_pixels(image)  # Before EXIF: looking for it decodes a PNG.
  image.load()  # Before EXIF: Pillow turns a TIFF, and then says so.
  turn = _turn(image)
  if deep is not None:
    return deep, None, turn
  if image.mode.startswith('I') or image.mode == 'F':
    tags = getattr(image, 'tag_v2', {})
    bits = tags.get(_BITS_PER_SAMPLE, (0,))[0]
    pixels = np.asarray(image)
    if tags.get(_PHOTOMETRIC) == 0 and image.mode.startswith('I'):
      pixels = 2**bits - 1 - pixels.astype(np.int64)
    return pixels, 2**bits - 1 if 8 < bits < 16 else None, turn
  if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
    image = image.convert('RGBA')
    canvas = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(canvas, image)
  return np.asarray(image.convert('RGB')), None, turn


def _turn(image: Image.Image) -> Image.Transpose | None:
  """What makes an image upright; None where its EXIF does not say or is broken."""
  try:
    orientation = image.getexif().get(_ORIENTATION)
  except Exception:
    # Cameras and tools write EXIF that breaks its reader; the pixels are fine.
    return None
  return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _turned(
  photo: UInt8[np.ndarray, 'h w 3'], turn: Image.Transpose | None
) -> UInt8[np.ndarray, 'h2 w2 3']:
  if turn is None:
    return photo
  return np.asarray(Image.fromarray(photo).transpose(turn))


def _deep_pixels(image: Image.Image) -> Num[np.ndarray, 'h w c'] | None:
  """Colours of 16 bits, of which Pillow would keep the upper 8; None for others."""
  if image.mode not in ('RGB', 'RGBA') or getattr(image, 'fp', None) is None:
    return None
  tags = getattr(image, 'tag_v2', {})
  if tags.get(_PLANAR) == 2 and max(tags.get(_BITS_PER_SAMPLE, (0,))) > 8:
    # Both Pillow and OpenCV mix the planes up.
    raise UnidentifiedImageError('a TIFF with 16-bit colours in planes is not read')
  if not any('16' in str(part.args) for part in image.tile) or image.tell():
    return None
  image.fp.seek(0)
  content = np.frombuffer(image.fp.read(), np.uint8)
  # Pillow sees damage that OpenCV passes over.
  image.load()
  pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
  if pixels is None or pixels.dtype == np.uint8 or pixels.ndim != 3:
    return None
  return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def check_white(white: float | None) -> None:
  """Raises ValueError unless this can be the number that is white, or is None."""
  number = isinstance(white, int | float | np.number) and not isinstance(white, bool)
  if white is not None and not (number and 0 < white < np.inf):
    raise ValueError(f'white must be a positive number, not {white!r}')


def photo_from_array(
  array: Num[np.ndarray, '...'], white: float | None = None, name: str = 'the photo'
) -> UInt8[np.ndarray, 'h w 3']:
  """An array as RGB, 0..255.

  Args:
    array: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); uint8, wider integers, or floats
      in 0..1. What numpy makes an array of will do: lists, tensors.
    white: the number that stands for white, in all but uint8 and bool; larger ones are
      white too. By default 1 of floats, and of integers the largest number of 8, 10,
      12, 14 or 16 bits that the photo does not exceed, which a `PhotoWarning` tells
      where it is a guess.
    name: what to call the photo in a message.

  Raises:
    ValueError: another shape or type, an empty image, NaN, or numbers out of range.
  """
  array = _numbers(array, name)
  if array.dtype == bool:
    array = array.astype(np.uint8) * 255
  elif array.dtype != np.uint8:
    colours, alpha = (array, None) if array.ndim == 2 else np.split(array, [3], -1)
    scaled = _scaled(colours, white, name)
    if array.shape[2:] == (4,):
      # What was guessed of the colours has been told.
      with heard():
        opaque = white if alpha.dtype.kind == 'f' and alpha.max() > 1 else None
        scaled = np.concatenate([scaled, _scaled(alpha, opaque, name)], -1)
    array = scaled
  if array.ndim == 2:
    return np.repeat(array[..., None], 3, axis=-1)
  if array.shape[-1] == 4:
    image = Image.fromarray(np.ascontiguousarray(array), 'RGBA')
    return _pixels(image)[0]
  return array


def _numbers(array: Num[np.ndarray, '...'], name: str) -> Num[np.ndarray, '...']:
  """Real numbers in the shape of a photo: (h, w), (h, w, 3) or (h, w, 4)."""
  if isinstance(array, bytes | bytearray | memoryview) or hasattr(array, 'read'):
    raise ValueError(
      f'{name} is a {type(array).__name__}: give a path, an array, or what '
      'PIL.Image.open makes of it'
    )
  if hasattr(array, 'detach'):
    array = array.detach().cpu()
    array = array.float() if str(array.dtype) == 'torch.bfloat16' else array
  try:
    array = np.asarray(array)
  except (TypeError, ValueError, RuntimeError) as error:
    raise ValueError(f'{name} is not an array of numbers: {error}') from None
  # bfloat16 and its like are no numbers to numpy, but can be cast to one.
  if array.dtype.isbuiltin == 2 and np.can_cast(array.dtype, np.float32):
    array = array.astype(np.float32)
  if array.dtype.kind not in 'biuf':
    raise ValueError(f'{name} must be of numbers, not of {array.dtype}')
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  channels = array.shape[2:]
  if array.ndim not in (2, 3) or 0 in array.shape or channels not in ((), (3,), (4,)):
    raise ValueError(
      f'{name} must be (height, width) or (height, width, 3 or 4), not {array.shape}'
    )
  return array


def _scaled(
  array: Num[np.ndarray, '...'], white: float | None, name: str
) -> UInt8[np.ndarray, '...']:
  """Integers or floats as 0..255."""
  check_white(white)
  lowest, highest = array.min(), array.max()
  if not np.isfinite([lowest, highest]).all():
    raise ValueError(f'{name} has numbers that are not finite')
  floats = array.dtype.kind == 'f'
  margin = _ROUNDING if floats else 0.0
  largest = 1 if floats else _largest(array.dtype, int(highest), name, white is None)
  limit = white or largest
  if lowest < -margin * limit or (white is None and highest > limit + margin):
    expected = '0..1' if floats else '0..255 or 0..65535'
    raise ValueError(
      f'{name} has {"floats" if floats else "integers"} from {lowest} to {highest}, '
      f'expected within {expected}: bring them there, or set white to the number that '
      'is white'
    )
  scaled = np.multiply(array, np.float32(255 / limit), dtype=np.float32)
  return np.round(scaled.clip(0, 255)).astype(np.uint8)


def _largest(dtype: np.dtype, highest: int, name: str, tell: bool) -> int:
  """The largest number of the depth that integers seem to have."""
  bits = next((bits for bits in _DEPTHS if highest < 2**bits), _DEPTHS[-1])
  largest = 2**bits - 1
  # In a wide type 0..255 is plain; in 16 bits it may be an almost black picture.
  if tell and bits < 16 and highest > 0 and (bits > 8 or dtype.itemsize == 2):
    text = (
      f'{name} has integers up to {highest} in {8 * dtype.itemsize} bits, so '
      f'{largest} was taken for white: set white where it is another number'
    )
    if (texts := _heard.get()) is not None:
      texts.append(text)
    else:
      warnings.warn(text, PhotoWarning, stacklevel=2)
  return largest


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
