"""Semantic results: the best class of every pixel [masqclip 8.1]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from maskclip_jax.postprocess import tiles
from maskclip_jax.postprocess.class_scores import ClassScores, checked
from maskclip_jax.postprocess.one_pass import Kernel, QueryBlock, one_pass
from maskclip_jax.postprocess.tiles import TILE, Geometry, Order

# Text columns handled together: their scores on a tile (4 MB) stay in the caches.
_CLASS_BLOCK = 64
# More than rounding can lift a sum over a few hundred queries above its bound.
_SLACK = 1.0001


def _start(arguments, queries: int, tile: int) -> Float[Array, 'q pixels']:
  return jnp.zeros((queries, tile * tile))


def _step(arguments, carry, block: QueryBlock) -> Float[Array, 'q pixels']:
  """Puts the masks of a block where their query belongs.

  Sums over queries are always taken in their order, so that which results share a pass
  changes no bit; those of a partition alone leave out what does not reach the tile.
  """
  _, _, places = arguments
  width = block.probabilities.shape[1]
  flat = block.probabilities.transpose(1, 0, 2).reshape(width, 1, -1)
  for i in range(width):
    place = places[block.first + i]
    carry = jax.lax.dynamic_update_slice(carry, flat[i], (place, 0))
  return carry


def best_class(
  arguments, mask_p: Float[Array, 'q pixels'], interior: Bool[Array, 'y x']
) -> tuple[Int32[Array, 'y x'], Float[Array, 'y x']]:
  """Best class of every pixel and its score, text columns taken a block at a time.

  No class can score more at a pixel than its probabilities times the largest share that
  each mask has of any pixel of the tile, a pixel's strongest mask being 1: where all
  masks are weak, all scores are low, and few classes lead there as well. Blocks begin
  with the class that could score most, and end when no class that is left could reach
  the worst of the pixels' best scores, in such shares.
  """
  probabilities, classes, _ = arguments
  queries, columns = probabilities.shape
  if columns <= _CLASS_BLOCK:
    best, winner = _leaders(probabilities, jnp.arange(columns), classes, mask_p)
    return winner.reshape(interior.shape), best.reshape(interior.shape)
  strongest = mask_p.max(0)
  share = jnp.where(strongest > 0, 1 / strongest, 0.0)
  bound = jnp.matmul(
    jnp.max(mask_p * share, axis=1)[:queries],
    probabilities,
    precision=jax.lax.Precision.HIGHEST,
  )
  bound = jnp.where(classes, bound * _SLACK, -1.0)
  inside = interior.reshape(-1)

  def unfinished(carry):
    (reachable, _), _, best, _ = carry
    least = jnp.min(jnp.where(inside, best * share, jnp.inf))
    return reachable[0] >= jnp.maximum(least, 0.0)

  def body(carry):
    (reachable, index), left, best, winner = carry
    top, first = _leaders(probabilities, index, reachable >= 0, mask_p)
    better = (top > best) | ((top == best) & (first < winner))
    # The next columns, once they are needed: sorting ten thousand takes longer than a
    # block.
    left = left.at[index].set(-1.0)
    return (
      jax.lax.top_k(left, _CLASS_BLOCK),
      left,
      jnp.where(better, top, best),
      jnp.where(better, first, winner),
    )

  pixels = mask_p.shape[1]
  best, winner = jnp.full(pixels, -1.0), jnp.zeros(pixels, jnp.int32)
  start = jax.lax.top_k(bound, _CLASS_BLOCK), bound, best, winner
  _, _, best, winner = jax.lax.while_loop(unfinished, body, start)
  return winner.reshape(interior.shape), best.reshape(interior.shape)


def _leaders(
  probabilities: Float[Array, 'q k'],
  index: Int[Array, ' block'],
  real: Bool[Array, ' block'],
  mask_p: Float[Array, 'n pixels'],
) -> tuple[Float[Array, ' pixels'], Int[Array, ' pixels']]:
  """The best score of every pixel among some columns, -1 where none of them is real,
  and its column: of equals the first."""
  queries, columns = probabilities.shape
  p = jnp.pad(probabilities[:, index].T, ((0, 0), (0, len(mask_p) - queries)))
  score = jnp.matmul(p, mask_p, precision=jax.lax.Precision.HIGHEST)
  score = jnp.where(real[:, None], score, -1.0)
  # Two plain reductions run several times faster than one argmax.
  top = score.max(0)
  return top, jnp.min(jnp.where(score == top, index[:, None], columns), axis=0)


def _select(arguments, positions: Int[np.ndarray, ' n']):
  probabilities, classes, places = arguments
  queries = np.where(positions < 0, len(probabilities), places[positions])
  rows = np.arange(len(positions), dtype=np.int32)
  return _rows(probabilities, queries), classes, rows


@jax.jit
def _rows(
  probabilities: Float[Array, 'q k'], queries: Int[Array, ' n']
) -> Float[Array, 'n k']:
  """The scores of some queries, zeros where there is none of that number."""
  return probabilities.at[queries].get(mode='fill', fill_value=0.0)


def _winner(arguments, mask_p, interior) -> Int32[Array, 'y x']:
  return best_class(arguments, mask_p, interior)[0]


class SemanticCollector:
  """The best class of every pixel, from a pass over the tiles.

  Args:
    scores: from `class_probabilities`.
    geometry: how the maps lie on the photo.
    queries: how many masks there are.

  Raises:
    ValueError: NaN in the scores, or another number of them.
  """

  kernel = Kernel(_start, _step, _winner, _select)

  def __init__(self, scores: ClassScores, geometry: Geometry, queries: int):
    checked(scores, queries)
    self._scores = scores
    # All of them: also a mask that nothing is sure of adds to the sums.
    self.queries = np.arange(queries)
    self._map = np.empty(geometry.original, np.int32)

  def arguments(self, order: Int[np.ndarray, ' q']):
    scores = self._scores
    return scores.probabilities, scores.classes, order.astype(np.int32)

  def put(self, rows: slice, columns: slice, outputs) -> None:
    self._map[rows, columns] = tiles.crop(outputs, rows, columns)

  def result(self) -> Int32[np.ndarray, 'height width']:
    """The class of every pixel."""
    return self._map


class ScoredSemanticCollector(SemanticCollector):
  """The best class of every pixel, and its score.

  Arguments and errors are those of `SemanticCollector`.
  """

  kernel = Kernel(_start, _step, best_class, _select)

  def __init__(self, scores: ClassScores, geometry: Geometry, queries: int):
    super().__init__(scores, geometry, queries)
    self._best = np.empty(geometry.original, np.float32)

  def put(self, rows: slice, columns: slice, outputs) -> None:
    winner, best = outputs
    super().put(rows, columns, winner)
    self._best[rows, columns] = tiles.crop(best, rows, columns)

  def scores(self) -> Float32[np.ndarray, 'height width']:
    """The score of the class of every pixel."""
    return self._best


def effective_order(order: Order, geometry: Geometry) -> Order:
  """'masks_first' where the last resize changes nothing, so both orders are one."""
  return 'masks_first' if geometry.image == geometry.original else order


@functools.partial(jax.jit, static_argnames=('order', 'tile'))
def _score_maps(masks, scores: ClassScores, sizes, spot, *, order, tile):
  matrices = tiles.tile_matrices(sizes, spot, masks, tile, order)
  mask_p = tiles.tile_probabilities(masks, 0, spot, matrices, order)
  return jnp.einsum(
    'qk,yqx->kyx',
    scores.probabilities,
    mask_p,
    precision=jax.lax.Precision.HIGHEST,
  )


def semantic(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  geometry: Geometry,
  *,
  order: Order = 'masks_first',
  tile: int = TILE,
) -> Int32[np.ndarray, 'height width']:
  """The best class of every pixel: argmax over classes of sum_q p[q] sigmoid(mask_q).

  Args:
    mask_logits: one map per query.
    scores: from `class_probabilities`.
    geometry: how the maps lie on the photo.
    order: 'masks_first' resizes the masks to the photo before anything else (the
      official code when panoptic or instance output is on); 'scores_first' resizes the
      class score maps (when only semantic output is on).
    tile: side of the tiles the work is cut into.

  Raises:
    ValueError: NaN in masks or scores, or sizes that do not fit.
  """
  found = SemanticCollector(scores, geometry, len(mask_logits))
  order = effective_order(order, geometry)
  one_pass([found], mask_logits, geometry, order=order, tile=tile)
  return found.result()


def semantic_scores(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  geometry: Geometry,
  *,
  order: Order = 'masks_first',
  tile: int = TILE,
) -> Float32[np.ndarray, 'k height width']:
  """The class score maps themselves: K maps of the photo's size, so not small.

  Arguments and errors are those of `semantic`.
  """
  checked(scores, len(mask_logits))
  masks = tiles.arrange(mask_logits, geometry, len(mask_logits))
  order = effective_order(order, geometry)
  program = functools.partial(_score_maps, order=order)
  result = np.empty((len(scores.classes), *geometry.original), np.float32)
  for rows, columns, part in tiles.run(
    program, masks, scores, geometry=geometry, tile=tile, order=order
  ):
    result[:, rows, columns] = tiles.crop(part, rows, columns)
  return result
