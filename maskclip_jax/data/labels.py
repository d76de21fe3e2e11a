"""Label maps as PNG: reading any published kind exactly, and writing.

The published files are greyscale (ADE20K), palette (PASCAL VOC), 16-bit (ADE20K-847 and
PASCAL Context as we store them) and RGB-coded ids (COCO panoptic). OpenCV would turn a
palette into colours and Pillow's modes differ per kind, so the header decides.
"""

import io
import struct

import cv2
import numpy as np
from jaxtyping import Int32, Integer
from PIL import Image

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6


def read_label_map(png: bytes) -> Int32[np.ndarray, 'h w']:
  """Decodes a label PNG to its values.

  Returns:
    Grey or palette: the stored values; RGB: R + 256 G + 65536 B (COCO's panoptic ids).

  Raises:
    ValueError: no PNG, damaged, or of a kind that no published label file has.
  """
  depth, colour = _header(png)
  if colour == _PALETTE:
    try:
      return np.asarray(Image.open(io.BytesIO(png))).astype(np.int32)
    except OSError as error:
      raise ValueError(f'damaged PNG: {error}') from error
  if (colour, depth) not in ((_GREY, 8), (_GREY, 16), (_RGB, 8), (_RGBA, 8)):
    raise ValueError(
      f'a PNG of colour type {colour} with {depth} bits per value is not a label map: '
      'expected palette, greyscale of 8 or 16 bits, or RGB of 8'
    )
  values = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
  if values is None:
    raise ValueError('damaged PNG: the pixels cannot be decoded')
  if colour == _GREY:
    return values.astype(np.int32)
  # The bytes R, G, B and a fourth are one little-endian integer.
  rgba = cv2.cvtColor(values[..., :3], cv2.COLOR_BGR2RGBA)
  return rgba.view('<i4')[..., 0].astype(np.int32) & 0xFFFFFF


def _header(png: bytes) -> tuple[int, int]:
  if len(png) < 33 or png[:8] != _SIGNATURE:
    raise ValueError('not a PNG file')
  # Some decoders fill the missing rows of a truncated file with zeros, silently.
  if b'IEND' not in png[-64:]:
    raise ValueError('damaged PNG: its end is missing')
  return struct.unpack('>BB', png[24:26])


def write_label_map(values: Integer[np.ndarray, 'h w']) -> bytes:
  """Encodes values 0..65535 as greyscale PNG, 8-bit where they fit, else 16-bit.

  Raises:
    ValueError: a value does not fit in 16 bits.
  """
  low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
  if low < 0 or high > 65535:
    raise ValueError(f'label values {low}..{high} do not fit in a 16-bit PNG')
  dtype = np.uint8 if high < 256 else np.uint16
  ok, png = cv2.imencode('.png', values.astype(dtype))
  if not ok:
    raise ValueError(f'OpenCV cannot write a PNG of shape {values.shape}')
  return png.tobytes()
