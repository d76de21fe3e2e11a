"""Resizes between the levels of a feature pyramid, whose sides differ by powers of two.

PyTorch's bilinear rule then has the same two weights everywhere, so no resize matrix is
needed: shrinking by an even factor averages the four central pixels of each cell, and
doubling mixes neighbours 3 to 1. Channels last.
"""

import functools

import jax
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
  part = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
  before = jnp.concatenate([part(0, 1), part(0, length - 1)], axis)
  after = jnp.concatenate([part(1, length), part(length - 1, length)], axis)
  if size is not None:
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    last = size.reshape(-1, *(1,) * (x.ndim - 1)) - 1
    after = jnp.where(index == last, x, after)
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


def repeat(x: Float[Array, 'b h w c']) -> Float[Array, 'b 2h 2w c']:
  """Nearest resize to twice the size: every pixel four times."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
  return x.reshape(batch, 2 * height, 2 * width, channels)
