"""Panoptic maps from objects that overlap, and objects from panoptic maps."""

import json
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool
from pycocotools import mask as coco_mask

from maskclip_jax.data import records
from maskclip_jax.data.masks import run_lengths
from maskclip_jax.data.own.annotated import LabelMap, Row, row


def painted(
  objects: Sequence[Row], size: tuple[int, int], things: Bool[np.ndarray, ' ids']
) -> LabelMap:
  """The panoptic map that objects make: small ones over large ones, things over stuff.

  Stuff of one class is one segment, and what nothing covers is void. Crowds lie under
  the single objects. Areas and boxes are those of what is left to see.

  Args:
    objects: rows with masks; ids of their classes below the length of `things`.
    size: height and width of the photo.
    things: which ids are of things.
  """
  # As run lengths: the pixels of all masks of a large photo would not fit in memory.
  masks = [run_lengths(one['segmentation'], size) for one in objects]
  areas = [int(coco_mask.area(mask)) for mask in masks]

  def depth(position: int) -> tuple[bool, bool, int]:
    one = objects[position]
    return bool(things[one['category_id']]), not one['crowd'], -areas[position]

  values, rows, stuff = np.zeros(size, np.int32), [], {}
  for position in sorted(range(len(objects)), key=depth):
    category, crowd = objects[position]['category_id'], objects[position]['crowd']
    thing = bool(things[category])
    number = len(rows) + 1 if thing else stuff.setdefault(category, len(rows) + 1)
    if number > len(rows):
      rows.append(row(number, category, crowd=crowd and thing))
    values[coco_mask.decode(masks[position]).view(bool)] = number
  boxes = scipy.ndimage.find_objects(values, len(rows))
  counts = np.bincount(values.reshape(-1), minlength=len(rows) + 1).tolist()
  kept = [
    {**one, 'area': counts[one['id']], 'bbox': _bbox(box)}
    for one, box in zip(rows, boxes, strict=True)
    if box is not None
  ]
  return LabelMap(records.write_label_map(values), values, kept)


def lifted(segments: LabelMap, things: Bool[np.ndarray, ' ids']) -> list[Row]:
  """The things of a panoptic map as objects, each with the mask that is seen."""
  found = []
  for one in segments.rows:
    if things[one['category_id']]:
      mask = coco_mask.encode(np.asfortranarray(segments.values == one['id'], np.uint8))
      mask['counts'] = mask['counts'].decode()
      found.append({**one, 'segmentation': json.dumps(mask)})
  return found


def _bbox(box: tuple[slice, slice]) -> list[float]:
  rows, columns = box
  edges = columns.start, rows.start, columns.stop, rows.stop
  left, top, right, bottom = map(float, edges)
  return [left, top, right - left, bottom - top]
