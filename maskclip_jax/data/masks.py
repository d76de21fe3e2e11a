"""Masks of objects as COCO stores them: polygons or run lengths, as JSON text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as coco_mask

from maskclip_jax import plain
from maskclip_jax.names import shown

# What decoding raises where the stored value is not a mask of the photo.
MASK_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
# Drawing takes memory by the length of an outline, outside the photo too.
_FAR = 16
# Digits of five bits of a length below 2^32, with a sign.
_DIGITS = 7


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


def check_runs(counts: Any, size: tuple[int, int]) -> None:
  """Finds that run lengths cover their photo.

  pycocotools does not: of shorter ones it returns memory as it finds it, and comparing
  longer ones takes all memory there is.

  Args:
    counts: a list of lengths, or COCO's text of them.
    size: height and width of the photo.

  Raises:
    ValueError: they cover less or more, or are not lengths.
  """
  lengths = np.asarray(counts) if isinstance(counts, list) else _run_lengths(counts)
  kind = lengths.dtype.kind
  if lengths.ndim != 1 or kind not in 'iuf' or not np.all(lengths == lengths // 1):
    raise ValueError('run lengths are whole numbers')
  if lengths.min(initial=0) < 0 or lengths.sum() != size[0] * size[1]:
    raise ValueError(
      f'the runs of a mask cover {int(lengths.sum())} pixels, and the photo has '
      f'{size[0] * size[1]}'
    )


def _run_lengths(text: str | bytes) -> Int[np.ndarray, ' n']:
  """The lengths in COCO's text: digits of five bits, and from the fourth on the
  difference to the last but one."""
  if not isinstance(text, bytes):
    text = text.encode('ascii')
  codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
  ends = np.flatnonzero(codes & 32 == 0)
  if not len(ends) or ends[-1] != len(codes) - 1 or not np.all(codes >> 6 == 0):
    raise ValueError("the run lengths are not COCO's text")
  starts = np.concatenate([[0], ends[:-1] + 1])
  digits = ends - starts + 1
  if digits.max() > _DIGITS:
    raise ValueError("the run lengths are not COCO's text")
  places = np.arange(len(codes)) - np.repeat(starts, digits)
  values = np.add.reduceat((codes & 31) << (5 * places), starts)
  values -= np.where(codes[ends] & 16, 1 << (5 * digits), 0)
  for chain in (values[1::2], values[2::2]):
    np.cumsum(chain, out=chain)
  return values


def run_lengths(text: str, size: tuple[int, int]) -> dict[str, Any]:
  """A stored mask as pycocotools has it, which takes little memory.

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
      return coco_mask.encode(np.zeros(size, np.uint8, 'F'))
    return coco_mask.merge(coco_mask.frPyObjects(outlines, *size))
  if tuple(value['size']) != tuple(size):
    raise ValueError(
      f'is {value["size"][1]} x {value["size"][0]}, and the photo {size[1]} x {size[0]}'
    )
  check_runs(value['counts'], size)
  if isinstance(value['counts'], list):
    return coco_mask.frPyObjects(value, *size)
  return value


def decode_mask(text: str, size: tuple[int, int]) -> Bool[np.ndarray, 'h w']:
  """The pixels of a stored mask; arguments and errors as of `run_lengths`."""
  return coco_mask.decode([run_lengths(text, size)])[..., 0].astype(bool)
