"""MaskFormer's pixel decoder: a feature pyramid with group norms [ovseg 1.4]."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.nn.layers import ValidHW, repeat, zero_outside
from maskclip_jax.nn.pixel_decoder import Conv, ConvGroupNorm

# From fine to coarse, with their strides.
_LEVELS = (('res2', 4), ('res3', 8), ('res4', 16), ('res5', 32))


class FPN(nnx.Module):
  """From backbone features to mask features at stride 4.

  Args:
    in_channels: channels of res2, ..., res5.
    width: channels inside.
    mask_dim: channels of the mask features.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    in_channels: dict[str, int],
    *,
    width: int = 256,
    mask_dim: int = 256,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    *finer, coarsest = (in_channels[name] for name, _ in _LEVELS)
    self.adapter_1, self.adapter_2, self.adapter_3 = (
      ConvGroupNorm(channels, width, 1, **common) for channels in finer
    )
    self.layer_1, self.layer_2, self.layer_3, self.layer_4 = (
      ConvGroupNorm(channels, width, 3, **common)
      for channels in (width, width, width, coarsest)
    )
    self.mask_features = Conv(width, mask_dim, 3, **common)

  def __call__(
    self, features: dict[str, Float[Array, 'b h w c']], padded_hw: ValidHW = None
  ) -> Float[Array, 'b h w d']:
    """Mask features of 'res2' to 'res5'; `padded_hw` is the real part of the pixels, or
    None."""
    hws = [None if padded_hw is None else padded_hw // stride for _, stride in _LEVELS]
    *finer, y = (features[name] for name, _ in _LEVELS)
    y = nnx.relu(self.layer_4(zero_outside(y, hws[3]), hws[3]))
    for level in (2, 1, 0):
      hw = hws[level]
      adapter, layer = (getattr(self, f'{n}_{level + 1}') for n in ('adapter', 'layer'))
      y = adapter(finer[level], hw) + repeat(y)
      y = nnx.relu(layer(zero_outside(y, hw), hw))
    return self.mask_features(zero_outside(y, hws[0]))
