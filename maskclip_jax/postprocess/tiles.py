"""Masks at the size of the photo, one tile at a time.

A mask reaches the photo through two bilinear resizes: mask -> padded size, then,
cropped to the image, -> original size [masqclip 8]. Done for a hundred queries at
once this takes gigabytes; here one compiled program makes one tile of the result from
the small window of the masks that the tile needs. Which window is data, so a photo of
any size runs the same program in the same memory.

Both resizes are small matrix products, so a tile costs two of them per axis, or one
where nothing happens in between and the matrices can be multiplied first.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from maskclip_jax.ops.resize import resize_taps, taps_matrix
from maskclip_jax.postprocess.partition import ArrangedPartition, Partition

Order = Literal['masks_first', 'scores_first']
# Masks as tiles read them: blocks of queries, or what stands for them.
Arranged = Float[Array, 'blocks h block w'] | ArrangedPartition

# Side of a tile: the masks of 100 queries at this size (7 MB) stay in a core's caches.
TILE = 128
# The padded pixels a tile may touch: its own number, one more for the second tap, and a
# spare on both sides, because the plan rounds in double and the program in single.
_PADDED_SPARE = 4
# Where the two resizes are one matrix, a tile may come from more padded pixels than it
# has itself: networks see a photo enlarged (COCO's 480 pixels as 800).
_PADDED_REACH = 9 / 4
# Tiles in flight on the device while the host copies one.
_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Geometry:
  """How a mask map lies on the photo, all (height, width) in pixels.

  Attributes:
    mask: the real part of the mask maps; it covers the padded image.
    padded: the image with its padding, as the network saw it.
    image: the resized photo, top left in the padded image.
    original: the photo as it was given; results have this size.

  Raises:
    ValueError: a size below one, or an image that does not fit its padding.
  """

  mask: tuple[int, int]
  padded: tuple[int, int]
  image: tuple[int, int]
  original: tuple[int, int]

  def __post_init__(self):
    for field in dataclasses.fields(self):
      size = tuple(int(side) for side in getattr(self, field.name))
      if len(size) != 2 or min(size) < 1:
        raise ValueError(f'{field.name} size must be (height, width) >= 1, not {size}')
      object.__setattr__(self, field.name, size)
    if self.image[0] > self.padded[0] or self.image[1] > self.padded[1]:
      raise ValueError(
        f'an image of {self.image} does not fit its padded size {self.padded}'
      )

  @classmethod
  def same(cls, height: int, width: int) -> 'Geometry':
    """Masks that already have the photo's size."""
    return cls(*(((height, width),) * 4))

  def sizes(self) -> Int[np.ndarray, 'axis=2 step=4']:
    """Per axis: mask, padded, image and original length."""
    return np.array([self.mask, self.padded, self.image, self.original], np.int32).T


class Tile(NamedTuple):
  """One tile of the result.

  Attributes:
    rows: the rows of the photo it fills.
    columns: the columns of the photo it fills.
    spot: per axis: first output pixel, number of output pixels, first padded pixel and
      first mask pixel of the windows it is made from.
  """

  rows: slice
  columns: slice
  spot: Int[np.ndarray, 'axis=2 what=4']


def window_lengths(
  mask_side: int, tile: int, order: Order, *, fine: bool = False
) -> tuple[int, int]:
  """Lengths of the windows of padded and of mask pixels a tile is made from.

  Args:
    mask_side: pixels of the mask arrays.
    tile: side of a tile.
    order: see `tile_probabilities`.
    fine: whether masks have the pixels of the padded photo, and not a quarter of them.
  """
  padded = tile if order == 'scores_first' else int(tile * _PADDED_REACH)
  masks = tile if fine else tile // 2
  return padded + _PADDED_SPARE, min(mask_side, masks + 8)


def are_fine(masks: Arranged) -> bool:
  """Whether masks have as many pixels as the padded photo."""
  return isinstance(masks, ArrangedPartition)


def windows_of(masks: Arranged, tile: int, order: Order) -> list[tuple[int, int]]:
  """`window_lengths` of both axes."""
  fine = are_fine(masks)
  return [window_lengths(side, tile, order, fine=fine) for side in masks.shape[1::2]]


def _plan_axis(
  sizes: Int[np.ndarray, '4'], mask_side: int, tile: int, order: Order, fine: bool
) -> list[tuple[int, int, int, int]]:
  """Cuts one axis into tiles whose windows fit.

  A tile is shorter than `tile` where the result shrinks what it is made from, so that
  the work follows the larger of the two.
  """
  mask, padded, image, original = (int(size) for size in sizes)
  padded_window, mask_window = window_lengths(mask_side, tile, order, fine=fine)
  pixels = np.arange(original)
  low = np.floor(np.clip((pixels + 0.5) * image / original - 0.5, 0, image - 1))
  padded_low, padded_high = np.maximum(low - 1, 0), np.minimum(low + 2, image - 1)

  def mask_pixel(pixel):
    return np.floor(np.maximum((pixel + 0.5) * mask / padded - 0.5, 0))

  mask_low = np.maximum(mask_pixel(padded_low) - 1, 0)
  mask_high = np.minimum(mask_pixel(padded_high) + 2, mask - 1)
  tiles, start = [], 0
  while start < original:
    stop = min(start + tile, original)
    # Both are non-decreasing: the last pixel that still fits is found by bisection.
    for high, first, window in (
      (padded_high, padded_low[start], padded_window),
      (mask_high, min(mask_low[start], mask_side - mask_window), mask_window),
    ):
      stop = min(stop, int(np.searchsorted(high, first + window)))
    if stop <= start:
      raise ValueError(
        f'{mask} mask pixels over {padded} padded pixels are too many for tiles of '
        f'{tile}: give larger tiles'
      )
    mask_start = int(min(mask_low[start], mask_side - mask_window))
    tiles.append((start, stop - start, int(padded_low[start]), mask_start))
    start = stop
  return tiles


def plan(
  geometry: Geometry,
  mask_canvas: tuple[int, int],
  tile: int = TILE,
  order: Order = 'masks_first',
  *,
  fine: bool = False,
) -> list[Tile]:
  """Tiles that cover the photo, in reading order.

  Args:
    geometry: the sizes involved.
    mask_canvas: (height, width) of the mask arrays, of which `geometry.mask` is real.
    tile: side of a tile in pixels.
    order: see `tile_probabilities`.
    fine: see `window_lengths`.

  Raises:
    ValueError: masks larger than their canvas, or far finer than the padded image.
  """
  if geometry.mask[0] > mask_canvas[0] or geometry.mask[1] > mask_canvas[1]:
    raise ValueError(
      f'masks of {geometry.mask} do not fit in arrays of {tuple(mask_canvas)}'
    )
  rows, columns = (
    _plan_axis(sizes, side, tile, order, fine)
    for sizes, side in zip(geometry.sizes(), mask_canvas, strict=True)
  )
  return [
    Tile(
      slice(row[0], row[0] + row[1]),
      slice(column[0], column[0] + column[1]),
      np.array([row, column], np.int32),
    )
    for row in rows
    for column in columns
  ]


def arrange(
  mask_logits: Float[Array, 'q h w'] | Partition,
  geometry: Geometry,
  block: int,
  first: Int[np.ndarray, ' n'] | None = None,
) -> Arranged:
  """Masks in the layout tiles are made from.

  Args:
    mask_logits: one map per query.
    geometry: tells the real part of the maps; the rest may hold anything.
    block: queries handled together; zero masks fill the last block.
    first: queries that come first, in this order; the others follow.

  Raises:
    ValueError: the real part of a mask holds NaN or infinity.
  """
  queries = mask_logits.shape[0]
  first = np.arange(queries) if first is None else first
  order = np.concatenate([first, np.setdiff1d(np.arange(queries), first)])
  if isinstance(mask_logits, Partition):
    return ArrangedPartition.of(mask_logits, order, block)
  masks, finite = arrange_arrays(
    mask_logits,
    np.array(geometry.mask, np.int32),
    order.astype(np.int32),
    block=block,
  )
  if not finite:
    raise ValueError(
      'mask logits contain NaN or infinite values: the weights or the input image are '
      'damaged, or half precision overflowed; try float32'
    )
  return masks


@functools.partial(jax.jit, static_argnames='block')
def arrange_arrays(
  mask_logits: Float[Array, 'q h w'],
  mask_hw: Int[Array, '2'],
  order: Int[Array, ' q'],
  *,
  block: int,
) -> tuple[Float[Array, 'blocks h block w'], Bool[Array, '']]:
  """`arrange` inside a program: the masks, and whether all of them are finite."""
  queries, height, width = mask_logits.shape
  real = (jnp.arange(height) < mask_hw[0])[:, None] & (jnp.arange(width) < mask_hw[1])
  # Outside the real part a NaN times a zero weight would still be a NaN.
  masks = jnp.where(real, mask_logits.astype(jnp.float32), 0.0)
  finite = jnp.isfinite(masks).all()
  masks = jnp.pad(masks[order], ((0, -queries % block), (0, 0), (0, 0)))
  masks = masks.reshape(-1, block, height, width)
  return masks.transpose(0, 2, 1, 3), finite


def _axis_matrices(
  sizes: Int[Array, '4'],
  spot: Int[Array, '4'],
  tile: int,
  padded_window: int,
  mask_window: int,
) -> tuple[Float[Array, 'padded mask'], Float[Array, 'out padded']]:
  """Both resizes of one axis between the windows of a tile."""
  mask, padded, image, original = sizes
  first_out, _, first_padded, first_mask = spot
  taps, weights = resize_taps(
    jnp.minimum(first_out + jnp.arange(tile), original - 1), image, original, 'bilinear'
  )
  to_original = taps_matrix(taps - first_padded, weights, padded_window)
  taps, weights = resize_taps(
    jnp.minimum(first_padded + jnp.arange(padded_window), padded - 1),
    mask,
    padded,
    'bilinear',
  )
  return taps_matrix(taps - first_mask, weights, mask_window), to_original


def _apply(
  rows: Float[Array, 'y h'], columns: Float[Array, 'x w'], maps: Float[Array, 'h q w']
) -> Float[Array, 'y q x']:
  """A separable resize as two plain (unbatched) matrix products."""
  highest = jax.lax.Precision.HIGHEST
  maps = jnp.einsum('yh,hqw->yqw', rows, maps, precision=highest)
  return jnp.einsum('yqw,xw->yqx', maps, columns, precision=highest)


def tile_matrices(
  sizes: Int[Array, 'axis=2 step=4'],
  spot: Int[Array, 'axis=2 what=4'],
  masks: Arranged,
  tile: int,
  order: Order = 'masks_first',
):
  """Per axis, how one tile is made from its window of the masks.

  Args:
    sizes: from `Geometry.sizes`.
    spot: from `plan`.
    masks: from `arrange`.
    tile: side of a tile.
    order: see `tile_probabilities`.

  Returns:
    For 'masks_first' one matrix per axis (mask -> original); for 'scores_first' the
    matrices (mask -> padded, padded -> original).
  """
  pairs = [
    _axis_matrices(sizes[i], spot[i], tile, *lengths)
    for i, lengths in enumerate(windows_of(masks, tile, order))
  ]
  if order == 'scores_first':
    return tuple(pairs)
  highest = jax.lax.Precision.HIGHEST
  return tuple(jnp.matmul(last, first, precision=highest) for first, last in pairs)


def tile_logits(
  masks: Arranged,
  index: Int[Array, ''] | int,
  spot: Int[Array, 'axis=2 what=4'],
  matrices,
) -> Float[Array, 'y block x']:
  """Mask logits of a block of queries on one tile of the photo ('masks_first')."""
  rows, columns = matrices
  return _apply(rows, columns, _window(masks, index, spot, rows, columns))


def tile_probabilities(
  masks: Arranged,
  index: Int[Array, ''] | int,
  spot: Int[Array, 'axis=2 what=4'],
  matrices,
  order: Order,
) -> Float[Array, 'y block x']:
  """Mask probabilities of a block of queries on one tile of the photo.

  Args:
    masks: from `arrange`.
    index: which block.
    spot: from `plan`.
    matrices: from `tile_matrices`, for the same order.
    order: 'masks_first' resizes the logits to the photo and then takes the sigmoid;
      'scores_first' takes it at the padded size, so what is resized last is linear in
      the class scores, as if their maps had been resized.
  """
  if order == 'masks_first':
    return jax.nn.sigmoid(tile_logits(masks, index, spot, matrices))
  (rows, rows2), (columns, columns2) = matrices
  padded = _apply(rows, columns, _window(masks, index, spot, rows, columns))
  return _apply(rows2, columns2, jax.nn.sigmoid(padded))


def _window(masks: Arranged, index, spot, rows, columns):
  if isinstance(masks, ArrangedPartition):
    return masks.window(index, spot[:, 3], (rows.shape[1], columns.shape[1]))
  start = (index, spot[0, 3], 0, spot[1, 3])
  size = (1, rows.shape[1], masks.shape[2], columns.shape[1])
  return jax.lax.dynamic_slice(masks, start, size)[0]


def tile_interior(
  spot: Int[Array, 'axis=2 what=4'], tile: int
) -> Bool[Array, 'tile tile']:
  """Pixels of a tile that belong to the result."""
  rows, columns = (jnp.arange(tile) < spot[i, 1] for i in (0, 1))
  return rows[:, None] & columns


def run(
  program: Callable[..., Any],
  masks: Arranged,
  *arguments,
  geometry: Geometry,
  tile: int,
  order: Order = 'masks_first',
  select: Callable[[Sequence[Tile]], Iterable[tuple[Any, ...]]] | None = None,
) -> Iterator[tuple[slice, slice, Any]]:
  """Runs `program(masks, *arguments, sizes, spot)` for every tile of the photo.

  A few tiles are queued ahead of the copies to the host, so that neither waits.

  Args:
    program: what makes a tile.
    masks: from `arrange`.
    *arguments: of the program.
    geometry: how the masks lie on the photo.
    tile: side of a tile.
    order: see `tile_probabilities`.
    select: gives masks and arguments of each tile, where they are not the same.

  Yields:
    The rows and the columns of the photo that a tile fills, and its outputs.
  """
  sizes = geometry.sizes()
  ahead = collections.deque()
  parts = plan(geometry, masks.shape[1::2], tile, order, fine=are_fine(masks))
  same = itertools.repeat((masks, *arguments), len(parts))
  for part, given in zip(parts, select(parts) if select else same, strict=True):
    ahead.append((part, program(*given, sizes, part.spot, tile=tile)))
    if len(ahead) > _AHEAD:
      done, outputs = ahead.popleft()
      yield done.rows, done.columns, jax.device_get(outputs)
  for done, outputs in ahead:
    yield done.rows, done.columns, jax.device_get(outputs)


def crop(part: np.ndarray, *where: slice) -> np.ndarray:
  """The top left corner of a tile that fills `where` (its last axes)."""
  sizes = (slice(0, one.stop - one.start) for one in where)
  return part[(..., *sizes)]


@dataclasses.dataclass(frozen=True, eq=False)
class PackedMasks:
  """Binary masks of the photo's size, eight to a byte.

  Attributes:
    planes: mask i is bit i % 8 of plane i // 8. Planes are stored column by column,
      the order that COCO's run-length code reads.
    count: how many masks there are.
  """

  planes: UInt8[np.ndarray, 'planes width height']
  count: int

  def __len__(self) -> int:
    return self.count

  @property
  def shape(self) -> tuple[int, int]:
    """Height and width of the masks."""
    return self.planes.shape[2], self.planes.shape[1]

  def __getitem__(self, index: int) -> Bool[np.ndarray, 'height width']:
    if not 0 <= index < self.count:
      raise IndexError(f'mask {index} of {self.count}')
    plane = self.planes[index // 8]
    return (plane & np.uint8(1 << index % 8)).astype(bool).T
