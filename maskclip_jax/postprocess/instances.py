"""Instance results: scored pairs of a mask and a class [masqclip 8.3]."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from maskclip_jax.postprocess import tiles
from maskclip_jax.postprocess.class_scores import ClassScores, checked
from maskclip_jax.postprocess.one_pass import QUERY_BLOCK, Kernel, QueryBlock, one_pass
from maskclip_jax.postprocess.tiles import TILE, Geometry, PackedMasks


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
  """Detections of one image, best first; one mask may serve several classes.

  Attributes:
    scores: class probability times the mean mask probability inside the mask.
    classes: columns of the text bank.
    queries: where each came from; -1 for a piece of the semantic map.
    areas: pixels of the photo.
    masks: masks of the distinct queries.
    rows: which of `masks` belongs to each detection.
  """

  scores: Float32[np.ndarray, ' n']
  classes: Int32[np.ndarray, ' n']
  queries: Int32[np.ndarray, ' n']
  areas: Int[np.ndarray, ' n']
  masks: PackedMasks
  rows: Int32[np.ndarray, ' n']

  def __len__(self) -> int:
    return len(self.scores)

  def mask(self, index: int) -> Bool[np.ndarray, 'height width']:
    """The mask of one detection."""
    return self.masks[int(self.rows[index])]


# Pairs are sorted out for at least so many detections, and for twice as many each time:
# a number of detections that somebody chooses compiles nothing.
_LEAST_TOP = 128


@functools.partial(jax.jit, static_argnames='k')
def _top(scores: ClassScores, *, k: int):
  """The k best (query, class) pairs, best first."""
  p = jnp.where(scores.classes, scores.probabilities, -1.0)
  return jax.lax.top_k(p.reshape(-1), min(k, p.size))


def _start(arguments, queries: int, tile: int):
  return (
    jnp.zeros((queries // QUERY_BLOCK, tile, tile), jnp.uint8),
    jnp.zeros((2, queries), jnp.float32),
  )


def _step(wanted, carry, block: QueryBlock):
  """Binary masks as planes of eight, with their areas and summed probabilities."""
  planes, sums = carry
  want = jax.lax.dynamic_slice_in_dim(wanted, block.first, QUERY_BLOCK)
  inside = (block.logits > 0) & block.interior[:, None] & want[:, None]
  bit = (1 << jnp.arange(QUERY_BLOCK, dtype=jnp.int32))[:, None]
  plane = jnp.sum(jnp.where(inside, bit, 0), axis=1).astype(jnp.uint8).T
  # A tile has less pixels than float32 counts exactly.
  area = jnp.sum(inside, axis=(0, 2), dtype=jnp.float32)
  total = jnp.sum(jnp.where(inside, block.probabilities, 0.0), axis=(0, 2))
  index = block.first // QUERY_BLOCK
  return (
    jax.lax.dynamic_update_index_in_dim(planes, plane, index, 0),
    jax.lax.dynamic_update_slice(sums, jnp.stack([area, total]), (0, block.first)),
  )


def _finish(arguments, carry, interior):
  return carry


class InstanceCollector:
  """The best pairs of a mask and a class, from a pass over the tiles.

  Args:
    scores: from `class_probabilities`.
    thing: which columns are countable.
    geometry: how the maps lie on the photo.
    queries: how many masks there are.
    top_k: most detections per image.
    things_only: drop stuff classes, after the top-k.

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
    top_k: int = 100,
    things_only: bool = True,
  ):
    checked(scores, queries, thing)
    k = max(_LEAST_TOP, 1 << (int(top_k) - 1).bit_length())
    best, index = (row[:top_k] for row in jax.device_get(_top(scores, k=k)))
    rows, classes = np.divmod(index, len(scores.classes))
    keep = best >= 0
    if things_only:
      keep &= np.asarray(thing)[classes]
    self._best, self._classes, self._found = best[keep], classes[keep], rows[keep]
    self.queries = np.unique(self._found)
    self._size = geometry.original
    self._planes = np.zeros((0, *self._size[::-1]), np.uint8)

  def arguments(self, order: Int[np.ndarray, ' q']):
    wanted = np.isin(order, self.queries)
    positions = np.flatnonzero(wanted)
    # Planes without a detection are not kept.
    self._used = np.unique(positions // QUERY_BLOCK)
    self._places = positions
    self._sums = np.zeros((2, len(order)))
    self._planes = np.empty((len(self._used), *self._size[::-1]), np.uint8)
    return wanted

  def put(self, rows: slice, columns: slice, outputs) -> None:
    planes, sums = outputs
    part = tiles.crop(planes, columns, rows)
    for to, plane in enumerate(self._used):
      self._planes[to, columns, rows] = part[plane]
    self._sums += sums

  def result(self) -> Instances:
    """The detections, best first."""
    row = np.searchsorted(self.queries, self._found)
    count, areas, inside = 0, np.zeros(0, np.int64), np.zeros(0)
    if len(row):
      areas, inside = self._sums[:, self._places[row]]
      plane = np.searchsorted(self._used, self._places // QUERY_BLOCK)
      bits = plane * QUERY_BLOCK + self._places % QUERY_BLOCK
      row, count = bits[row], int(bits.max()) + 1
    final = (self._best * (inside / (areas + 1e-6))).astype(np.float32)
    order = np.argsort(-final, kind='stable')
    return Instances(
      final[order],
      self._classes[order].astype(np.int32),
      self._found[order].astype(np.int32),
      areas[order].astype(np.int64),
      PackedMasks(self._planes, count),
      row[order].astype(np.int32),
    )


def instances(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  thing: Bool[Array, ' k'],
  geometry: Geometry,
  *,
  top_k: int = 100,
  things_only: bool = True,
  tile: int = TILE,
) -> Instances:
  """The `top_k` best pairs of a mask and a class [masqclip 8.3].

  Args:
    mask_logits: one map per query.
    scores: from `class_probabilities`.
    thing: which columns are countable.
    geometry: how the maps lie on the photo.
    top_k: most detections per image.
    things_only: drop stuff classes, after the top-k (the official code when panoptic
      output is on).
    tile: side of the tiles the work is cut into.

  Raises:
    ValueError: NaN in masks or scores, or sizes that do not fit.
  """
  found = InstanceCollector(
    scores,
    thing,
    geometry,
    len(mask_logits),
    top_k=top_k,
    things_only=things_only,
  )
  one_pass([found], mask_logits, geometry, tile=tile)
  return found.result()
