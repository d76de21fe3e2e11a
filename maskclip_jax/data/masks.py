"""Masks of objects as COCO stores them: polygons or run lengths, as JSON text."""

import json

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco_mask

# What decoding raises where the stored value is not a mask of the photo.
MASK_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError)


def decode_mask(text: str, size: tuple[int, int]) -> Bool[np.ndarray, 'h w']:
  """The pixels of a stored mask.

  Outlines of fewer than three points enclose nothing; COCO has some.

  Args:
    text: a JSON list of polygons, or run lengths.
    size: height and width of the photo.

  Raises:
    MASK_ERRORS: the value is neither, or of another size.
  """
  value = json.loads(text)
  if isinstance(value, list):
    outlines = [outline for outline in value if len(outline) >= 6]
    if not outlines:
      return np.zeros(size, bool)
    value = coco_mask.merge(coco_mask.frPyObjects(outlines, *size))
  elif isinstance(value['counts'], list):
    value = coco_mask.frPyObjects(value, *size)
  if tuple(value['size']) != tuple(size):
    raise ValueError(f'is {value["size"][1]} x {value["size"][0]}')
  return coco_mask.decode([value])[..., 0].astype(bool)
