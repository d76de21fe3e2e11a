"""Resizes between the levels of a feature pyramid, whose sides differ by powers of two.

PyTorch's bilinear rule then has the same two weights everywhere, so no resize matrix is
needed: shrinking by an even factor averages the four central pixels of each cell, and
doubling mixes neighbours 3 to 1. Channels last.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def shrink(x: Float[Array, 'b h w c'], factor: int) -> Float[Array, 'b h/f w/f c']:
  """Bilinear resize by 1 / factor (1 or even) without antialiasing."""
  if factor == 1:
    return x
  batch, height, width, channels = x.shape
  if factor % 2 or height % factor or width % factor:
    raise ValueError(f'maps of {height} x {width} do not shrink by {factor}')
  cells = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
  middle = slice(factor // 2 - 1, factor // 2 + 1)
  return cells[:, :, middle, :, middle].mean((2, 4))


def _double_axis(
  x: Float[Array, 'b *n'], axis: int, size: Int[Array, ' b'] | None
) -> Float[Array, 'b *n']:
  length = x.shape[axis]
  index = jnp.arange(length)
  column = tuple(-1 if i == axis else 1 for i in range(x.ndim))
  after = jnp.take(x, jnp.minimum(index + 1, length - 1), axis=axis)
  before = jnp.take(x, jnp.maximum(index - 1, 0), axis=axis)
  if size is not None:
    last = index.reshape(column) == (size - 1).reshape(-1, *(1,) * (x.ndim - 1))
    after = jnp.where(last, x, after)
  pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
  return pair.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])


def double(
  x: Float[Array, 'b h w c'], hw: Int[Array, 'b 2'] | None = None
) -> Float[Array, 'b 2h 2w c']:
  """Bilinear resize to twice the size.

  Args:
    x: maps.
    hw: the part of each map that is real; its border is repeated, as a map's end is.
  """
  for axis in (1, 2):
    x = _double_axis(x, axis, None if hw is None else hw[:, axis - 1])
  return x
