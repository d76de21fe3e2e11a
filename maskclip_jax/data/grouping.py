"""Shuffling with photos of one orientation side by side.

detectron2 fills one bucket with landscape and one with portrait photos and emits a
bucket when it is full [masqclip 7.5]. The contents of the buckets would be state;
an epoch that is computed at once needs none.
"""

import grain
import numpy as np
from jaxtyping import Bool, Int64

from maskclip_jax.data.sources import Source


def portraits(source: Source) -> Bool[np.ndarray, ' n']:
  """Which photos are at least as tall as wide.

  Taken from the source's `sizes` (n rows of height and width) if it has them; otherwise
  every record is read once.
  """
  sizes = getattr(source, 'sizes', None)
  if sizes is None:
    records = (source[index] for index in range(len(source)))
    sizes = [(record['height'], record['width']) for record in records]
  height, width = np.asarray(sizes).T
  return height >= width


def grouped_order(
  portrait: Bool[np.ndarray, ' n'], group: int, seed: int, epoch: int
) -> Int64[np.ndarray, ' m']:
  """The record numbers of one epoch, in groups of one orientation.

  Records are shuffled; each orientation is cut into groups in that order, and groups
  follow each other as they fill up. Up to `group - 1` records of each orientation are
  left over; they differ from epoch to epoch.
  """
  order = np.random.default_rng([seed, epoch]).permutation(len(portrait))
  groups, filled = [], []
  for orientation in (False, True):
    places = np.flatnonzero(portrait[order] == orientation)
    places = places[: len(places) // group * group].reshape(-1, group)
    groups.append(order[places])
    filled.append(places[:, -1])
  sequence = np.argsort(np.concatenate(filled))
  return np.concatenate(groups)[sequence].reshape(-1)


class GroupedShuffle(grain.MapDataset):
  """Record numbers, reshuffled every epoch, in groups of one orientation."""

  def __init__(
    self,
    records: grain.MapDataset,
    portrait: Bool[np.ndarray, ' n'],
    group: int,
    seed: int,
  ):
    super().__init__(records)
    self._portrait, self._group, self._seed = portrait, group, seed
    # Threads may both miss and both compute; either result is the same.
    self._cached = (-1, np.zeros(0, np.int64))
    self._length = len(self._order(0))
    if not self._length:
      raise ValueError(
        f'no {group} of the {len(portrait)} photos have the same orientation: use '
        'smaller groups'
      )

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    epoch, place = divmod(index, self._length)
    return self._parent[int(self._order(epoch)[place])]

  def _order(self, epoch: int) -> Int64[np.ndarray, ' m']:
    cached, order = self._cached
    if cached != epoch:
      order = grouped_order(self._portrait, self._group, self._seed, epoch)
      self._cached = (epoch, order)
    return order
