"""Instance results: scored pairs of a mask and a class (spec section 8.3)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from maskclip_jax.ops import masks as tiles
from maskclip_jax.ops.class_scores import ClassScores, checked
from maskclip_jax.ops.masks import TILE, Geometry, PackedMasks


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
  """Detections of one image, best first; one mask may serve several classes.

  Attributes:
    scores: class probability times the mean mask probability inside the mask.
    classes: columns of the text bank.
    queries: where each came from.
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


@functools.partial(jax.jit, static_argnames='k')
def _top(scores: ClassScores, *, k: int):
  """The k best (query, class) pairs, best first."""
  p = jnp.where(scores.classes, scores.probabilities, -1.0)
  return jax.lax.top_k(p.reshape(-1), min(k, p.size))


@functools.partial(jax.jit, static_argnames='tile')
def _binary_masks(masks, wanted, sizes, spot, *, tile):
  """Binary masks as planes of eight, with their areas and summed probabilities."""
  matrices = tiles.tile_matrices(sizes, spot, masks.shape[1::2], tile)
  interior = tiles.tile_interior(spot, tile)[:, None]
  blocks = masks.shape[0]
  bit = (1 << jnp.arange(8, dtype=jnp.int32))[:, None]

  def body(i, carry):
    planes, areas, sums = carry
    logits = tiles.tile_logits(masks, i, spot, matrices)
    inside = (logits > 0) & interior
    plane = jnp.sum(jnp.where(inside, bit, 0), axis=1).astype(jnp.uint8).T
    area = jnp.sum(inside, axis=(0, 2), dtype=jnp.int32)
    total = jnp.sum(jnp.where(inside, jax.nn.sigmoid(logits), 0.0), axis=(0, 2))
    update = jax.lax.dynamic_update_index_in_dim
    return (
      update(planes, plane, i, 0),
      update(areas, area, i, 0),
      update(sums, total, i, 0),
    )

  start = (
    jnp.zeros((blocks, tile, tile), jnp.uint8),
    jnp.zeros((blocks, 8), jnp.int32),
    jnp.zeros((blocks, 8), jnp.float32),
  )
  return jax.lax.fori_loop(0, (wanted + 7) // 8, body, start)


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
  """The `top_k` best pairs of a mask and a class (spec section 8.3).

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
  checked(scores, len(mask_logits), thing)
  best, index = jax.device_get(_top(scores, k=top_k))
  queries, classes = np.divmod(index, len(scores.classes))
  keep = best >= 0
  if things_only:
    keep &= np.asarray(thing)[classes]
  best, queries, classes = best[keep], queries[keep], classes[keep]
  wanted, rows = np.unique(queries, return_inverse=True)
  packed, areas, sums = _packed(mask_logits, wanted, geometry, tile)
  final = (best * (sums / (areas + 1e-6))[rows]).astype(np.float32)
  order = np.argsort(-final, kind='stable')
  return Instances(
    final[order],
    classes[order].astype(np.int32),
    queries[order].astype(np.int32),
    areas[rows][order],
    packed,
    rows[order].astype(np.int32),
  )


def _packed(mask_logits, wanted: Int[np.ndarray, ' n'], geometry: Geometry, tile: int):
  """Masks of the wanted queries, their areas and their summed probabilities."""
  masks = tiles.arrange(mask_logits, geometry, 8, first=wanted)
  height, width = geometry.original
  used = -(-len(wanted) // 8)
  planes = np.empty((used, width, height), np.uint8)
  areas, sums = np.zeros(used * 8, np.int64), np.zeros(used * 8)
  if used:
    for rows, columns, (part, area, total) in tiles.run(
      _binary_masks, masks, np.int32(len(wanted)), geometry=geometry, tile=tile
    ):
      planes[:, columns, rows] = tiles.crop(part[:used], columns, rows)
      areas += area[:used].ravel()
      sums += total[:used].ravel()
  count = len(wanted)
  return PackedMasks(planes, count), areas[:count], sums[:count]
