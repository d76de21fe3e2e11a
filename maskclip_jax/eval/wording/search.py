"""A search for better words: class by class, on half of the photos, held to the others.

A change is chosen by what it gains on one half and kept only if it gains on the other
half, too. Words that suit a few photos by chance mostly fail there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from maskclip_jax.eval.metrics.metric import mean, ratio
from maskclip_jax.eval.wording.regions import TrueRegions
from maskclip_jax.text.category import normal

Metric = Literal['PQ', 'mIoU']
Words = tuple[str, ...]
# Vectors of a class by its words: (words) -> rows, of which the best counts.
Encode = Callable[[Sequence[Words]], Sequence[Float[np.ndarray, 'r d']]]

# By half of the photos and by class: what is named right, what is named, what is true.
Counts = tuple[tuple[Float[np.ndarray, ' k'], ...], ...]

# Less, in points, is no gain but rounding.
_LEAST = 1e-6
# Passes over the classes; later ones build on what earlier ones found.
_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Gain:
  """Points of the metric.

  Attributes:
    chosen: on the half of the photos that choices are made by.
    held_out: on the other half.
  """

  chosen: float = 0.0
  held_out: float = 0.0

  def __add__(self, other: 'Gain') -> 'Gain':
    return Gain(self.chosen + other.chosen, self.held_out + other.held_out)

  def __sub__(self, other: 'Gain') -> 'Gain':
    return Gain(self.chosen - other.chosen, self.held_out - other.held_out)

  @property
  def real(self) -> bool:
    """Whether both halves gain."""
    return min(self.chosen, self.held_out) > _LEAST


@dataclasses.dataclass(frozen=True)
class Change:
  """Other words for a class.

  Attributes:
    index: of the class.
    before: its words.
    after: those to take instead.
    gain: by this change, after all earlier ones.
  """

  index: int
  before: Words
  after: Words
  gain: Gain


class Naming:
  """How well true regions are named, with masks that are perfect.

  A region has the class whose vector is nearest; the void word takes no part, as it is
  never a result. PQ counts every region as a segment (those that are named right have
  an IoU of 1), mIoU counts pixels.

  Args:
    regions: what there is.
    held_out: which photos are held out, by their place.
    classes: how many classes there are.
    metric: what is measured.
  """

  def __init__(
    self,
    regions: TrueRegions,
    held_out: Bool[np.ndarray, ' photos'],
    classes: int,
    metric: Metric,
  ):
    weights = regions.areas if metric == 'mIoU' else np.ones(len(regions))
    self.regions, self.classes, self.metric = regions, classes, metric
    self.photos = len(held_out)
    self._weights = weights.astype(np.float64)
    self._half = held_out[regions.photos].astype(int)

  @functools.cached_property
  def in_both(self) -> Bool[np.ndarray, ' k']:
    """Which classes occur in both halves."""
    first, second = (wanted > 0 for _, _, wanted in self.counts(self.regions.classes))
    return first & second

  def similarities(
    self, words: Sequence[Words], encode: Encode
  ) -> Float[np.ndarray, 'n k']:
    """Cosine of every region with every class; zero for one without words."""
    filled = [index for index, some in enumerate(words) if some]
    found = np.zeros((len(self.regions), len(words)), np.float32)
    rows = encode([words[index] for index in filled])
    # Of several vectors of a class the best counts.
    starts = np.cumsum([0, *map(len, rows[:-1])])
    cosine = self.regions.vectors @ np.concatenate(rows).T
    found[:, filled] = np.maximum.reduceat(cosine, starts, axis=1)
    return found

  def counts(self, named: Int[np.ndarray, ' n']) -> Counts:
    """What there is of each class on each half, if regions get these classes."""
    true = self.regions.classes
    return tuple(
      tuple(
        np.bincount(labels[rows], self._weights[rows], self.classes)
        for labels, rows in (
          (true, (self._half == half) & (named == true)),
          (named, self._half == half),
          (true, self._half == half),
        )
      )
      for half in (0, 1)
    )

  def quality(self, named: Int[np.ndarray, ' n']) -> Gain:
    """The metric on both halves, in points, for the class that each region is given."""
    return Gain(*(self._value(*half) for half in self.counts(named)))

  def quality_with(
    self,
    index: int,
    wins: Bool[np.ndarray, ' n'],
    rival: Int[np.ndarray, ' n'],
    counts: Counts,
  ) -> Gain:
    """The metric where one class takes some regions from other classes.

    Args:
      index: of the class.
      wins: the regions that it takes.
      rival: the class of each region without it.
      counts: of the rivals.
    """
    values = []
    taken = np.flatnonzero(wins)
    for half, (hits, given, wanted) in enumerate(counts):
      rows = taken[self._half[taken] == half]
      weights, true, lost = self._weights[rows], self.regions.classes[rows], rival[rows]
      given = given - np.bincount(lost, weights, self.classes)
      given[index] += weights.sum()
      right = lost == true
      hits = hits - np.bincount(lost[right], weights[right], self.classes)
      hits[index] += weights[true == index].sum()
      values.append(self._value(hits, given, wanted))
    return Gain(*values)

  def _value(
    self,
    hits: Float[np.ndarray, ' k'],
    given: Float[np.ndarray, ' k'],
    wanted: Float[np.ndarray, ' k'],
  ) -> float:
    if self.metric == 'PQ':
      # Over the classes that occur or are predicted, as panopticapi has it.
      return 100 * mean(ratio(hits, (given + wanted) / 2))
    return 100 * mean(np.where(wanted > 0, ratio(hits, given + wanted - hits), np.nan))


def improve(
  naming: Naming,
  words: Sequence[Words],
  candidates: Mapping[int, Sequence[str]],
  encode: Encode,
  on_progress: Callable[[int, int], None] | None = None,
) -> list[Change]:
  """Searches words for the classes, one class after another, the most frequent first.

  A class may lose a word, get one more, or have a single other one. The search goes
  over the classes again while something changes.

  Args:
    naming: the regions to name.
    words: those of each class; none for a class that is to stay without.
    candidates: by class index, what it may also be called. Classes that occur in one
      half only stay as they are.
    encode: vectors of classes by their words, one for each or several.
    on_progress: is told how many classes are done, of how many.

  Returns:
    One change for each class that changes, the greatest gain on the held-out half
    first.
  """
  state = _State(naming, words, encode)
  counts = np.bincount(naming.regions.classes, minlength=naming.classes)
  order = [
    index
    for index in np.argsort(-counts, kind='stable').tolist()
    if naming.in_both[index] and words[index]
  ]
  changes: dict[int, Change] = {}
  for turn in range(_ROUNDS):
    before = len(changes), sum(c.gain.chosen for c in changes.values())
    for done, index in enumerate(order, 1):
      found = state.improve(index, candidates.get(index, ()))
      if found is not None:
        earlier = changes.get(index)
        if earlier is not None:
          found = dataclasses.replace(
            found, before=earlier.before, gain=earlier.gain + found.gain
          )
        changes[index] = found
      if on_progress is not None and turn == 0:
        on_progress(done, len(order))
    if before == (len(changes), sum(c.gain.chosen for c in changes.values())):
      break
  kept = [c for c in changes.values() if c.before != c.after]
  return sorted(kept, key=lambda change: -change.gain.held_out)


class _State:
  """The words so far, and how similar every region is to every class."""

  def __init__(self, naming: Naming, words: Sequence[Words], encode: Encode):
    self._naming, self._encode = naming, encode
    self._words = list(words)
    self._similar = naming.similarities(words, encode)
    self._quality = naming.quality(self._similar.argmax(1))

  def improve(self, index: int, candidates: Sequence[str]) -> Change | None:
    """Takes the best other words for a class, if they are better on both halves."""
    taken = {
      normal(word) for i, some in enumerate(self._words) if i != index for word in some
    }
    allowed = [word for word in candidates if normal(word) not in taken]
    choices = _choices(self._words[index], allowed)
    if not choices:
      return None
    own = self._similar[:, index].copy()
    self._similar[:, index] = -np.inf
    rival = self._similar.argmax(1)
    best = self._similar[np.arange(len(rival)), rival]
    self._similar[:, index] = own
    similar = self._naming.similarities(choices, self._encode)
    # Of equal ones the first class wins, as `argmax` has it.
    limit = np.where(index < rival, np.nextafter(best, -np.inf), best)
    counts = self._naming.counts(rival)
    found = [
      self._naming.quality_with(index, column > limit, rival, counts)
      for column in similar.T
    ]
    chosen = max(range(len(found)), key=lambda n: found[n].chosen)
    quality, words = found[chosen], choices[chosen]
    gain = quality - self._quality
    if not gain.real:
      return None
    change = Change(index, self._words[index], words, gain)
    self._words[index], self._quality = words, quality
    self._similar[:, index] = similar[:, chosen]
    return change


def _choices(words: Words, candidates: Sequence[str]) -> list[Words]:
  """What a class may be called instead: fewer words first."""
  own = {normal(word) for word in words}
  new = [word for word in candidates if normal(word) not in own]
  single = [(word,) for word in (*words, *new)]
  fewer = [tuple(w for w in words if w != word) for word in words]
  more = [(*words, word) for word in new]
  choices = dict.fromkeys([*single, *fewer, *more])
  return [choice for choice in choices if choice and choice != words]
