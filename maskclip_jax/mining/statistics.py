"""What the notes of all shards say together, read once."""

import collections
import dataclasses
import heapq
import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from maskclip_jax.mining.job import Shard

# Pairs to choose the shown ones from: of a photo and of a noun one is shown.
_CANDIDATES = 400
_NUMBERS = re.compile(r'\d+')


@dataclasses.dataclass(frozen=True)
class NotedPair:
  """A pair as the notes have it.

  Attributes:
    shard, ordinal: which file, and the how manieth pair of it.
    photo: position in the source.
    key: of the photo.
    noun, score, lead, iou, box: see `Pair`; None for no lead or no ground truth.
    size: of the photo, as the box counts.
  """

  shard: int
  ordinal: int
  photo: int
  key: str
  noun: str
  score: float
  lead: float | None
  iou: float | None
  box: tuple[int, int, int, int]
  size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Numbers of a mined set.

  Attributes:
    photos: how many.
    problems: why photos gave no pair, and how many for each reason.
    per_photo: how many photos have 0, 1, 2, ... pairs.
    nouns: how often each noun occurs.
    scores, leads, overlaps: of every pair, in order; NaN for none.
    overlap_of_noun: mean IoU of nouns with ground truth.
    best, worst, doubtful: pairs to look at: of the highest and the lowest score, and
      others whose region fits another noun of the photo much better.
  """

  photos: int
  problems: dict[str, int]
  per_photo: tuple[int, ...]
  nouns: dict[str, int]
  scores: Float[np.ndarray, ' n']
  leads: Float[np.ndarray, ' n']
  overlaps: Float[np.ndarray, ' n']
  overlap_of_noun: dict[str, float]
  best: tuple[NotedPair, ...]
  worst: tuple[NotedPair, ...]
  doubtful: tuple[NotedPair, ...]

  @property
  def pairs(self) -> int:
    return len(self.scores)


class _Chosen:
  """The pairs of the lowest rank, of every photo and noun at most one."""

  def __init__(self, rank: Callable[[NotedPair], float | None]):
    self._rank = rank
    self._heap: list[tuple[float, int, NotedPair]] = []

  def add(self, pair: NotedPair, number: int) -> None:
    rank = self._rank(pair)
    if rank is None:
      return
    entry = -rank, -number, pair
    if len(self._heap) < _CANDIDATES:
      heapq.heappush(self._heap, entry)
    else:
      heapq.heappushpop(self._heap, entry)

  def take(
    self, count: int, without: Sequence[NotedPair] = ()
  ) -> tuple[NotedPair, ...]:
    chosen, nouns = [], set()
    photos = {pair.photo for pair in without}
    for *_, pair in sorted(self._heap, key=lambda entry: entry[:2], reverse=True):
      if pair.photo in photos or pair.noun in nouns or len(chosen) == count:
        continue
      chosen.append(pair)
      photos.add(pair.photo)
      nouns.add(pair.noun)
    return tuple(chosen)


def collect(shards: Sequence[Shard], shown: int) -> Statistics:
  """Reads the notes.

  Args:
    shards: all of them, mined.
    shown: how many pairs of each sort to choose for pictures.
  """
  photos, problems, per_photo = 0, collections.Counter(), collections.Counter()
  nouns, judged = collections.Counter(), collections.defaultdict(list)
  columns = {name: array('d') for name in ('score', 'lead', 'iou')}
  best, worst = _Chosen(lambda p: -p.score), _Chosen(lambda p: p.score)
  doubtful = _Chosen(lambda p: p.lead)
  for shard in shards:
    ordinal = 0
    for line in shard.lines():
      photos += 1
      mined = line.get('pairs', ())
      per_photo[len(mined)] += 1
      if not mined:
        problems[_sort(line['problem'])] += 1
      for values in mined:
        pair = _noted(shard.number, ordinal, line, values)
        ordinal += 1
        nouns[pair.noun] += 1
        if pair.iou is not None:
          judged[pair.noun].append(pair.iou)
        for name, column in columns.items():
          value = getattr(pair, name)
          column.append(np.nan if value is None else value)
        for chosen in (best, worst, doubtful):
          chosen.add(pair, len(columns['score']))
  lowest = worst.take(shown)
  return Statistics(
    photos,
    dict(problems.most_common()),
    tuple(per_photo[number] for number in range(max(per_photo, default=0) + 1)),
    dict(nouns.most_common()),
    *(np.array(column) for column in columns.values()),
    {noun: float(np.mean(values)) for noun, values in judged.items()},
    best.take(shown),
    lowest,
    doubtful.take(shown, without=lowest),
  )


def _noted(
  shard: int, ordinal: int, line: dict[str, Any], values: dict[str, Any]
) -> NotedPair:
  return NotedPair(
    shard,
    ordinal,
    line['index'],
    line['key'],
    values['noun'],
    values['score'],
    values['lead'],
    values['iou'],
    tuple(values['box']),
    tuple(line['size']),
  )


def _sort(problem: str) -> str:
  """Problems that differ in a name or a number are of one sort."""
  words = ['…' if '/' in word else word for word in problem.split()]
  return _NUMBERS.sub('…', ' '.join(words))
