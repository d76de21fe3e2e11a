"""The content of result files: id maps as PNG, masks as COCO run lengths, JSON."""

import json

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from pycocotools import mask as coco


def encode_rle(mask: Bool[np.ndarray, 'height width']) -> dict:
  """COCO's compressed run lengths: {'size': [height, width], 'counts': ascii}."""
  rle = coco.encode(np.asfortranarray(mask, np.uint8))
  return {'size': [int(n) for n in rle['size']], 'counts': rle['counts'].decode()}


def decode_rle(rle: dict) -> Bool[np.ndarray, 'height width']:
  """The mask that `encode_rle` encoded."""
  return coco.decode(rle).astype(bool)


def rle_box(rle: dict) -> tuple[int, int, int, int]:
  """Left, top, right and bottom (the last two exclusive); zeros for an empty mask."""
  left, top, width, height = (int(n) for n in coco.toBbox(rle))
  return left, top, left + width, top + height


def outline(
  mask: Bool[np.ndarray, 'height width'],
) -> tuple[dict, tuple[int, int, int, int]]:
  """Run lengths and box of a mask."""
  rle = encode_rle(mask)
  return rle, rle_box(rle)


def panoptic_rgb(
  ids: Int[np.ndarray, 'height width'],
) -> UInt8[np.ndarray, 'height width 3']:
  """COCO's colour code of segment ids: id = red + 256 green + 65536 blue."""
  return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)


def png_bytes(image: np.ndarray) -> bytes:
  """A PNG of an RGB picture, or of a map of numbers in 8 bits, or 16 if needed.

  Raises:
    ValueError: numbers outside 0..65535.
  """
  if image.ndim == 3:
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  else:
    lowest, highest = int(image.min()), int(image.max())
    if lowest < 0 or highest > 65535:
      raise ValueError(f'numbers from {lowest} to {highest} do not fit 16 bits')
    image = image.astype(np.uint8 if highest < 256 else np.uint16)
  # Level 3 is several times faster than the default and a few percent larger.
  done, encoded = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
  if not done:
    raise ValueError(f'a picture of {image.shape} cannot be written as PNG')
  return encoded.tobytes()


def json_bytes(content: dict) -> bytes:
  """UTF-8 JSON with readable letters."""
  return json.dumps(content, ensure_ascii=False, indent=1).encode() + b'\n'
