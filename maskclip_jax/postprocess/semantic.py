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
  changes no bit.
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

  No class can score more on a tile than with every mask at its highest there. Blocks
  begin with the class that could score most, and end when no class that is left could
  reach the worst of the pixels' best scores.
  """
  probabilities, classes, _ = arguments
  block = min(_CLASS_BLOCK, len(classes))
  padding = -len(classes) % block
  class_p = jnp.pad(
    probabilities.T, ((0, padding), (0, len(mask_p) - len(probabilities)))
  )
  highest = jax.lax.Precision.HIGHEST
  bound = jnp.matmul(class_p, mask_p.max(1), precision=highest)
  bound = jnp.where(jnp.pad(classes, (0, padding)), bound * _SLACK, -1.0)
  order = jnp.argsort(-bound)
  class_p, bound = class_p[order], bound[order]
  inside = interior.reshape(-1)

  def unfinished(carry):
    i, best, _ = carry
    reachable = bound[jnp.minimum(i * block, len(bound) - 1)]
    least = jnp.min(jnp.where(inside, best, jnp.inf))
    return (i * block < len(bound)) & (reachable >= jnp.maximum(least, 0.0))

  def body(carry):
    i, best, winner = carry
    p = jax.lax.dynamic_slice_in_dim(class_p, i * block, block)
    index = jax.lax.dynamic_slice_in_dim(order, i * block, block)[:, None]
    real = jax.lax.dynamic_slice_in_dim(bound, i * block, block)[:, None] >= 0
    score = jnp.matmul(p, mask_p, precision=highest)
    score = jnp.where(real, score, -1.0)
    # Two plain reductions run several times faster than one argmax; of equals the first
    # class wins.
    top = score.max(0)
    first = jnp.min(jnp.where(score == top, index, len(bound)), axis=0)
    better = (top > best) | ((top == best) & (first < winner))
    return i + 1, jnp.where(better, top, best), jnp.where(better, first, winner)

  pixels = mask_p.shape[1]
  start = 0, jnp.full(pixels, -1.0), jnp.zeros(pixels, jnp.int32)
  _, best, winner = jax.lax.while_loop(unfinished, body, start)
  return winner.reshape(interior.shape), best.reshape(interior.shape)


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

  kernel = Kernel(_start, _step, _winner)

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

  kernel = Kernel(_start, _step, best_class)

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
  matrices = tiles.tile_matrices(sizes, spot, masks.shape[1::2], tile, order)
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
