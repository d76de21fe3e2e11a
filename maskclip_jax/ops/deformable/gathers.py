"""Multi-scale deformable sampling by looking pixels up: for CPUs and GPUs.

Every sample gathers its four pixels. Corners beyond the real part of a level count as
zero.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskclip_jax.ops.sampling import corners

Shapes = Sequence[tuple[int, int]]

# Queries that a CPU computes together: bounds memory and keeps its caches warm.
CHUNK = 2048


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
    weights: the weights of each point.
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


def chunks(
  values: Float[Array, 'b s h d'],
  shapes: Shapes,
  points: Float[Array, 'b q h l p 2'],
  weights: Float[Array, 'b q h l p'],
  real_hw: Int[Array, 'b l 2'],
  *,
  chunk: int = CHUNK,
) -> Float[Array, 'b q h d']:
  """For CPUs: a loop over chunks of queries around a loop over points.

  See `sample_pyramid`; `chunk` is how many queries are computed together.
  """
  _, queries, heads, depth, count = weights.shape
  sizes = jnp.asarray(shapes, jnp.int32)
  areas = sizes.prod(-1)
  fixed = jnp.stack([sizes[:, 1], jnp.cumsum(areas) - areas], axis=-1)
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

  return jax.vmap(one)(values.astype(jnp.float32), points, weights, real_hw)


def unrolled(
  values: Float[Array, 'b s h d'],
  shapes: Shapes,
  points: Float[Array, 'b q h l p 2'],
  weights: Float[Array, 'b q h l p'],
  real_hw: Int[Array, 'b l 2'],
) -> Float[Array, 'b q h d']:
  """For GPUs: all queries of all photos at once and no loop, which makes few kernels.

  Values are read in their own type: 16 bits halve the traffic. See `sample_pyramid`.
  """
  batch, positions, heads, width = values.shape
  flat = values.reshape(-1, width)
  photo = jnp.arange(batch)[:, None, None, None] * positions
  head = jnp.arange(heads)[:, None]
  total, start = jnp.zeros((*weights.shape[:3], width), jnp.float32), 0
  for level, (height, stride) in enumerate(shapes):
    real = tuple(real_hw[:, level, axis, None, None, None] for axis in (0, 1))
    taps = [
      ((photo + start + y * stride + x) * heads + head, share * weights[:, :, :, level])
      for y, x, share in corners(points[:, :, :, level], real)
    ]
    # Indices are a kernel of their own: else every channel computes them again.
    for index, weight in jax.lax.optimization_barrier(taps):
      for point in range(weights.shape[-1]):
        rows = flat.at[index[..., point]].get(mode='promise_in_bounds')
        total += rows * weight[..., point, None]
    start += height * stride
  return total
