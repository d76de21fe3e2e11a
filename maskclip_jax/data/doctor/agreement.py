"""Checks between annotations of a photo, judged over many photos.

Official annotations disagree here and there, so single photos prove nothing; but a
class whose objects are mostly another class elsewhere was swapped or shifted.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Int32

from maskclip_jax.data.doctor.decoded import Decoded
from maskclip_jax.data.doctor.expectations import Expectations
from maskclip_jax.data.doctor.findings import Finding
from maskclip_jax.data.doctor.tables import odd_segments

# A class needs this many objects before its share counts.
_FEW = 3
_SHARE = 0.5
# Pixels of panoptic and semantic maps that must agree; objects cover some stuff.
_PIXELS = 0.9
# Official COCO has some odd areas and boxes; more than this share is a fault.
_ODD = 0.05
# Above this share, pixels that are not judged are more than a border.
_IGNORED = 0.5
_BOX_SLACK = 2.0
# Share of an object that no other object covers, for it to have a vote.
_ALONE = 0.25


@dataclasses.dataclass
class _Votes:
  """What the objects of each category are called by another annotation."""

  counts: dict[int, collections.Counter] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(collections.Counter)
  )
  examples: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)

  def add(self, category: int, other: int, image_id: str) -> None:
    self.counts[category][other] += 1
    self.examples.setdefault((category, other), image_id)

  def findings(self, kind: str, names: Mapping[int, str]) -> Iterator[Finding]:
    for category, counter in sorted(self.counts.items()):
      total = counter.total()
      other, times = counter.most_common(1)[0]
      if total < _FEW or other == category or times / total < _SHARE:
        continue
      detail = (
        f'{times} of {total} {names.get(category, category)} are '
        f'{names.get(other, "unlabelled" if other < 0 else other)}'
      )
      yield Finding(kind, detail, self.examples[category, other])


@dataclasses.dataclass
class _Odd:
  """How many objects have a property that few should have."""

  total: int = 0
  odd: int = 0
  example: tuple[str, str] = ('', '')

  def add(self, odd: bool, detail: str, image_id: str) -> None:
    self.total += 1
    self.odd += odd
    if odd and not self.example[0]:
      self.example = (detail, image_id)

  def findings(self, kind: str) -> Iterator[Finding]:
    if self.odd and self.odd > _ODD * self.total:
      detail, image_id = self.example
      share = f'{self.odd} of {self.total}, such as {detail}'
      yield Finding(kind, share, image_id)


class Agreement:
  """Collects votes photo by photo and judges at the end."""

  def __init__(self, facts: Expectations):
    self._facts = facts
    self._semantic, self._panoptic = _Votes(), _Votes()
    self._areas, self._boxes = _Odd(), _Odd()
    self._segment_areas, self._segment_boxes = _Odd(), _Odd()
    self._pixels = np.zeros(2, np.int64)
    self._worst = (1.0, '')
    self._values = np.zeros(65536, np.int64)

  def add(self, decoded: Decoded) -> None:
    """Takes one photo into account."""
    semantic = panoptic = None
    if decoded.semantic is not None:
      self._values += np.bincount(decoded.semantic.reshape(-1), minlength=65536)[:65536]
      semantic = self._facts.categories(decoded.semantic)
    if decoded.segments is not None:
      panoptic = _categories(decoded)
    self._segments(decoded)
    self._objects(decoded, semantic, panoptic)
    if semantic is not None and panoptic is not None:
      self._maps(decoded.record['image_id'], semantic, panoptic)

  def _segments(self, decoded: Decoded) -> None:
    image_id = decoded.record['image_id']
    for detail, area, box in odd_segments(decoded, self._facts):
      self._segment_areas.add(area, detail, image_id)
      self._segment_boxes.add(box, detail, image_id)

  def _objects(
    self,
    decoded: Decoded,
    semantic: Int32[np.ndarray, 'h w'] | None,
    panoptic: Int32[np.ndarray, 'h w'] | None,
  ) -> None:
    table, image_id = decoded.record['instances'], decoded.record['image_id']
    owners = np.zeros(decoded.size, np.int32)
    for mask in decoded.masks:
      if mask is not None:
        owners += mask
    for row, mask in enumerate(decoded.masks):
      if mask is None or table['crowd'][row] or not mask.any():
        continue
      category, box = int(table['category_id'][row]), _box(mask)
      # Where objects overlap, it is chance which of them a map shows.
      alone = mask[box] & (owners[box] == 1)
      if alone.sum() >= _ALONE * mask[box].sum():
        for votes, other in ((self._semantic, semantic), (self._panoptic, panoptic)):
          if other is not None:
            votes.add(category, _majority(other[box][alone]), image_id)
      name = f'object {table["id"][row]}'
      area, listed = int(mask.sum()), float(table['area'][row])
      # Polygons and pixels differ at the border, which is much of a small object.
      far = abs(area - listed) > 0.5 * max(area, listed) and max(area, listed) > 100
      self._areas.add(far, f'{name}: {listed:.0f} listed, {area} pixels', image_id)
      self._boxes.add(_outside(box, table['bbox'][row].tolist()), name, image_id)

  def _maps(
    self,
    image_id: str,
    semantic: Int32[np.ndarray, 'h w'],
    panoptic: Int32[np.ndarray, 'h w'],
  ) -> None:
    judged = (semantic >= 0) & (panoptic >= 0)
    if self._facts.merged:
      judged &= self._facts.things[np.maximum(panoptic, 0)]
    total, same = int(judged.sum()), int((judged & (semantic == panoptic)).sum())
    self._pixels += (same, total)
    if total and same / total < self._worst[0]:
      self._worst = (same / total, image_id)

  def findings(self) -> Iterator[Finding]:
    """What the votes prove."""
    names = self._facts.category_names()
    yield from self._semantic.findings('objects-semantic', names)
    yield from self._panoptic.findings('objects-panoptic', names)
    yield from self._segment_areas.findings('area')
    yield from self._segment_boxes.findings('box')
    yield from self._areas.findings('mask-area')
    yield from self._boxes.findings('mask-box')
    same, total = self._pixels.tolist()
    if total and same / total < _PIXELS:
      share = f'{100 * same / total:.0f} % of the pixels agree'
      yield Finding('panoptic-semantic', share, self._worst[1])
    yield from self._frequent()
    yield from self._ignored()

  def _ignored(self) -> Iterator[Finding]:
    total = int(self._values.sum())
    for value in self._facts.other_values if self._facts.own else ():
      share = int(self._values[value]) / max(total, 1)
      if share > _IGNORED:
        yield Finding('ignored', f'{100 * share:.0f} % of the pixels are {value}')

  def _frequent(self) -> Iterator[Finding]:
    names, facts = self._facts.value_names(), self._facts
    counts = {value: int(self._values[value]) for value in names}
    top = max(counts, key=counts.get, default=0)
    if facts.frequent and counts.get(top) and names[top] not in facts.frequent:
      share = 100 * counts[top] / max(int(self._values.sum()), 1)
      expected = ' or '.join(facts.frequent[:3])
      detail = f'{names[top]} ({share:.0f} % of the pixels), expected {expected}'
      yield Finding('frequent', detail)


def _categories(decoded: Decoded) -> Int32[np.ndarray, 'h w']:
  """Category id at each pixel of a panoptic map, -1 where there is none."""
  categories = decoded.record['segments_info']['category_id']
  return np.append(categories, -1)[decoded.rows]


def _box(mask: Bool[np.ndarray, 'h w']) -> tuple[slice, slice]:
  """The smallest window around a mask that is not empty."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _majority(values: Int32[np.ndarray, ' n']) -> int:
  # From -1 on.
  return int(np.bincount(values + 1).argmax()) - 1


def _outside(box: tuple[slice, slice], bbox: list[float]) -> bool:
  rows, columns = box
  x, y, width, height = bbox
  return bool(
    columns.start < x - _BOX_SLACK
    or rows.start < y - _BOX_SLACK
    or columns.stop - 1 > x + width + _BOX_SLACK
    or rows.stop - 1 > y + height + _BOX_SLACK
  )
