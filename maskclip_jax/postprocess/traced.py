"""Semantic results within one program, for networks that are exported with them.

The tiles of `one_pass` are planned on the host, which an exported program does not
have. Here the program plans them itself: as many as the photo needs, on a canvas of
fixed size. Sizes are data and memory is bounded, as everywhere.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from maskclip_jax.postprocess import tiles
from maskclip_jax.postprocess.class_scores import ClassScores
from maskclip_jax.postprocess.one_pass import QUERY_BLOCK
from maskclip_jax.postprocess.semantic import best_class
from maskclip_jax.postprocess.tiles import TILE, Order

# Where there is no photo on the canvas.
OUTSIDE = -1
# Pixels of a window that a tile of one pixel may touch: neighbours, taps, rounding.
_SPARE = 6


def semantic_ids(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  sizes: Int[Array, 'axis=2 step=4'],
  canvas: tuple[int, int],
  order: Order = 'masks_first',
) -> Int32[Array, 'height width']:
  """The best class of every pixel, as `semantic` finds it.

  Args:
    mask_logits: one map per query; infinite values are not noticed.
    scores: from `class_probabilities`.
    sizes: per axis the mask, padded, image and original length, as in `Geometry`.
    canvas: (height, width) of the result; the photo lies in its top left part.
    order: see `tile_probabilities`.

  Returns:
    Columns of the text bank; -1 beyond the photo.
  """
  queries, *mask_canvas = mask_logits.shape
  masks, _ = tiles.arrange_arrays(
    mask_logits, sizes[:, 0], jnp.arange(queries), block=QUERY_BLOCK
  )
  steps = jnp.stack([_step(sizes[axis], mask_canvas[axis], order) for axis in (0, 1)])
  rows, columns = -(-sizes[:, 3] // steps)

  def body(index, ids):
    at = jnp.stack([index // columns, index % columns])
    spot = jnp.stack(
      [
        _spot(sizes[axis], at[axis] * steps[axis], mask_canvas[axis], order)
        for axis in (0, 1)
      ]
    )
    winner = _winner(masks, scores, sizes, spot, queries, order)
    # What lies beyond a step is wrong, and the next tile's to overwrite.
    return jax.lax.dynamic_update_slice(ids, winner, tuple(spot[:, 0]))

  room = jnp.zeros([side + TILE for side in canvas], jnp.int32)
  ids = jax.lax.fori_loop(0, rows * columns, body, room)
  inside = [jnp.arange(side) < sizes[axis, 3] for axis, side in enumerate(canvas)]
  ids = ids[: canvas[0], : canvas[1]]
  return jnp.where(inside[0][:, None] & inside[1], ids, OUTSIDE)


def _winner(masks, scores: ClassScores, sizes, spot, queries: int, order: Order):
  """The best class of every pixel of a tile."""
  matrices = tiles.tile_matrices(sizes, spot, masks.shape[1::2], TILE, order)
  mask_p = jax.lax.map(
    lambda i: tiles.tile_probabilities(masks, i, spot, matrices, order),
    jnp.arange(len(masks)),
  )
  mask_p = mask_p.transpose(0, 2, 1, 3).reshape(-1, TILE * TILE)[:queries]
  arguments = scores.probabilities, scores.classes, None
  return best_class(arguments, mask_p, tiles.tile_interior(spot, TILE))[0]


def _step(sizes: Int[Array, '4'], mask_side: int, order: Order) -> Int[Array, '']:
  """Pixels of the result from one tile to the next along an axis: what the windows
  that a tile is made from have room for."""
  mask, padded, image, original = (size.astype(jnp.float32) for size in sizes)
  padded_window, mask_window = tiles.window_lengths(mask_side, TILE, order)
  room = jnp.float32(padded_window - _SPARE)
  if mask_window < mask_side:
    room = jnp.minimum(room, (mask_window - _SPARE) * padded / mask - _SPARE)
  return jnp.clip(jnp.floor(room * original / image), 1, TILE).astype(jnp.int32)


def _spot(
  sizes: Int[Array, '4'], start: Int[Array, ''], mask_side: int, order: Order
) -> Int[Array, '4']:
  """Where a tile lies on an axis, as in `Tile`."""
  mask, padded, image, original = sizes
  _, mask_window = tiles.window_lengths(mask_side, TILE, order)
  pixel = jnp.floor((start + 0.5) * (image / original) - 0.5)
  first_padded = jnp.clip(pixel - 1, 0, image - 1)
  pixel = jnp.floor((first_padded + 0.5) * (mask / padded) - 0.5)
  first_mask = jnp.clip(pixel - 1, 0, mask_side - mask_window)
  count = jnp.minimum(original - start, TILE)
  return jnp.stack([start, count, first_padded, first_mask]).astype(jnp.int32)
