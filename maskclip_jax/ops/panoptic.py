"""Panoptic results: one segment per pixel (spec section 8.2)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from maskclip_jax.ops import masks as tiles
from maskclip_jax.ops.class_scores import ClassScores, checked
from maskclip_jax.ops.masks import TILE, Geometry

# Queries handled together; those that are not kept cost nothing.
_QUERY_BLOCK = 8


@dataclasses.dataclass(frozen=True)
class Segment:
  """One segment of a panoptic result.

  Attributes:
    id: its value in the id map, from 1.
    class_index: its class, a column of the text bank.
    thing: whether it is one counted object; stuff is one segment per class.
    score: of its query; the best of them where stuff was merged.
    area: in pixels of the photo.
    query: the query that it came from; the first of them where stuff was merged.
  """

  id: int
  class_index: int
  thing: bool
  score: float
  area: int
  query: int


@functools.partial(jax.jit, static_argnames='tile')
def _winners(masks, query_scores, kept, sizes, spot, *, tile):
  """Which kept query wins each pixel, and the pixel counts the merging needs.

  Returns:
    The winner where its mask covers the pixel and -1 elsewhere; per query the pixels
    won, the pixels covered, and the pixels both won and covered.
  """
  matrices = tiles.tile_matrices(sizes, spot, masks.shape[1::2], tile)
  interior = tiles.tile_interior(spot, tile)
  blocks, _, block, _ = masks.shape
  index = jnp.arange(block)[:, None]

  def body(i, carry):
    best, winner, inside, covered = carry
    mask_p = tiles.tile_probabilities(masks, i, spot, matrices, 'masks_first')
    cover = mask_p >= 0.5
    score = jax.lax.dynamic_slice_in_dim(query_scores, i * block, block)
    value = jnp.where(i * block + index < kept, score[:, None] * mask_p, -2.0)
    top = value.max(1)
    first = jnp.min(jnp.where(value == top[:, None], index, block), axis=1)
    first_covers = jnp.any(cover & (index == first[:, None]), axis=1)
    better = top > best
    pixels = jnp.sum(cover & interior[:, None], axis=(0, 2), dtype=jnp.int32)
    return (
      jnp.where(better, top, best),
      jnp.where(better, i * block + first, winner),
      jnp.where(better, first_covers, inside),
      jax.lax.dynamic_update_slice_in_dim(covered, pixels, i * block, 0),
    )

  shape = (tile, tile)
  start = (
    jnp.full(shape, -1.0),
    jnp.zeros(shape, jnp.int32),
    jnp.zeros(shape, bool),
    jnp.zeros(blocks * block, jnp.int32),
  )
  trips = (kept + block - 1) // block
  _, winner, inside, covered = jax.lax.fori_loop(0, trips, body, start)
  region = jnp.where(inside, winner, -1)

  def count(ranks, where):
    ranks = jnp.where(where, ranks, blocks * block).ravel()
    return jnp.zeros(blocks * block, jnp.int32).at[ranks].add(1, mode='drop')

  return region, count(winner, interior), covered, count(winner, interior & inside)


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
  """Steps 3 and 4 of spec section 8.2, for kept queries in query order.

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
  probabilities, void = checked(scores, len(mask_logits), thing)
  best = probabilities.max(-1)
  keep = best > object_threshold
  if reject_void:
    keep &= best >= void
  kept = np.flatnonzero(keep)
  masks = tiles.arrange(mask_logits, geometry, _QUERY_BLOCK, first=kept)
  if not len(kept):
    return np.zeros(geometry.original, np.int32), ()
  query_scores = np.zeros(masks.shape[0] * _QUERY_BLOCK, np.float32)
  query_scores[: len(kept)] = best[kept]
  region = np.empty(geometry.original, np.int32)
  counts = np.zeros((3, len(query_scores)), np.int64)
  for rows, columns, (part, *part_counts) in tiles.run(
    _winners,
    masks,
    query_scores,
    np.int32(len(kept)),
    geometry=geometry,
    tile=tile,
  ):
    region[rows, columns] = tiles.crop(part, rows, columns)
    counts += np.stack(part_counts)
  ids, segments = _merge_segments(
    *counts[:, : len(kept)],
    probabilities[kept].argmax(-1),
    best[kept],
    kept,
    np.asarray(thing),
    overlap_threshold,
  )
  # Index -1, pixels outside their winner's mask, reads the zero at the end.
  return np.append(ids, np.int32(0))[region], segments
