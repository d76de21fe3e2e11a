"""Feature maps that fill only the top left corner of a canvas.

A photo of any size lies on a canvas of a few fixed sizes, so few programs are ever
compiled. A network behaves as if the canvas ended at the photo's padded size when every
operation that mixes positions ignores what lies beyond: convolutions see zeros there,
statistics count real positions only, and resizes clamp at the real border.

Everywhere below, `hw` is the real part of a map (one row per image, may be traced), or
None when maps are real throughout, which costs nothing.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.layers import NORM_EPS

ValidHW = Int[Array, 'b 2'] | None


def inside(hw: Int[Array, 'b 2'], shape: tuple[int, int]) -> Bool[Array, 'b h w']:
  """True on the real positions of maps of a given (height, width)."""
  rows = jnp.arange(shape[0])[:, None] < hw[:, 0, None, None]
  columns = jnp.arange(shape[1]) < hw[:, 1, None, None]
  return rows & columns


def zero_outside(x: Float[Array, 'b h w c'], hw: ValidHW) -> Float[Array, 'b h w c']:
  """Clears what lies beyond the real part, as a convolution's zero padding."""
  if hw is None:
    return x
  return jnp.where(inside(hw, x.shape[1:3])[..., None], x, 0)


class GroupNorm(nnx.Module):
  """GroupNorm with statistics over the real positions: eps 1e-5, float32 inside."""

  def __init__(
    self, channels: int, groups: int = 32, *, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    if channels % groups:
      raise ValueError(f'{channels} channels do not divide into {groups} groups')
    self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (channels,)))
    self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (channels,)))
    self.groups = groups
    self.dtype = dtype

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None
  ) -> Float[Array, 'b h w c']:
    x = x.astype(jnp.float32)
    centred = x - self._mean(x, hw)
    variance = self._mean(jnp.square(centred), hw)
    scale = jax.lax.rsqrt(variance + NORM_EPS) * self.scale[...]
    return (centred * scale + self.bias[...]).astype(self.dtype)

  def _mean(self, x: Float[Array, 'b h w c'], hw: ValidHW) -> Float[Array, 'b 1 1 c']:
    """Each group's mean over the real positions, repeated for its channels."""
    batch, height, width, channels = x.shape
    members = channels // self.groups
    if hw is None:
      count = jnp.full((batch, 1), height * width * members, jnp.float32)
    else:
      # An empty row of a batch must not become NaN, which some checks refuse.
      count = jnp.maximum(hw.prod(-1, keepdims=True) * members, 1).astype(jnp.float32)
    sums = zero_outside(x, hw).sum((1, 2)).reshape(batch, self.groups, members).sum(-1)
    return jnp.repeat(sums / count, members, axis=-1)[:, None, None]
