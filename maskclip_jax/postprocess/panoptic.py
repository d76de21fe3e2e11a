"""Panoptic results: one segment per pixel [masqclip 8.2]."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from maskclip_jax.postprocess import tiles
from maskclip_jax.postprocess.class_scores import ClassScores, checked
from maskclip_jax.postprocess.one_pass import Kernel, QueryBlock, one_pass
from maskclip_jax.postprocess.tiles import TILE, Geometry


@dataclasses.dataclass(frozen=True)
class Segment:
  """One segment of a panoptic result.

  Attributes:
    id: its value in the id map, from 1.
    class_index: its class, a column of the text bank.
    thing: whether it is one counted object; stuff is one segment per class.
    score: the score of its query; the best of them where stuff was merged.
    area: in pixels of the photo.
    query: the query that it came from, the first of them where stuff was merged; -1 for
      a piece of the semantic map.
  """

  id: int
  class_index: int
  thing: bool
  score: float
  area: int
  query: int


class _Winners(NamedTuple):
  """Which kept query wins each pixel so far.

  Attributes:
    best: its score times its mask probability.
    winner: its position.
    inside: whether its mask covers the pixel.
    covered: per position, how many pixels its mask covers.
  """

  best: Float[Array, 'y x']
  winner: Int32[Array, 'y x']
  inside: Bool[Array, 'y x']
  covered: Int32[Array, ' q']


def _start(arguments, queries: int, tile: int) -> _Winners:
  shape = (tile, tile)
  return _Winners(
    jnp.full(shape, -1.0),
    jnp.zeros(shape, jnp.int32),
    jnp.zeros(shape, bool),
    jnp.zeros(queries, jnp.int32),
  )


def _step(arguments, carry: _Winners, block: QueryBlock) -> _Winners:
  query_scores, kept = arguments
  mask_p = block.probabilities
  width = mask_p.shape[1]
  index = jnp.arange(width)[:, None]
  cover = mask_p >= 0.5
  score = jax.lax.dynamic_slice_in_dim(query_scores, block.first, width)
  keep = jax.lax.dynamic_slice_in_dim(kept, block.first, width)
  value = jnp.where(keep[:, None], score[:, None] * mask_p, -2.0)
  top = value.max(1)
  first = jnp.min(jnp.where(value == top[:, None], index, width), axis=1)
  first_covers = jnp.any(cover & (index == first[:, None]), axis=1)
  better = top > carry.best
  pixels = jnp.sum(cover & block.interior[:, None], axis=(0, 2), dtype=jnp.int32)
  return _Winners(
    jnp.where(better, top, carry.best),
    jnp.where(better, block.first + first, carry.winner),
    jnp.where(better, first_covers, carry.inside),
    jax.lax.dynamic_update_slice_in_dim(carry.covered, pixels, block.first, 0),
  )


def _finish(arguments, carry: _Winners, interior):
  """The pixel counts that the merging needs.

  Returns:
    The winner where its mask covers the pixel and -1 elsewhere; per position the pixels
    won, the pixels covered, and the pixels both won and covered.
  """
  queries = len(carry.covered)

  def count(where):
    winners = jnp.where(where, carry.winner, queries).ravel()
    return jnp.zeros(queries, jnp.int32).at[winners].add(1, mode='drop')

  region = jnp.where(carry.inside, carry.winner, -1)
  return region, count(interior), carry.covered, count(interior & carry.inside)


def _merge_segments(
  won: Int[np.ndarray, ' n'],
  covered: Int[np.ndarray, ' n'],
  region: Int[np.ndarray, ' n'],
  labels: Int[np.ndarray, ' n'],
  query_scores: Float[np.ndarray, ' n'],
  queries: Int[np.ndarray, ' n'],
  thing: Bool[np.ndarray, ' k'],
  overlap_threshold: float,
) -> tuple[Int32[np.ndarray, ' n'], tuple[Segment, ...]]:
  """Steps 3 and 4 of [masqclip 8.2], for kept queries in query order.

  On the host because the overlap test is a ratio of exact pixel counts in double
  precision there; in single precision a photo of some megapixels can flip it.

  Returns:
    The segment id of every query (0: none) and the segments.
  """
  ids = np.zeros(len(won), np.int32)
  segments: list[Segment] = []
  stuff: dict[int, int] = {}
  for i, label in enumerate(labels.tolist()):
    if not (won[i] and covered[i] and region[i]):
      continue
    if won[i] / covered[i] < overlap_threshold:
      continue
    score, area = float(query_scores[i]), int(region[i])
    if label in stuff:
      ids[i] = stuff[label]
      earlier = segments[ids[i] - 1]
      segments[ids[i] - 1] = dataclasses.replace(
        earlier, area=earlier.area + area, score=max(earlier.score, score)
      )
      continue
    ids[i] = len(segments) + 1
    is_thing = bool(thing[label])
    if not is_thing:
      stuff[label] = int(ids[i])
    segments.append(Segment(int(ids[i]), label, is_thing, score, area, int(queries[i])))
  return ids, tuple(segments)


class PanopticCollector:
  """One segment per pixel, from a pass over the tiles.

  Args:
    scores: from `class_probabilities`.
    thing: which columns are countable.
    geometry: how the maps lie on the photo.
    queries: how many masks there are.
    object_threshold: keep queries whose best class scores more than this.
    overlap_threshold: drop a query that won less than this share of the pixels that
      its mask covers.
    reject_void: drop queries whose best column is the void column.

  Raises:
    ValueError: NaN in the scores, or sizes that do not fit.
  """

  kernel = Kernel(_start, _step, _finish)

  def __init__(
    self,
    scores: ClassScores,
    thing: Bool[Array, ' k'],
    geometry: Geometry,
    queries: int,
    *,
    object_threshold: float = 0.3,
    overlap_threshold: float = 0.3,
    reject_void: bool = False,
  ):
    self._probabilities, void = checked(scores, queries, thing)
    self._best = self._probabilities.max(-1)
    keep = self._best > object_threshold
    if reject_void:
      keep &= self._best >= void
    self.queries = np.flatnonzero(keep)
    self._thing, self._overlap = np.asarray(thing), overlap_threshold
    self._region = np.full(geometry.original, -1, np.int32)

  def arguments(self, order: Int[np.ndarray, ' q']):
    self._kept = np.isin(order, self.queries)
    query_scores = np.zeros(len(order), np.float32)
    query_scores[self._kept] = self._best[self.queries]
    self._counts = np.zeros((3, len(order)), np.int64)
    return query_scores, self._kept

  def put(self, rows: slice, columns: slice, outputs) -> None:
    part, *part_counts = outputs
    self._region[rows, columns] = tiles.crop(part, rows, columns)
    self._counts += np.stack(part_counts)

  def result(self) -> tuple[Int32[np.ndarray, 'height width'], tuple[Segment, ...]]:
    """The map of segment ids (0 is void) and the segments by id."""
    if not len(self.queries):
      return np.zeros(self._region.shape, np.int32), ()
    kept = self.queries
    ids, segments = _merge_segments(
      *self._counts[:, self._kept],
      self._probabilities[kept].argmax(-1),
      self._best[kept],
      kept,
      self._thing,
      self._overlap,
    )
    # Index -1, pixels outside their winner's mask, reads the zero at the end.
    table = np.zeros(len(self._kept) + 1, np.int32)
    table[:-1][self._kept] = ids
    return table[self._region], segments


def panoptic(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  thing: Bool[Array, ' k'],
  geometry: Geometry,
  *,
  object_threshold: float = 0.3,
  overlap_threshold: float = 0.3,
  reject_void: bool = False,
  tile: int = TILE,
) -> tuple[Int32[np.ndarray, 'height width'], tuple[Segment, ...]]:
  """One segment per pixel: countable things, and one segment per stuff class.

  Args:
    mask_logits: one map per query.
    scores: from `class_probabilities`.
    thing: which columns are countable.
    geometry: how the maps lie on the photo.
    object_threshold: keep queries whose best class scores more than this.
    overlap_threshold: drop a query that won less than this share of the pixels that
      its mask covers.
    reject_void: drop queries whose best column is the void column.
    tile: side of the tiles the work is cut into.

  Returns:
    The map of segment ids (0 is void) and the segments by id.

  Raises:
    ValueError: NaN in masks or scores, or sizes that do not fit.
  """
  found = PanopticCollector(
    scores,
    thing,
    geometry,
    len(mask_logits),
    object_threshold=object_threshold,
    overlap_threshold=overlap_threshold,
    reject_void=reject_void,
  )
  one_pass([found], mask_logits, geometry, tile=tile)
  return found.result()
