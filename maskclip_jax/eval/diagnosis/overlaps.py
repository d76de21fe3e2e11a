"""How much every proposed mask shares with every true region, tile by tile.

At the size of the photo, like the results themselves (`postprocess/tiles.py`), so an
oracle that uses these numbers sees exactly the masks that would be judged.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64
from pycocotools import mask as coco_mask

from maskclip_jax.eval.examples import Truth
from maskclip_jax.eval.predictor import ImageOutputs
from maskclip_jax.postprocess import tiles
from maskclip_jax.postprocess.tiles import TILE

_QUERY_BLOCK = 8
# Numbers of regions, and sides of maps, are rounded up to these: few programs.
_REGION_STEP, _SIDE_STEP = 32, 512


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
  """What there is to be found in a photo, one region per pixel.

  Attributes:
    map: row of the region of each pixel, -1 where there is none.
    classes: class of each row.
    areas: pixels of each row in the map.
  """

  map: Int[np.ndarray, 'height width']
  classes: Int[np.ndarray, ' n']
  areas: Int64[np.ndarray, ' n']

  def __len__(self) -> int:
    return len(self.classes)

  @classmethod
  def of(cls, truth: Truth) -> 'Regions':
    """The regions of a photo's ground truth; crowds are none.

    Segments where there are any, else the area of each class, else objects, of which
    the smaller lie on the larger.
    """
    if truth.panoptic is not None:
      segments = truth.panoptic
      crowd = segments.crowd
      rows = np.arange(len(segments.classes))
      rows = rows if crowd is None else np.where(crowd, -1, rows)
      return cls._compact(np.append(rows, -1)[segments.map], segments.classes)
    if truth.semantic is not None:
      classes = np.arange(int(truth.semantic.max(initial=-1)) + 1)
      return cls._compact(truth.semantic, classes)
    return cls._painted(truth.instance)

  @classmethod
  def _painted(cls, objects) -> 'Regions':
    size = objects.masks[0]['size'] if len(objects.masks) else (1, 1)
    rows = np.full(size, -1, np.int32)
    for row in np.argsort(-np.asarray(objects.areas), kind='stable'):
      if not objects.crowd[row]:
        rows[coco_mask.decode(objects.masks[row]) > 0] = row
    return cls._compact(rows, objects.classes)

  @classmethod
  def _compact(cls, rows, classes) -> 'Regions':
    """Drops rows without a pixel."""
    areas = np.bincount(np.ravel(rows) + 1, minlength=len(classes) + 1)[1:]
    kept = np.flatnonzero(areas)
    table = np.full(len(classes) + 1, -1, np.int32)
    table[kept] = np.arange(len(kept))
    return cls(table[rows], np.asarray(classes)[kept], areas[kept])


@functools.partial(jax.jit, static_argnames=('tile', 'regions'))
def _count(masks, truth, sizes, spot, *, tile, regions) -> Float[Array, 'q n']:
  """Pixels that each query shares with each region on one tile."""
  matrices = tiles.tile_matrices(sizes, spot, masks, tile)
  interior = tiles.tile_interior(spot, tile)
  part = jax.lax.dynamic_slice(truth, spot[:, 0], (tile, tile))
  part = jnp.where(interior, part, -1).reshape(-1)
  member = jax.nn.one_hot(part, regions, dtype=jnp.float32)

  def body(_, index):
    inside = tiles.tile_logits(masks, index, spot, matrices) > 0
    inside = inside.transpose(1, 0, 2).reshape(_QUERY_BLOCK, -1)
    # Counts of up to a tile's pixels are exact in float32.
    return None, jnp.matmul(
      inside.astype(jnp.float32), member, precision=jax.lax.Precision.HIGHEST
    )

  _, counts = jax.lax.scan(body, None, jnp.arange(masks.shape[0]))
  return counts.reshape(-1, regions)


def shared_pixels(
  outputs: ImageOutputs, regions: Regions, *, tile: int = TILE
) -> Int64[np.ndarray, 'q n']:
  """Pixels that every proposed mask (logit above 0) shares with every region.

  Raises:
    ValueError: the map has another size than the photo, or a mask holds NaN.
  """
  geometry, queries = outputs.geometry, len(outputs.mask_logits)
  if regions.map.shape != geometry.original:
    raise ValueError(
      f'regions of {regions.map.shape} do not fit a photo of {geometry.original}'
    )
  if not len(regions):
    return np.zeros((queries, 0), np.int64)
  masks = tiles.arrange(outputs.mask_logits, geometry, _QUERY_BLOCK)
  sides = [-(-(s + tile) // _SIDE_STEP) * _SIDE_STEP for s in regions.map.shape]
  truth = np.full(sides, -1, np.int32)
  truth[: regions.map.shape[0], : regions.map.shape[1]] = regions.map
  rounded = -(-len(regions) // _REGION_STEP) * _REGION_STEP
  total = np.zeros((masks.shape[0] * _QUERY_BLOCK, rounded), np.int64)
  program = functools.partial(_count, regions=rounded)
  truth = jax.device_put(truth, masks.device)
  for _, _, counts in tiles.run(program, masks, truth, geometry=geometry, tile=tile):
    total += counts.astype(np.int64)
  return total[:queries, : len(regions)]


def overlap(
  outputs: ImageOutputs, regions: Regions, *, tile: int = TILE
) -> Float32[np.ndarray, 'q n']:
  """IoU of every proposed mask with every region; pixels of no region do not count."""
  shared = shared_pixels(outputs, regions, tile=tile)
  union = shared.sum(1, keepdims=True) + regions.areas - shared
  return (shared / union).astype(np.float32)
