"""One pass over the tiles of a photo for everything that is wanted of it.

Enlarging the masks is most of the work of post-processing, and semantic, panoptic and
instance results all begin with it. So each of them says what it does with a block of
enlarged masks (`Kernel`) and what its tiles add up to (`Collector`), and one program
enlarges every block once for all of them. A block (half a megabyte) stays in a core's
own cache until all have used it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.postprocess import tiles
from maskclip_jax.postprocess.partition import ArrangedPartition
from maskclip_jax.postprocess.tiles import TILE, Geometry, Order, Tile

# Queries enlarged together.
QUERY_BLOCK = 8


class QueryBlock(NamedTuple):
  """Some queries on one tile, on their way through a pass.

  Attributes:
    first: position of the first of them among the arranged queries.
    logits: mask logits; None where the order is 'scores_first'.
    probabilities: mask probabilities.
    interior: pixels that belong to the result.
  """

  first: Int[Array, '']
  logits: Float[Array, 'y block x'] | None
  probabilities: Float[Array, 'y block x']
  interior: Bool[Array, 'y x']


class Kernel(NamedTuple):
  """What a kind of result does on the device, on each tile.

  Attributes:
    start: (arguments, queries, tile) -> carry, before the first block of queries.
    step: (arguments, carry, block) -> carry, for every block.
    finish: (arguments, carry, interior) -> outputs, after the last block.
    select: (arguments, positions) -> arguments of some of the queries alone, -1 being
      none; missing where a mask counts on tiles that it does not reach.
  """

  start: Callable[[Any, int, int], Any]
  step: Callable[[Any, Any, QueryBlock], Any]
  finish: Callable[[Any, Any, Bool[Array, 'y x']], Any]
  select: Callable[[Any, Int[np.ndarray, ' n']], Any] | None = None


class Collector(Protocol):
  """One kind of result, put together on the host from the outputs of tiles.

  Attributes:
    kernel: what runs on the device.
    queries: those that matter for the result, in ascending order.
  """

  kernel: Kernel
  queries: Int[np.ndarray, ' n']

  def arguments(self, order: Int[np.ndarray, ' q']) -> Any:
    """What the kernel reads: `order` tells which query lies at each position."""
    ...

  def put(self, rows: slice, columns: slice, outputs: Any) -> None:
    """Takes the outputs of one tile, which fills these rows and columns."""
    ...

  def result(self) -> Any:
    """What all tiles add up to."""
    ...


@functools.partial(jax.jit, static_argnames=('kernels', 'order', 'tile'))
def _tile_results(masks, trips, arguments, sizes, spot, *, kernels, order, tile):
  """Outputs of every kernel on one tile, from the first `trips` blocks of queries."""
  blocks, _, block, _ = masks.shape
  matrices = tiles.tile_matrices(sizes, spot, masks, tile, order)
  interior = tiles.tile_interior(spot, tile)

  def body(i, carries):
    logits = None
    if order == 'masks_first':
      logits = tiles.tile_logits(masks, i, spot, matrices)
      probabilities = jax.nn.sigmoid(logits)
    else:
      probabilities = tiles.tile_probabilities(masks, i, spot, matrices, order)
    part = QueryBlock(i * block, logits, probabilities, interior)
    return tuple(
      kernel.step(own, carry, part)
      for kernel, own, carry in zip(kernels, arguments, carries, strict=True)
    )

  start = tuple(
    kernel.start(own, blocks * block, tile)
    for kernel, own in zip(kernels, arguments, strict=True)
  )
  carries = jax.lax.fori_loop(0, trips, body, start)
  return tuple(
    kernel.finish(own, carry, interior)
    for kernel, own, carry in zip(kernels, arguments, carries, strict=True)
  )


def one_pass(
  collectors: Sequence[Collector],
  mask_logits: Float[Array, 'q h w'],
  geometry: Geometry,
  *,
  order: Order = 'masks_first',
  tile: int = TILE,
) -> None:
  """Fills collectors from one pass over the masks of the queries that matter to them.

  Args:
    collectors: what is wanted.
    mask_logits: one map per query.
    geometry: how the maps lie on the photo.
    order: see `tile_probabilities`; only 'masks_first' makes logits.
    tile: side of the tiles the work is cut into.

  Raises:
    ValueError: NaN in the masks, or sizes that do not fit.
  """
  first = np.unique(np.concatenate([one.queries for one in collectors]))
  masks = tiles.arrange(mask_logits, geometry, QUERY_BLOCK, first=first)
  if not len(first):
    return
  # Zero masks fill the last block: they have numbers that no query has.
  count = masks.shape[0] * masks.shape[2]
  places = np.concatenate([first, np.setdiff1d(np.arange(count), first)])
  kernels = tuple(one.kernel for one in collectors)
  arguments = tuple(one.arguments(places) for one in collectors)
  select = None
  if isinstance(masks, ArrangedPartition) and all(kernel.select for kernel in kernels):
    size = tuple(length for _, length in tiles.windows_of(masks, tile, order))
    select = functools.partial(_within_reach, masks, kernels, arguments, size)
  outputs = tiles.run(
    functools.partial(_tile_results, kernels=kernels, order=order),
    masks,
    np.int32(-(-len(first) // QUERY_BLOCK)),
    arguments,
    geometry=geometry,
    tile=tile,
    order=order,
    select=select,
  )
  for rows, columns, found in outputs:
    for one, part in zip(collectors, found, strict=True):
      one.put(rows, columns, part)


def _within_reach(
  masks: ArrangedPartition,
  kernels: Sequence[Kernel],
  arguments: Sequence[Any],
  size: tuple[int, int],
  parts: Sequence[Tile],
) -> Iterator[tuple[Any, ...]]:
  """What each tile is made from, of masks that reach into its window alone.

  A photo of a thousand pixels is read in dozens of windows, and a tile lies in a few of
  them.
  """
  corners = np.stack([part.spot[:, 3] for part in parts])
  for blocks in masks.near(corners, size):
    positions = blocks[:, None] * QUERY_BLOCK + np.arange(QUERY_BLOCK)
    positions = np.where(blocks[:, None] < 0, -1, positions).ravel()
    own = (
      kernel.select(given, positions)
      for kernel, given in zip(kernels, arguments, strict=True)
    )
    yield masks.select(blocks), np.int32(len(blocks)), tuple(own)
