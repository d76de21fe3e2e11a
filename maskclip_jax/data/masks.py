"""Masks of objects as COCO stores them: polygons or run lengths, as JSON text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco_mask

from maskclip_jax import plain
from maskclip_jax.names import shown

# What decoding raises where the stored value is not a mask of the photo.
MASK_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
# Drawing takes memory by the length of an outline, outside the photo too.
_FAR = 16


def check_outlines(outlines: Sequence[Any], size: tuple[int, int]) -> None:
  """Finds that outlines are numbers, and near their photo.

  Args:
    outlines: lists of x, y, x, y, ... in pixels.
    size: height and width of the photo.

  Raises:
    ValueError: they are not.
  """
  limit = _FAR * max(size)
  for outline in outlines:
    for value in outline if isinstance(outline, list) else [outline]:
      if not isinstance(value, int | float) or not abs(value) <= limit:
        raise ValueError(
          f'an outline has a point at {shown(value)}, and the photo is {size[1]} x '
          f'{size[0]}'
        )


def check_near(text: str, size: tuple[int, int]) -> None:
  """Fails where a stored mask has outlines far from its photo; see `check_outlines`."""
  value = plain.parse_json(text, 'the mask')
  if isinstance(value, list):
    check_outlines(value, size)


def decode_mask(text: str, size: tuple[int, int]) -> Bool[np.ndarray, 'h w']:
  """The pixels of a stored mask.

  Outlines of fewer than three points enclose nothing; COCO has some.

  Args:
    text: a JSON list of polygons, or run lengths.
    size: height and width of the photo.

  Raises:
    MASK_ERRORS: the value is neither, or of another size.
  """
  value = plain.parse_json(text, 'the mask')
  if isinstance(value, list):
    check_outlines(value, size)
    outlines = [outline for outline in value if len(outline) >= 6]
    if not outlines:
      return np.zeros(size, bool)
    value = coco_mask.merge(coco_mask.frPyObjects(outlines, *size))
  elif isinstance(value['counts'], list):
    value = coco_mask.frPyObjects(value, *size)
  if tuple(value['size']) != tuple(size):
    raise ValueError(f'is {value["size"][1]} x {value["size"][0]}')
  return coco_mask.decode([value])[..., 0].astype(bool)
