"""Multi-scale deformable sampling as a Pallas kernel for TPUs.

The sums are those of `hats`. One step of the grid takes one head of one photo and a
tile of queries. The values of all levels lie in VMEM; block by block of a level's rows
the step forms the weights of all pixels for all queries there, and multiplies them by
the values on the matrix unit, so nothing but inputs and outputs crosses the memory.

A bit per block says whether any point of the tile falls into it; others are skipped.
The cost follows how far queries look, and the result is exact wherever that is.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from maskclip_jax.ops.deformable.hats import (
  hat,
  queries_last,
  real_values,
  slope,
  split_levels,
)

# A register: rows of 32 bits, rows of 16 bits, columns.
ROWS, PACKED, LANES = 8, 16, 128
# Queries of a step.
TILE = 256
# Pixels that a block has at least: fewer starve the matrix unit.
BLOCK = 512
# Pixels of a block up to which its rows are unrolled: more code takes long to compile.
UNROLLED = 1024
# Blocks of a level at most: the bits of a number.
BITS = 32
# Memory of a core that a kernel may use at least, and bytes it needs per value.
LEAST_MEMORY = 16 * 2**20
# Where points beyond all levels lie that fill up the last tile.
OUTSIDE = -2.0


@dataclasses.dataclass(frozen=True)
class Level:
  """How the kernel lays out a level.

  Attributes:
    height: rows of the level.
    width: columns of the level.
    columns: columns filled up to whole registers.
    rows: rows of a block.
    blocks: blocks of the level.
    start: the place of its first pixel among those of all levels.
  """

  height: int
  width: int
  columns: int
  rows: int
  blocks: int
  start: int

  @property
  def block(self) -> int:
    """Pixels of a block."""
    return self.rows * self.columns

  @property
  def end(self) -> int:
    """Where the next level starts."""
    return self.start + self.blocks * self.block

  @property
  def filled(self) -> bool:
    """Whether its positions fill the blocks."""
    return self.blocks * self.block == self.height * self.width


def layout(shapes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
  """Lays out levels of (height, width) in blocks of whole registers."""
  levels, start = [], 0
  for height, width in shapes:
    columns = -(-width // PACKED) * PACKED
    step = LANES // math.gcd(columns, LANES)
    least = max(BLOCK // columns, -(-height // BITS), 1)
    rows = -(-least // step) * step
    levels.append(Level(height, width, columns, rows, -(-height // rows), start))
    start = levels[-1].end
  return tuple(levels)


def touched_blocks(
  levels: Sequence[Level], x: Float[Array, 'n lp q'], y: Float[Array, 'n lp q']
) -> Int[Array, 'n l t']:
  """Per level and tile of queries, a bit for every block that a point falls into."""
  points = x.shape[1] // len(levels)
  bits = []
  for number, level in enumerate(levels):
    own = slice(number * points, (number + 1) * points)
    inside = (x[:, own] > -1) & (x[:, own] < level.width)
    low = jnp.clip(jnp.floor(y[:, own]), -2, level.height).astype(jnp.int32)
    found = 0
    for row in (low, low + 1):
      hit = inside & (row >= 0) & (row < level.height)
      block = jnp.clip(row, 0, level.height - 1) // level.rows
      found |= jnp.where(hit, 1 << block, 0)
    found = found.reshape(len(x), points, -1, TILE)
    bits.append(jax.lax.reduce(found, jnp.int32(0), jax.lax.bitwise_or, (1, 3)))
  return jnp.stack(bits, 1)


def _each_bit(bits: jax.Array, use: Callable[[jax.Array], None]) -> None:
  """`use(number)` for every bit that is set."""

  def step(bits):
    lowest = bits & -bits
    use(BITS - 1 - jax.lax.clz(lowest))
    return bits ^ lowest

  jax.lax.while_loop(lambda bits: bits != 0, step, bits)


def _to_columns(level: Level, x: Float[Array, ' q']) -> Float[Array, 'w q']:
  """Signed distances of a level's columns from points."""
  shape = (level.columns, len(x))
  return jax.lax.broadcasted_iota(jnp.int32, shape, 0).astype(jnp.float32) - x[None]


def _loop(count: int, body: Callable, state, unrolled: bool):
  """`state = body(i, state)` for i below `count`."""
  return jax.lax.fori_loop(0, count, body, state, unroll=count if unrolled else 1)


def _each(count: int, use: Callable[[jax.Array], None], unrolled: bool) -> None:
  """`use(i)` for i below `count`."""
  _loop(count, lambda i, _: use(i), None, unrolled)


def _slice(number: jax.Array, size: int):
  """The numbered one of slices of a size that fills registers."""
  return pl.ds(pl.multiple_of(number * size, size), size)


def _block(level: Level, number: jax.Array):
  """The pixels of a block of a level among those of all levels."""
  return pl.ds(pl.multiple_of(level.start + number * level.block, LANES), level.block)


def _registers(row: Float[Array, ' q']) -> Float[Array, '8 q']:
  return jnp.broadcast_to(row[None], (ROWS, len(row)))


def _sixteen(table, point: int, columns, lanes) -> Float[Array, '2 8 128']:
  """Hats or slopes of 16 columns, register by register."""
  return table[point, columns, lanes].reshape(-1, ROWS, LANES)


def _weigh(matrix, pixels, lanes, wx, wy) -> None:
  """What 16 pixels of a row count for 128 queries: a sum over the points."""
  sums = functools.reduce(operator.add, map(operator.mul, wx, wy))
  matrix[pixels, lanes] = sums.reshape(PACKED, LANES).astype(matrix.dtype)


def _each_row(level: Level, block, y, own: range, use: Callable, unrolled: bool):
  """`use(row, lanes, distances)` for the rows of a block and 128 queries at a time.

  `distances` are the row's from the points. Rows are unrolled as far as the code stays
  small.
  """

  def of_lanes(number):
    lanes = _slice(number, LANES)
    heights = [_registers(y[0, k, lanes]) for k in own]

    def of_row(row):
      place = (block * level.rows + row).astype(jnp.float32)
      use(row, lanes, [place - height for height in heights])

    _each(level.rows, of_row, unrolled and level.block <= UNROLLED)

  _each(y.shape[-1] // LANES, of_lanes, unrolled)


def _forward(
  touched, v, x, y, a, out, hats, matrix, *, levels, precision, unrolled
) -> None:
  """One head and tile: v [1, d, s], x, y, a [1, l p, q] -> out [1, d, q].

  Scratch: `hats` [p, columns, q] and `matrix` [block, q].
  """
  points = x.shape[1] // len(levels)
  out[...] = jnp.zeros_like(out)
  for number, level in enumerate(levels):
    own = range(number * points, (number + 1) * points)
    steps = level.columns // PACKED
    for p, k in enumerate(own):
      hats[p, : level.columns] = hat(_to_columns(level, x[0, k]))

    def weigh(row, lanes, distances, own=own, steps=steps):
      shares = [_registers(a[0, k, lanes]) for k in own]
      wy = [hat(d) * share for d, share in zip(distances, shares, strict=True)]

      def columns(step):
        wx = [_sixteen(hats, p, _slice(step, PACKED), lanes) for p in range(points)]
        _weigh(matrix, _slice(row * steps + step, PACKED), lanes, wx, wy)

      _each(steps, columns, unrolled)

    def add(block, level=level, own=own, weigh=weigh):
      _each_row(level, block, y, own, weigh, unrolled)
      out[0] += jnp.dot(
        v[0, :, _block(level, block)],
        matrix[: level.block],
        precision=precision,
        preferred_element_type=jnp.float32,
      )

    _each_bit(touched[pl.program_id(0), number, pl.program_id(1)], add)


def _backward(
  touched,
  v,
  x,
  y,
  a,
  g,
  by_v,
  by_x,
  by_y,
  by_a,
  hats,
  slopes,
  matrix,
  by_matrix,
  sums,
  *,
  levels,
  precision,
  unrolled,
) -> None:
  """Gradients for one head and tile, from that of the sums, g [1, d, q].

  Scratch: `hats` and `slopes` [p, columns, q], `matrix` and its gradient [block, q],
  and `sums` [3, p, 8, q] for the gradients by x, y and weight. `by_v` adds up over
  the tiles.
  """
  points = x.shape[1] // len(levels)
  product = functools.partial(
    jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32
  )

  @pl.when(pl.program_id(1) == 0)
  def _():
    by_v[...] = jnp.zeros_like(by_v)

  for number, level in enumerate(levels):
    own = range(number * points, (number + 1) * points)
    steps = level.columns // PACKED
    sums[...] = jnp.zeros_like(sums)
    for p, k in enumerate(own):
      distances = _to_columns(level, x[0, k])
      hats[p, : level.columns] = hat(distances)
      slopes[p, : level.columns] = slope(distances)

    def weigh(row, lanes, distances, own=own, steps=steps):
      wy, sy = [hat(d) for d in distances], [slope(d) for d in distances]
      shares = [_registers(a[0, k, lanes]) for k in own]
      weighed = list(map(operator.mul, wy, shares))

      def columns(step, state):
        at, pixels = _slice(step, PACKED), _slice(row * steps + step, PACKED)
        wx = [_sixteen(hats, p, at, lanes) for p in range(points)]
        sx = [_sixteen(slopes, p, at, lanes) for p in range(points)]
        _weigh(matrix, pixels, lanes, wx, weighed)
        part = by_matrix[pixels, lanes].reshape(-1, ROWS, LANES)
        return [
          total + (part * w).sum(0) for total, w in zip(state, wx + sx, strict=True)
        ]

      zeros = [jnp.zeros((ROWS, LANES), jnp.float32)] * (2 * points)
      by_rows = _loop(steps, columns, zeros, unrolled)
      for p in range(points):
        by_hat, by_slope = by_rows[p], by_rows[points + p]
        sums[0, p, :, lanes] += by_slope * wy[p]
        sums[1, p, :, lanes] += by_hat * sy[p]
        sums[2, p, :, lanes] += by_hat * wy[p]

    def add(block, level=level, own=own, weigh=weigh):
      pixels = _block(level, block)
      by_matrix[: level.block] = product(
        v[0, :, pixels], g[0], dimension_numbers=(((0,), (0,)), ((), ()))
      )
      _each_row(level, block, y, own, weigh, unrolled)
      by_v[0, :, pixels] += product(
        g[0], matrix[: level.block], dimension_numbers=(((1,), (1,)), ((), ()))
      )

    _each_bit(touched[pl.program_id(0), number, pl.program_id(1)], add)
    for p, k in enumerate(own):
      to_x, to_y, to_a = (sums[i, p].sum(0) for i in range(3))
      by_x[0, k], by_y[0, k], by_a[0, k] = to_x * a[0, k], to_y * a[0, k], to_a


def _launch(kernel, levels, v, tiles, by_v: bool, rows, scratch, interpret: bool):
  """Runs a kernel over heads and tiles of queries.

  Args:
    kernel: `_forward` or `_backward`.
    levels: how the levels lie in `v`.
    v: values [b, h, d, s].
    tiles: arrays [b, h, n, q], of which steps get tiles; the first two are x and y.
    by_v: whether the first output is like v, and adds up over the tiles.
    rows: n of the other outputs [b, h, n, q].
    scratch: shapes and types.
    interpret: run without a TPU, slowly.
  """
  lead, queries = v.shape[:2], tiles[0].shape[-1]
  v, *tiles = (x.reshape(-1, *x.shape[2:]) for x in (v, *tiles))
  whole = pl.BlockSpec((1, *v.shape[1:]), lambda head, tile, _: (head, 0, 0))

  def tiled(n: int) -> pl.BlockSpec:
    return pl.BlockSpec((1, n, TILE), lambda head, tile, _: (head, 0, tile))

  shapes = [v.shape] * by_v + [(len(v), n, queries) for n in rows]
  outputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  exact = v.dtype == jnp.float32
  results = pl.pallas_call(
    functools.partial(
      kernel,
      levels=levels,
      precision=jax.lax.Precision.HIGHEST if exact else None,
      # An interpreter gains nothing by it, and compiles for minutes.
      unrolled=not interpret,
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1,
      grid=(len(v), queries // TILE),
      in_specs=[whole, *(tiled(x.shape[1]) for x in tiles)],
      out_specs=[whole] * by_v + list(map(tiled, rows)),
      scratch_shapes=[pltpu.VMEM(shape, dtype) for shape, dtype in scratch],
    ),
    out_shape=outputs,
    name=f'deformable_sampling{kernel.__name__}',
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary'),
      vmem_limit_bytes=max(LEAST_MEMORY, 3 * v.size // len(v) * 8),
    ),
    interpret=interpret,
  )(touched_blocks(levels, *tiles[:2]), v, *tiles)
  return tuple(x.reshape(*lead, *x.shape[1:]) for x in results)


def _tables(levels: Sequence[Level], points: int) -> tuple:
  """Scratch for the hats or slopes of a level's columns."""
  return (points, max(level.columns for level in levels), TILE), jnp.float32


def _matrix(levels: Sequence[Level], dtype) -> tuple:
  """Scratch for what the pixels of a block count for the queries."""
  return (max(level.block for level in levels), TILE), dtype


def _sums(v, x, y, a, levels, interpret):
  """[b, h, d, s] values, [b, h, l p, q] points and weights -> [b, h, d, q]."""
  scratch = [_tables(levels, x.shape[2] // len(levels)), _matrix(levels, v.dtype)]
  rows = [v.shape[2]]
  return _launch(_forward, levels, v, (x, y, a), False, rows, scratch, interpret)[0]


def _sum_gradients(v, x, y, a, g, levels, interpret):
  """The same and the sums' gradient -> gradients of values, points and weights."""
  points = x.shape[2] // len(levels)
  scratch = [_tables(levels, points)] * 2
  scratch += [_matrix(levels, v.dtype), _matrix(levels, jnp.float32)]
  scratch.append(((3, points, ROWS, TILE), jnp.float32))
  rows = [x.shape[2]] * 3
  return _launch(_backward, levels, v, (x, y, a, g), True, rows, scratch, interpret)


def _product_type():
  """What products of float32 are rounded to, as for any other product on a TPU."""
  rounding = (None, 'default', 'fastest', 'bfloat16')
  rounds = jax.config.jax_default_matmul_precision in rounding
  return jnp.bfloat16 if rounds else jnp.float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _sample(v, x, y, a, levels, interpret):
  return _sums(v.astype(_product_type()), x, y, a, levels, interpret)


def _keep(v, x, y, a, levels, interpret):
  return _sample(v, x, y, a, levels, interpret), (v, x, y, a)


def _gradient(levels, interpret, inputs, g):
  v, x, y, a = inputs
  v, g = (array.astype(_product_type()) for array in (v, g))
  return _sum_gradients(v, x, y, a, g, levels, interpret)


_sample.defvjp(_keep, _gradient)


def _lay_out(
  values: Float[Array, 'b s h d'],
  shapes: Sequence[tuple[int, int]],
  real_hw: Int[Array, 'b l 2'],
) -> Float[Array, 'b h d n']:
  """Channels before positions, zeros beyond the real part and up to whole blocks."""
  levels = layout(shapes)
  if all(level.filled for level in levels):
    # As they lie: cutting and joining would cost a TPU as much as all the products.
    return jnp.moveaxis(real_values(values, shapes, real_hw), 1, -1)

  def fill(values: Float[Array, 'b h y x d'], level: Level) -> Float[Array, 'b h d m']:
    below = level.blocks * level.rows - level.height
    beside = level.columns - level.width
    values = jnp.moveaxis(values, -1, 2)
    values = jnp.pad(values, ((0, 0),) * 3 + ((0, below), (0, beside)))
    return values.reshape(*values.shape[:3], -1)

  maps = split_levels(values, shapes, real_hw)
  return jnp.concatenate(list(map(fill, maps, levels)), -1)


def on_tiles(
  points: Float[Array, 'b q h l p 2'], weights: Float[Array, 'b q h l p']
) -> tuple[Float[Array, 'b h k n'], ...]:
  """The points' x and y, and their weights, queries last and up to whole tiles.

  Queries that there are not look at nothing.
  """
  queries = weights.shape[1]
  rest = ((0, 0),) * 2 + ((0, -queries % TILE),)
  return tuple(
    jnp.pad(
      each.reshape(*each.shape[:2], -1, queries),
      ((0, 0), *rest),
      constant_values=fill,
    )
    for each, fill in zip(
      queries_last(points, weights), (OUTSIDE, OUTSIDE, 0.0), strict=True
    )
  )


def pallas(
  values: Float[Array, 'b s h d'],
  shapes: Sequence[tuple[int, int]],
  points: Float[Array, 'b q h l p 2'],
  weights: Float[Array, 'b q h l p'],
  real_hw: Int[Array, 'b l 2'],
  *,
  interpret: bool = False,
) -> Float[Array, 'b q h d']:
  """In a kernel for TPUs, or in Pallas' interpreter; see `sample_pyramid`."""
  v = _lay_out(values.astype(jnp.float32), shapes, real_hw)
  sums = _sample(v, *on_tiles(points, weights), layout(shapes), interpret)
  return jnp.moveaxis(sums[..., : weights.shape[1]], 3, 1)
