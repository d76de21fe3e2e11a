"""Checks of one photo's tables against its maps and against the vocabulary."""

from collections.abc import Iterator

import numpy as np
import scipy.ndimage
from pycocotools import mask as coco_mask

from maskclip_jax.data.doctor.decoded import Decoded
from maskclip_jax.data.doctor.expectations import Expectations
from maskclip_jax.data.doctor.findings import Finding
from maskclip_jax.data.examples import VOID
from maskclip_jax.data.masks import run_lengths
from maskclip_jax.data.records import Table

# Areas in official JSON are pixel counts; leave room for rounding.
_AREA_TOLERANCE = 0.01
_BOX_TOLERANCE = 1
# Intersection over union from which on two outlines are of one object.
_SAME = 0.9


def check_record(decoded: Decoded, facts: Expectations) -> list[Finding]:
  """All that must hold within one record."""
  findings = [
    *_classes(decoded.record['segments_info'], facts),
    *_classes(decoded.record['instances'], facts),
    *_panoptic_kinds(decoded, facts),
    *_panoptic_pixels(decoded, facts),
    *_objects(decoded, facts),
    *_values(decoded, facts),
    *(_doubled(decoded, facts) if facts.own else ()),
  ]
  image_id = decoded.record['image_id']
  return [Finding(found.kind, found.detail, image_id) for found in findings]


def _classes(table: Table, facts: Expectations) -> Iterator[Finding]:
  ids, counts = np.unique(table['id'], return_counts=True)
  if (counts > 1).any():
    yield Finding('same-id', f'id {ids[counts > 1][0]}')
  expected = facts.positions[np.clip(table['category_id'], 0, 65535)]
  for row in np.flatnonzero(expected < 0)[:1]:
    category = table['category_id'][row]
    yield Finding('category', f'id {category}, class {table["class"][row]}')
  for row in np.flatnonzero((expected >= 0) & (expected != table['class']))[:1]:
    category = table['category_id'][row]
    yield Finding(
      'class', f'{table["class"][row]} for category {category}, not {expected[row]}'
    )


def _panoptic_kinds(decoded: Decoded, facts: Expectations) -> Iterator[Finding]:
  table, names = decoded.record['segments_info'], facts.category_names()
  stuff = ~facts.things[np.clip(table['category_id'], 0, 65535)]
  categories, counts = np.unique(table['category_id'][stuff], return_counts=True)
  for category in categories[counts > 1][:1]:
    times = counts[categories == category][0]
    yield Finding('stuff-twice', f'{times} of {names.get(int(category), category)}')
  for category in table['category_id'][stuff & table['crowd']][:1]:
    yield Finding('stuff-crowd', names.get(int(category), str(category)))


def _panoptic_pixels(decoded: Decoded, facts: Expectations) -> Iterator[Finding]:
  table = decoded.record['segments_info']
  if decoded.segments is None:
    if len(table['id']) and not decoded.record['segments']:
      yield Finding('no-panoptic', f'{len(table["id"])} segments')
    return
  unknown = decoded.segments[(decoded.rows == VOID) & (decoded.segments != 0)]
  if len(unknown):
    yield Finding(
      'id-without-row', f'{len(np.unique(unknown))} ids, {len(unknown)} pixels'
    )
  stuff = ~facts.things[np.clip(table['category_id'], 0, 65535)]
  shown = np.zeros(len(table['id']) + 1, bool)
  shown[np.unique(decoded.rows)] = True
  lacking = table['id'][~shown[:-1] & ~(facts.covered & stuff)]
  if len(lacking):
    yield Finding('row-without-id', f'{len(lacking)}, the first is {lacking[0]}')


def odd_segments(
  decoded: Decoded, facts: Expectations
) -> Iterator[tuple[str, bool, bool]]:
  """Compares areas and boxes of the panoptic table with the pixels of its map.

  Yields:
    For each segment that the map has: the figures, whether the area is wrong, and
    whether pixels lie outside the box.
  """
  if decoded.rows is None:
    return
  table = decoded.record['segments_info']
  count = len(table['id'])
  areas = np.bincount(decoded.rows.reshape(-1) + 1, minlength=count + 1)[1:].tolist()
  boxes = scipy.ndimage.find_objects(decoded.rows.astype(np.int32) + 1, count)
  stuff = ~facts.things[np.clip(table['category_id'], 0, 65535)]
  for row in np.flatnonzero(areas).tolist():
    area, listed = areas[row], float(table['area'][row])
    covered = facts.covered and stuff[row]
    fits = area <= listed if covered else _close(area, listed)
    detail = f'segment {table["id"][row]}: {listed:.0f} listed, {area} pixels'
    yield detail, not fits, not _inside(boxes[row], table['bbox'][row].tolist())


def _close(area: float, listed: float) -> bool:
  return abs(area - listed) <= max(1.0, _AREA_TOLERANCE * listed)


def _inside(extent: tuple[slice, slice], bbox: list[float]) -> bool:
  rows, columns = extent
  x, y, width, height = bbox
  return (
    columns.start >= x - _BOX_TOLERANCE
    and rows.start >= y - _BOX_TOLERANCE
    and columns.stop <= x + width + _BOX_TOLERANCE
    and rows.stop <= y + height + _BOX_TOLERANCE
  )


def _objects(decoded: Decoded, facts: Expectations) -> Iterator[Finding]:
  table, names = decoded.record['instances'], facts.category_names()
  known = facts.positions[np.clip(table['category_id'], 0, 65535)] >= 0
  stuff = known & ~facts.things[np.clip(table['category_id'], 0, 65535)]
  for category in table['category_id'][stuff][:1]:
    yield Finding('stuff-object', names.get(int(category), str(category)))
  empty = [
    number
    for number, mask in zip(table['id'].tolist(), decoded.masks, strict=True)
    if mask is not None and not mask.any()
  ]
  if empty:
    yield Finding('empty-mask', f'object {empty[0]}')


def _values(decoded: Decoded, facts: Expectations) -> Iterator[Finding]:
  if decoded.semantic is None:
    return
  values = np.flatnonzero(np.bincount(decoded.semantic.reshape(-1)))
  wrong = values[~facts.allowed[np.clip(values, 0, 65535)]]
  if len(wrong):
    yield Finding('value', ', '.join(map(str, wrong[:5].tolist())))


def _doubled(decoded: Decoded, facts: Expectations) -> Iterator[Finding]:
  """Pairs of objects with nearly the same mask."""
  table, names = decoded.record['instances'], facts.category_names()
  rows = [i for i, mask in enumerate(decoded.masks) if mask is not None and mask.any()]
  rows = [row for row in rows if not table['crowd'][row]]
  masks = [run_lengths(table['segmentation'][row], decoded.size) for row in rows]
  shares = coco_mask.iou(masks, masks, [0] * len(masks)) if masks else np.zeros((0, 0))
  for first, second in np.argwhere(np.triu(shares, 1) >= _SAME).tolist():
    one, other = (
      f'{table["id"][row]} ({names.get(int(table["category_id"][row]), "?")})'
      for row in (rows[first], rows[second])
    )
    yield Finding('doubled', f'objects {one} and {other}')
