"""ADE20K's object maps, and the panoptic labels that everybody makes from them.

Source: [masqclip 9.2]. An object map is a PNG whose red channel is the object class of
the 2017 challenge and whose green channel numbers the objects of the photo.
"""

import json
from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Int32
from pycocotools import mask as rle

Row = dict[str, Any]


def split_channels(
  colours: Int32[np.ndarray, 'h w'],
) -> tuple[Int32[np.ndarray, 'h w'], Int32[np.ndarray, 'h w']]:
  """Object class and object number of an object map read by `read_label_map`."""
  return colours % 256, colours // 256 % 256


def objects(
  kinds: Int32[np.ndarray, 'h w'],
  ids: Int32[np.ndarray, 'h w'],
  things: Bool[np.ndarray, ' k'],
) -> tuple[list[Row], list[Row]]:
  """Table rows of the objects, without and with masks.

  Args:
    kinds: object class of each pixel, from 1: the k-th is the k-th thing class.
    ids: object number of each pixel, 0 where there is none; becomes the row's `id`.
    things: which of the 150 classes are things.

  Raises:
    ValueError: an object has two classes, or a class that does not exist.
  """
  thing_classes = np.flatnonzero(things)
  rows, instances = [], []
  pairs = np.unique(ids * 256 + kinds)
  pairs = pairs[pairs >= 256]
  boxes = scipy.ndimage.find_objects(ids)
  for pair in pairs.tolist():
    number, kind = divmod(pair, 256)
    if not 1 <= kind <= len(thing_classes) or (pairs // 256 == number).sum() > 1:
      raise ValueError(
        f'object {number} has class {kind} in its red channel, which is '
        f'not one class of 1..{len(thing_classes)}: the file is damaged or not of '
        'annotations_instance'
      )
    mask = np.zeros(ids.shape, np.uint8, 'F')
    box = boxes[number - 1]
    mask[box] = ids[box] == number
    encoded = rle.encode(mask)
    encoded['counts'] = encoded['counts'].decode()
    row = _row(number, int(thing_classes[kind - 1]), box, int(mask[box].sum()))
    rows.append(row)
    instances.append({**row, 'segmentation': json.dumps(encoded)})
  return rows, instances


def panoptic(
  classes: Int32[np.ndarray, 'h w'],
  ids: Int32[np.ndarray, 'h w'],
  rows: list[Row],
  things: Bool[np.ndarray, ' k'],
) -> tuple[Int32[np.ndarray, 'h w'], list[Row]]:
  """Makes the panoptic map: stuff first, then the objects over it.

  Area and box of stuff are of its mask before objects cover it, and a segment that is
  covered wholly stays in the table: PQ's union uses these areas [masqclip 9.2].
  Thing pixels without an object become void.

  Args:
    classes: class of each pixel, negative where there is none.
    ids: object number of each pixel, 0 where there is none.
    rows: table rows of the objects.
    things: which classes are things.

  Returns:
    The map of ids, 1..N in the order of the table, and the table.
  """
  areas = np.bincount(classes[classes >= 0], minlength=len(things))
  boxes = scipy.ndimage.find_objects(classes + 1, max_label=len(things))
  segments = np.zeros(classes.shape, np.int32)
  table = []
  for index in np.flatnonzero((areas > 0) & ~things).tolist():
    row = _row(len(table) + 1, index, boxes[index], int(areas[index]))
    segments[boxes[index]][classes[boxes[index]] == index] = row['id']
    table.append(row)
  renumber = np.zeros(256, np.int32)
  for thing in rows:
    renumber[thing['id']] = len(table) + 1
    table.append({**thing, 'id': len(table) + 1})
  return np.where(ids > 0, renumber[ids], segments), table


def _row(number: int, index: int, box: tuple[slice, slice], area: int) -> Row:
  rows, columns = box
  bbox = (
    columns.start,
    rows.start,
    columns.stop - columns.start,
    rows.stop - rows.start,
  )
  return {
    'id': number,
    'class': index,
    'category_id': index,
    'crowd': False,
    'area': area,
    'bbox': bbox,
  }
