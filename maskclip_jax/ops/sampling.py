"""Bilinear sampling at points, with zeros beyond the border.

A point (x, y) in pixels has the centre of the first pixel at (0, 0). In normalised
coordinates the map spans [0, 1], so x pixels = x * width - 0.5 (PyTorch's `grid_sample`
with `align_corners=False`). Corners beyond the real part of a map contribute zero.
Sources: [masqclip 0, 2.3]; Deformable DETR, section 4.1.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Queries of deformable attention computed together: bounds memory, keeps the CPU's
# caches warm, and is large enough to occupy an accelerator.
CHUNK = 2048


def corners(
  points: Float[Array, '*n 2'],
  hw: tuple[Int[Array, '*#n'] | int, Int[Array, '*#n'] | int],
) -> Iterator[tuple[Int[Array, '*n'], Int[Array, '*n'], Float[Array, '*n']]]:
  """Row, column and weight of the four pixels around points given in pixels.

  Rows and columns are clipped to the map; pixels beyond it have weight zero.
  """
  low = jnp.floor(points)
  t = points - low
  column, row = (low[..., i].astype(jnp.int32) for i in (0, 1))
  for dy in (0, 1):
    for dx in (0, 1):
      y, x = row + dy, column + dx
      weight = (t[..., 1] if dy else 1 - t[..., 1]) * (
        t[..., 0] if dx else 1 - t[..., 0]
      )
      real = (y >= 0) & (y < hw[0]) & (x >= 0) & (x < hw[1])
      y, x = jnp.clip(y, 0, hw[0] - 1), jnp.clip(x, 0, hw[1] - 1)
      yield y, x, jnp.where(real, weight, 0.0)


def sample_points(
  maps: Float[Array, '*b h w'],
  points: Float[Array, '*#b p 2'],
  hw: tuple[Int[Array, '*#b'], Int[Array, '*#b']] | None = None,
) -> Float[Array, '*b p']:
  """Samples maps at normalised points; float32.

  Args:
    maps: any leading axes.
    points: (x, y) in [0, 1]; leading axes are those of `maps` or 1, so that maps may
      share points.
    hw: height and width of the real part, if maps are only partly filled; the points
      are normalised by it.
  """
  height, width = maps.shape[-2:]
  rows, columns = (height, width) if hw is None else (v[..., None] for v in hw)
  size = jnp.stack(jnp.broadcast_arrays(columns, rows), axis=-1).astype(jnp.float32)
  pixels = points.astype(jnp.float32) * size - 0.5
  flat = maps.astype(jnp.float32).reshape(*maps.shape[:-2], height * width)
  total = jnp.zeros((), jnp.float32)
  for row, column, weight in corners(pixels, (rows, columns)):
    total += weight * jnp.take_along_axis(flat, row * width + column, axis=-1)
  return total


def _sample_levels(
  table: Float[Array, 's h d'],
  points: Float[Array, 'k q h 2'],
  weights: Float[Array, 'k q h'],
  levels: Int[Array, 'k 4'],
) -> Float[Array, 'q h d']:
  """Sums, point by point, weighted bilinear samples of each head's own channels.

  Args:
    table: values of all levels, one after another.
    points: in pixels of the level they sample.
    weights: of each point.
    levels: per point: real height and width, row length, and start in the table.
  """
  heads, width = table.shape[1:]
  flat = table.reshape(-1, width)

  def step(total, inputs):
    points, weights, (height, width, stride, start) = inputs
    taps = [
      ((start + y * stride + x) * heads + jnp.arange(heads), weight * weights)
      for y, x, weight in corners(points, (height, width))
    ]
    # Else XLA recomputes the indices for every channel inside the gather's loop.
    for index, weight in jax.lax.optimization_barrier(taps):
      rows = flat.at[index].get(mode='promise_in_bounds')
      total += rows * weight[..., None]
    return total, None

  total = jnp.zeros((*points.shape[1:-1], width), jnp.float32)
  return jax.lax.scan(step, total, (points, weights, levels))[0]


def sample_pyramid(
  values: Float[Array, 'b s h d'],
  shapes: Sequence[tuple[int, int]],
  points: Float[Array, 'b q h l p 2'],
  weights: Float[Array, 'b q h l p'],
  real_hw: Int[Array, 'b l 2'] | None = None,
  *,
  chunk: int = CHUNK,
) -> Float[Array, 'b q h d']:
  """Multi-scale deformable sampling: weighted sums of samples from all levels.

  Args:
    values: the levels' positions, row by row, one level after another.
    shapes: (height, width) of each level.
    points: (x, y) in pixels of the level, per query, head, level and point.
    weights: of the points.
    real_hw: the real part of each level; beyond it values count as zero.
    chunk: queries computed together.

  Returns:
    One vector per query and head; float32.
  """
  batch, queries, heads, depth, count = weights.shape
  sizes = jnp.asarray(shapes, jnp.int32)
  areas = sizes.prod(-1)
  fixed = jnp.stack([sizes[:, 1], jnp.cumsum(areas) - areas], axis=-1)
  real_hw = sizes[None] if real_hw is None else real_hw
  real_hw = jnp.broadcast_to(real_hw, (batch, depth, 2))
  chunk = min(chunk, queries)
  chunks = -(-queries // chunk)

  def split(x: Float[Array, 'q h l p *n']) -> Float[Array, 'c k chunk h *n']:
    x = jnp.pad(x, ((0, chunks * chunk - queries),) + ((0, 0),) * (x.ndim - 1))
    x = x.reshape(chunks, chunk, heads, depth * count, *x.shape[4:])
    return jnp.moveaxis(x, 3, 1)

  def one(values, points, weights, real_hw):
    levels = jnp.repeat(jnp.concatenate([real_hw, fixed], -1), count, axis=0)
    sample = jax.checkpoint(lambda inputs: _sample_levels(values, *inputs, levels))
    sums = jax.lax.map(sample, (split(points), split(weights)))
    return sums.reshape(chunks * chunk, heads, -1)[:queries]

  floats = (x.astype(jnp.float32) for x in (values, points, weights))
  return jax.vmap(one)(*floats, real_hw)
