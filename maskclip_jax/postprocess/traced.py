"""Semantic and panoptic results within one program, for networks exported with them.

The tiles of `one_pass` are planned on the host, which an exported program does not
have. Here the program plans them itself: as many as the photo needs, on a canvas of
fixed size. Sizes are data and memory is bounded, as everywhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from maskclip_jax.postprocess import tiles
from maskclip_jax.postprocess.class_scores import ClassScores
from maskclip_jax.postprocess.one_pass import QUERY_BLOCK
from maskclip_jax.postprocess.semantic import best_class
from maskclip_jax.postprocess.tiles import TILE, Order

# Where there is no photo on the canvas.
OUTSIDE = -1
# Pixels of a window that a tile of one pixel may touch: neighbours, taps, rounding.
_SPARE = 6


class TracedPanoptic(NamedTuple):
  """A panoptic result in arrays of fixed sizes.

  Attributes:
    ids: the segment of every pixel, from 1; 0 for none, -1 beyond the photo.
    classes: of segment i + 1; -1 where there is no such segment.
    scores: of segment i + 1.
    areas: of segment i + 1, in pixels.
  """

  ids: Int32[Array, 'height width']
  classes: Int32[Array, ' q']
  scores: Float32[Array, ' q']
  areas: Int32[Array, ' q']


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
  arguments = scores.probabilities, scores.classes, None

  def one(mask_p, interior, carry):
    return best_class(arguments, mask_p, interior)[0], carry

  return _over_tiles(one, None, mask_logits, sizes, canvas, order)[0]


def panoptic_ids(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  thing: Bool[Array, ' k'],
  sizes: Int[Array, 'axis=2 step=4'],
  canvas: tuple[int, int],
  *,
  object_threshold: float | Float[Array, ''],
  overlap_threshold: float | Float[Array, ''],
  reject_void: bool = False,
) -> TracedPanoptic:
  """One segment per pixel, as `panoptic` finds it [masqclip 8.2].

  The overlap is a ratio of exact counts in single precision: of a photo of some
  megapixels it may fall on the other side of the threshold.

  Args:
    mask_logits, scores, sizes, canvas: as for `semantic_ids`.
    thing: which columns are countable.
    object_threshold, overlap_threshold, reject_void: as for `panoptic`.
  """
  best, labels = scores.probabilities.max(-1), scores.probabilities.argmax(-1)
  kept = best > object_threshold
  if reject_void:
    kept &= best >= scores.void
  index = jnp.arange(len(best))[:, None]

  def one(mask_p, interior, counts):
    winner = jnp.where(kept[:, None], best[:, None] * mask_p, -2.0).argmax(0)
    covers, inside = mask_p >= 0.5, interior.reshape(-1)
    won = (winner == index) & inside & kept[:, None]
    found = won, covers & inside, won & covers
    counts += jnp.stack([one.sum(-1, dtype=jnp.int32) for one in found])
    region = jnp.where((won & covers).any(0), winner, -1)
    return region.reshape(interior.shape).astype(jnp.int32), counts

  counts = jnp.zeros((3, len(best)), jnp.int32)
  region, counts = _over_tiles(one, counts, mask_logits, sizes, canvas, 'masks_first')
  won, covered, area = counts
  there = (area > 0) & (won / jnp.maximum(covered, 1) >= overlap_threshold)
  ids = _numbered(there, labels, thing)
  place = jnp.where(ids > 0, ids - 1, len(ids))
  none = jnp.zeros(len(ids))
  photo = _on_canvas(sizes, canvas)
  # Pixels outside their winner's mask read the zero at the end.
  table = jnp.concatenate([ids, jnp.zeros(1, jnp.int32)])
  return TracedPanoptic(
    jnp.where(photo, table[region], OUTSIDE),
    none.astype(jnp.int32).at[place].set(labels + 1, mode='drop') - 1,
    none.at[place].max(best, mode='drop'),
    none.astype(jnp.int32).at[place].add(area, mode='drop'),
  )


def _numbered(
  there: Bool[Array, ' q'], labels: Int[Array, ' q'], thing: Bool[Array, ' k']
) -> Int32[Array, ' q']:
  """The segment of every query, from 1 in their order; stuff of a class shares one."""

  def step(carry, query):
    count, stuff = carry
    there, label = query
    shared = jnp.where(thing[label], 0, stuff[label])
    number = jnp.where(there, jnp.where(shared > 0, shared, count + 1), 0)
    stuff = stuff.at[label].set(jnp.where(there, number, stuff[label]))
    return (jnp.maximum(count, number), stuff), number

  start = jnp.int32(0), jnp.zeros(len(thing), jnp.int32)
  return jax.lax.scan(step, start, (there, labels))[1]


def _on_canvas(
  sizes: Int[Array, 'axis=2 step=4'], canvas: tuple[int, int]
) -> Bool[Array, 'height width']:
  """Where the photo lies."""
  rows, columns = (jnp.arange(side) < sizes[i, 3] for i, side in enumerate(canvas))
  return rows[:, None] & columns


def _over_tiles(
  one: Callable[..., tuple[Int32[Array, 'tile tile'], Any]],
  carry: Any,
  mask_logits: Float[Array, 'q h w'],
  sizes: Int[Array, 'axis=2 step=4'],
  canvas: tuple[int, int],
  order: Order,
) -> tuple[Int32[Array, 'height width'], Any]:
  """A map made tile by tile.

  Args:
    one: (mask probabilities [q, pixels] of a tile, which pixels are its own, carry) ->
      the map of the tile and the next carry.
    carry: what the first tile is given.
    mask_logits, sizes, canvas, order: as for `semantic_ids`.

  Returns:
    The map, -1 beyond the photo, and the last carry.
  """
  queries, *mask_canvas = mask_logits.shape
  masks, _ = tiles.arrange_arrays(
    mask_logits, sizes[:, 0], jnp.arange(queries), block=QUERY_BLOCK
  )
  axes = tuple(zip(sizes, mask_canvas, strict=True))
  steps = jnp.stack([_step(size, side, order) for size, side in axes])
  rows, columns = -(-sizes[:, 3] // steps)

  def body(index, state):
    ids, carry = state
    starts = jnp.stack([index // columns, index % columns]) * steps
    spot = jnp.stack(
      [
        _spot(size, start, step, side, order)
        for (size, side), start, step in zip(axes, starts, steps, strict=True)
      ]
    )
    mask_p = _mask_probabilities(masks, sizes, spot, order)[:queries]
    part, carry = one(mask_p, tiles.tile_interior(spot, TILE), carry)
    # What lies beyond a step is wrong, and the next tile's to overwrite.
    return jax.lax.dynamic_update_slice(ids, part, tuple(starts)), carry

  room = jnp.zeros([side + TILE for side in canvas], jnp.int32)
  ids, carry = jax.lax.fori_loop(0, rows * columns, body, (room, carry))
  ids = ids[: canvas[0], : canvas[1]]
  return jnp.where(_on_canvas(sizes, canvas), ids, OUTSIDE), carry


def _mask_probabilities(masks, sizes, spot, order: Order) -> Float[Array, 'q pixels']:
  """All masks on a tile."""
  matrices = tiles.tile_matrices(sizes, spot, masks, TILE, order)
  blocks = jax.lax.map(
    lambda i: tiles.tile_probabilities(masks, i, spot, matrices, order),
    jnp.arange(len(masks)),
  )
  return blocks.transpose(0, 2, 1, 3).reshape(-1, TILE * TILE)


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
  sizes: Int[Array, '4'],
  start: Int[Array, ''],
  step: Int[Array, ''],
  mask_side: int,
  order: Order,
) -> Int[Array, '4']:
  """Where a tile lies on an axis, as in `Tile`."""
  mask, padded, image, original = sizes
  _, mask_window = tiles.window_lengths(mask_side, TILE, order)
  pixel = jnp.floor((start + 0.5) * (image / original) - 0.5)
  first_padded = jnp.clip(pixel - 1, 0, image - 1)
  pixel = jnp.floor((first_padded + 0.5) * (mask / padded) - 0.5)
  first_mask = jnp.clip(pixel - 1, 0, mask_side - mask_window)
  count = jnp.minimum(original - start, step)
  return jnp.stack([start, count, first_padded, first_mask]).astype(jnp.int32)
