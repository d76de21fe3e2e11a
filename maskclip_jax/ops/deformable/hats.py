"""Multi-scale deformable sampling without looking pixels up: for TPUs.

A bilinear sample is a sum over the whole level, weighted by hat functions of the
distance from the point: sum over y, x of hat(y - py) hat(x - px) value[y, x], with
hat(t) = max(1 - |t|, 0). Of a query's points on a level the weights add up first, so
a level is one matrix product: [pixels, queries] weights by [pixels, channels] values.
Exact for any point, and zero for those far outside.

Queries lie along the last axis, a TPU's lanes: hats then broadcast along the others,
which costs nothing there.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Shapes = Sequence[tuple[int, int]]

# Queries computed together: bounds the weights of a level, which the gradient keeps.
CHUNK, GRADIENT_CHUNK = 2048, 512


def hat(distance: Float[Array, '*n']) -> Float[Array, '*n']:
  """Bilinear weight of a pixel at a signed distance from a point."""
  return jnp.maximum(1 - jnp.abs(distance), 0)


def slope(distance: Float[Array, '*n']) -> Float[Array, '*n']:
  """Derivative of `hat(pixel - point)` by the point.

  Where the point lies on a pixel it is that towards the next pixel, as for weights
  that are counted from floor(point).
  """
  ahead = (distance > 0) & (distance <= 1)
  behind = (distance > -1) & (distance <= 0)
  return ahead.astype(jnp.float32) - behind.astype(jnp.float32)


def real_values(
  values: Float[Array, 'b s h d'], shapes: Shapes, real_hw: Int[Array, 'b l 2']
) -> Float[Array, 'b s h d']:
  """Values of all levels, one after another, with zeros beyond their real part."""
  real = []
  for level, (rows, columns) in enumerate(shapes):
    height, length = (real_hw[:, level, axis, None] for axis in (0, 1))
    place = jnp.arange(rows * columns)
    real.append((place // columns < height) & (place % columns < length))
  return jnp.where(jnp.concatenate(real, axis=1)[..., None, None], values, 0)


def split_levels(
  values: Float[Array, 'b s h d'], shapes: Shapes, real_hw: Int[Array, 'b l 2']
) -> list[Float[Array, 'b h y x d']]:
  """The maps of all levels, head by head, with zeros beyond their real part."""
  batch, _, heads, width = values.shape
  values = real_values(values, shapes, real_hw)
  maps, start = [], 0
  for rows, columns in shapes:
    part = values[:, start : start + rows * columns]
    part = part.reshape(batch, rows, columns, heads, width)
    maps.append(jnp.moveaxis(part, 3, 1))
    start += rows * columns
  return maps


def queries_last(
  points: Float[Array, 'b q h l p 2'], weights: Float[Array, 'b q h l p']
) -> tuple[Float[Array, 'b h l p q'], ...]:
  """The points' x and y, and their weights."""
  batch, queries, *rest = weights.shape
  # One transposition of matrices: an axis of two would fill two lanes of 128.
  xy = points.reshape(batch, queries, -1).swapaxes(1, 2)
  xy = xy.reshape(batch, *rest, 2, queries)
  weights = weights.reshape(batch, queries, -1).swapaxes(1, 2)
  return xy[..., 0, :], xy[..., 1, :], weights.reshape(batch, *rest, queries)


def _distances(count: int, c: Float[Array, 'h p q']) -> Float[Array, 'h p n q']:
  """From points to the `count` rows or columns of a level."""
  return jnp.arange(count, dtype=jnp.float32)[:, None] - c[:, :, None]


def _pixel_weights(
  wy: Float[Array, 'h p y q'], wx: Float[Array, 'h p x q']
) -> Float[Array, 'h y x q']:
  """What every pixel counts for every query."""
  total = 0
  for point in range(wy.shape[1]):
    total += wy[:, point, :, None] * wx[:, point, None]
  return total


def _level(
  v: Float[Array, 'h y x d'], x: Float[Array, 'h p q'], y, a
) -> Float[Array, 'h d q']:
  wx, wy = hat(_distances(v.shape[2], x)), hat(_distances(v.shape[1], y))
  wy *= a[:, :, None]
  return jnp.einsum('hyxd,hyxq->hdq', v, _pixel_weights(wy, wx))


def _level_gradients(
  v: Float[Array, 'h y x d'], x: Float[Array, 'h p q'], y, a, g: Float[Array, 'h d q']
) -> tuple[Float[Array, 'h y x d'], Float[Array, 'h p q'], jax.Array, jax.Array]:
  """Gradients of a level's sum by values, points and weights."""
  to_x, to_y = _distances(v.shape[2], x), _distances(v.shape[1], y)
  wx, wy, sx, sy = jax.lax.optimization_barrier(
    (hat(to_x), hat(to_y), slope(to_x), slope(to_y))
  )
  matrix = _pixel_weights(wy * a[:, :, None], wx)
  by_values = jnp.einsum('hdq,hyxq->hyxd', g, matrix)

  # What the rows would give each point, times `g`: the compiler sums such a product
  # over the channels where it arises, so nothing of the level's size is stored.
  def rows(w: Float[Array, 'h x q']) -> Float[Array, 'h y q']:
    return (jnp.einsum('hyxd,hxq->hydq', v, w) * g[:, None]).sum(2)

  rows_x, rows_a = (
    jnp.stack([rows(w[:, point]) for point in range(x.shape[1])], 1) for w in (sx, wx)
  )
  by_x, by_y, by_a = (
    (part * w).sum(2) for part, w in ((rows_x, wy), (rows_a, sy), (rows_a, wy))
  )
  return by_values, by_x * a, by_y * a, by_a


def _split(x: Float[Array, '*n q'], chunk: int) -> Float[Array, 'c *n chunk']:
  """Chunks of queries; the last is filled up with points at (0, 0) without weight."""
  x = jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, -x.shape[-1] % chunk),))
  return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, chunk), -2, 0)


def _join(x: Float[Array, 'c *n chunk'], queries: int) -> Float[Array, '*n q']:
  x = jnp.moveaxis(x, 0, -2)
  return x.reshape(*x.shape[:-2], -1)[..., :queries]


@jax.custom_vjp
def _sample(
  maps: list[Float[Array, 'h y x d']], x: Float[Array, 'h l p q'], y, a
) -> Float[Array, 'h d q']:
  """All levels of one photo."""
  chunk = min(CHUNK, x.shape[-1])

  def part(inputs):
    levels = zip(maps, *(jnp.moveaxis(c, 1, 0) for c in inputs), strict=True)
    return sum(itertools.starmap(_level, levels))

  sums = jax.lax.map(part, tuple(_split(c, chunk) for c in (x, y, a)))
  return _join(sums, x.shape[-1])


def _sample_gradients(inputs, g):
  maps, *coordinates = inputs
  queries = g.shape[-1]
  chunk = min(GRADIENT_CHUNK, queries)

  def step(totals, inputs):
    *coordinates, g = inputs
    levels = zip(maps, *(jnp.moveaxis(c, 1, 0) for c in coordinates), strict=True)
    parts = [_level_gradients(*level, g) for level in levels]
    by_maps, *by_coordinates = zip(*parts, strict=True)
    totals = [total + part for total, part in zip(totals, by_maps, strict=True)]
    return totals, tuple(jnp.stack(parts, 1) for parts in by_coordinates)

  parts = tuple(_split(c, chunk) for c in (*coordinates, g))
  by_maps, by_coordinates = jax.lax.scan(step, [jnp.zeros_like(v) for v in maps], parts)
  return by_maps, *(_join(c, queries) for c in by_coordinates)


_sample.defvjp(lambda *inputs: (_sample(*inputs), inputs), _sample_gradients)


def products(
  values: Float[Array, 'b s h d'],
  shapes: Shapes,
  points: Float[Array, 'b q h l p 2'],
  weights: Float[Array, 'b q h l p'],
  real_hw: Int[Array, 'b l 2'],
) -> Float[Array, 'b q h d']:
  """In plain XLA: one product per level and chunk of queries.

  The weights of the pixels are formed again and again in the compiler's own loops. See
  `sample_pyramid`.
  """
  maps = split_levels(values.astype(jnp.float32), shapes, real_hw)
  sums = jax.vmap(_sample)(maps, *queries_last(points, weights))
  return jnp.moveaxis(sums, 3, 1)
