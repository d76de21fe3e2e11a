"""Semantic results: the best class of every pixel (spec section 8.1)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from maskclip_jax.ops import masks as tiles
from maskclip_jax.ops.class_scores import ClassScores, checked
from maskclip_jax.ops.masks import TILE, Geometry, Order

# Text columns handled together: their scores on a tile (4 MB) stay in the caches, and a
# small vocabulary in a large bank costs what it needs.
_CLASS_BLOCK = 64


@functools.partial(jax.jit, static_argnames=('order', 'tile'))
def _best_class(masks, scores: ClassScores, sizes, spot, *, order, tile):
  """Best class of every pixel, text columns taken a block at a time."""
  matrices = tiles.tile_matrices(sizes, spot, masks.shape[1::2], tile)
  mask_p = tiles.tile_probabilities(masks, 0, spot, matrices, order)
  mask_p = mask_p.transpose(1, 0, 2).reshape(-1, tile * tile)
  columns = len(scores.classes)
  block = min(_CLASS_BLOCK, columns)
  padding = -columns % block
  class_p = jnp.pad(scores.probabilities.T, ((0, padding), (0, 0)))
  classes = jnp.pad(scores.classes, (0, padding))
  last = jnp.max(jnp.where(classes, jnp.arange(len(classes)), -1))

  def body(i, carry):
    best, winner = carry
    p = jax.lax.dynamic_slice_in_dim(class_p, i * block, block)
    real = jax.lax.dynamic_slice_in_dim(classes, i * block, block)
    score = jnp.matmul(p, mask_p, precision=jax.lax.Precision.HIGHEST)
    score = jnp.where(real[:, None], score, -1.0)
    top = score.max(0)
    # Two plain reductions run several times faster than one argmax; the first of
    # equals wins, here and (strictly greater) between blocks.
    index = jnp.arange(block)[:, None]
    first = jnp.min(jnp.where(score == top, index, block), axis=0)
    better = top > best
    return jnp.where(better, top, best), jnp.where(better, i * block + first, winner)

  start = jnp.full(tile * tile, -1.0), jnp.zeros(tile * tile, jnp.int32)
  _, winner = jax.lax.fori_loop(0, last // block + 1, body, start)
  return winner.reshape(tile, tile)


@functools.partial(jax.jit, static_argnames=('order', 'tile'))
def _score_maps(masks, scores: ClassScores, sizes, spot, *, order, tile):
  matrices = tiles.tile_matrices(sizes, spot, masks.shape[1::2], tile)
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
  checked(scores, len(mask_logits))
  masks = tiles.arrange(mask_logits, geometry, len(mask_logits))
  program = functools.partial(_best_class, order=order)
  result = np.empty(geometry.original, np.int32)
  for rows, columns, part in tiles.run(
    program, masks, scores, geometry=geometry, tile=tile
  ):
    result[rows, columns] = tiles.crop(part, rows, columns)
  return result


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
  program = functools.partial(_score_maps, order=order)
  result = np.empty((len(scores.classes), *geometry.original), np.float32)
  for rows, columns, part in tiles.run(
    program, masks, scores, geometry=geometry, tile=tile
  ):
    result[:, rows, columns] = tiles.crop(part, rows, columns)
  return result
