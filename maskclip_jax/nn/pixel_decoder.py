"""Mask2Former's pixel decoder (Cheng et al., CVPR 2022; [masqclip 2.3]).

A deformable transformer over strides 32, 16 and 8 refines the backbone's features; a
feature-pyramid step carries the finest of them to stride 4, where masks are drawn.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax.nn.deformable import DeformableAttention, Shapes
from maskclip_jax.nn.layers import (
  GroupNorm,
  LayerNorm,
  ValidHW,
  double,
  in_turn,
  recompute,
  sine_positions,
  zero_outside,
)
from maskclip_jax.ops.deformable import AUTO, check_form

# From coarse to fine, with their strides.
LEVELS = (('res5', 32), ('res4', 16), ('res3', 8))

_xavier = nnx.initializers.xavier_uniform()
# Uniform within sqrt(3 / fan_in).
_kaiming = nnx.initializers.variance_scaling(1.0, 'fan_in', 'uniform')


def uniform_by_fan_in(fan_in: int) -> nnx.initializers.Initializer:
  """PyTorch's default for a linear layer: uniform within 1 / sqrt(fan_in)."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class PixelFeatures(NamedTuple):
  """What the masked decoder works on.

  Attributes:
    mask_features: per-pixel embeddings at stride 4; a mask is a product with them.
    multi_scale: maps at strides 32, 16 and 8.
    encoder_layers: every deformable layer's output, level after level.
  """

  mask_features: Float[Array, 'b h w d']
  multi_scale: tuple[Float[Array, 'b h w c'], ...]
  encoder_layers: tuple[Float[Array, 'b s c'], ...]


class Conv(nnx.Module):
  """A stride-1 convolution, channels last, padded to keep the size."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    window: int = 1,
    *,
    use_bias: bool = True,
    kernel_init: nnx.initializers.Initializer = _kaiming,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    shape = (window, window, in_channels, out_channels)
    self.kernel = nnx.Param(kernel_init(rngs.params(), shape))
    self.bias = nnx.Param(jnp.zeros(out_channels)) if use_bias else None
    self.dtype = dtype

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w d']:
    x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
    if kernel.shape[0] == 1:
      y = jnp.einsum('bhwc,cd->bhwd', x, kernel[0, 0])
    else:
      y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
    return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class InputProjection(nnx.Module):
  """Brings a backbone level to the decoder's width: 1x1 convolution and GroupNorm."""

  def __init__(self, in_channels: int, width: int, *, dtype, rngs: nnx.Rngs):
    self.conv = Conv(in_channels, width, kernel_init=_xavier, dtype=dtype, rngs=rngs)
    self.norm = GroupNorm(width, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None
  ) -> Float[Array, 'b h w d']:
    return self.norm(self.conv(x), hw)


class ConvGroupNorm(Conv):
  """A convolution without bias, and GroupNorm."""

  def __init__(
    self, in_channels: int, out_channels: int, window: int, *, dtype, rngs: nnx.Rngs
  ):
    super().__init__(
      in_channels, out_channels, window, use_bias=False, dtype=dtype, rngs=rngs
    )
    self.norm = GroupNorm(out_channels, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None
  ) -> Float[Array, 'b h w d']:
    return self.norm(super().__call__(x), hw)


class EncoderLayer(nnx.Module):
  """Deformable self-attention and a feed-forward network, normalised afterwards."""

  def __init__(self, width: int, heads: int, ffn: int, *, dtype, rngs: nnx.Rngs):
    self.self_attn = DeformableAttention(
      width, heads, len(LEVELS), dtype=dtype, rngs=rngs
    )
    self.norm1 = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.linear1 = nnx.Linear(
      width,
      ffn,
      kernel_init=_xavier,
      bias_init=uniform_by_fan_in(width),
      dtype=dtype,
      rngs=rngs,
    )
    self.linear2 = nnx.Linear(
      ffn,
      width,
      kernel_init=_xavier,
      bias_init=uniform_by_fan_in(ffn),
      dtype=dtype,
      rngs=rngs,
    )
    self.norm2 = LayerNorm(width, dtype=dtype, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, 'b s c'],
    positions: Float[Array, '#b s c'],
    shapes: Shapes,
    real_hw: Int[Array, 'b l 2'] | None = None,
    sampling: str = AUTO,
  ) -> Float[Array, 'b s c']:
    x = self.norm1(x + self.self_attn(x + positions, x, shapes, real_hw, sampling))
    return self.norm2(x + self.linear2(nnx.relu(self.linear1(x))))


class Encoder(nnx.Module):
  """The stack of deformable layers."""

  def __init__(
    self, layers: int, width: int, heads: int, ffn: int, *, dtype, rngs: nnx.Rngs
  ):
    self.layers = nnx.List(
      [EncoderLayer(width, heads, ffn, dtype=dtype, rngs=rngs) for _ in range(layers)]
    )


def _flatten(maps: Sequence[Float[Array, 'b h w c']]) -> Float[Array, 'b s c']:
  """Lays the positions of all levels in one row."""
  return jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in maps], axis=1)


def _unflatten(
  x: Float[Array, 'b s c'], shapes: Shapes
) -> tuple[Float[Array, 'b h w c'], ...]:
  """Cuts a row of positions into maps again."""
  ends = np.cumsum([height * width for height, width in shapes])
  parts = jnp.split(x, ends[:-1], axis=1)
  return tuple(
    part.reshape(x.shape[0], *shape, -1)
    for part, shape in zip(parts, shapes, strict=True)
  )


class PyramidTransformer(nnx.Module):
  """Deformable layers over all levels at once; each level has a learned vector."""

  def __init__(
    self,
    layers: int,
    width: int,
    heads: int,
    ffn: int,
    *,
    remat: bool,
    sampling: str,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.remat, self.sampling = remat, check_form(sampling)
    self.level_embed = nnx.Param(jax.random.normal(rngs.params(), (len(LEVELS), width)))
    self.encoder = Encoder(layers, width, heads, ffn, dtype=dtype, rngs=rngs)

  def __call__(
    self, maps: list[Float[Array, 'b h w c']], hws: list[ValidHW]
  ) -> tuple[Float[Array, 'b s c'], ...]:
    """Runs the layers and returns the output of each, level after level."""
    shapes = [x.shape[1:3] for x in maps]
    width = maps[0].shape[-1]
    positions = _flatten(
      [
        sine_positions(shape, width, hw) + vector
        for shape, hw, vector in zip(shapes, hws, self.level_embed[...], strict=True)
      ]
    )
    real_hw = None if hws[0] is None else jnp.stack(hws, axis=1)
    x = _flatten(maps)
    positions = positions.astype(x.dtype)

    def run(layer, x):
      layer = functools.partial(
        layer, shapes=shapes, real_hw=real_hw, sampling=self.sampling
      )
      x = recompute(layer, self.remat)(x, positions)
      return x, x

    x, outputs = in_turn(run, self.encoder.layers, x)
    # The last as it leaves the loop: where the others are not read, none is stored.
    return *outputs[:-1], x


class PixelDecoder(nnx.Module):
  """From backbone features to mask features and the masked decoder's memory.

  Args:
    in_channels: channels of res2, ..., res5.
    width: channels inside.
    mask_dim: channels of the mask features.
    heads: heads of the deformable attention.
    ffn: hidden width of its feed-forward networks.
    layers: deformable layers.
    remat: recompute each of them in the backward pass instead of storing it.
    sampling: how they sample, a form of `ops.deformable.sample_pyramid`; 'auto' suits
      the platform.
    dtype: compute type; the published models use float32 throughout.
  """

  def __init__(
    self,
    in_channels: dict[str, int],
    *,
    width: int = 256,
    mask_dim: int = 256,
    heads: int = 8,
    ffn: int = 1024,
    layers: int = 6,
    remat: bool = False,
    sampling: str = AUTO,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.input_proj = nnx.List(
      [
        InputProjection(in_channels[name], width, dtype=dtype, rngs=rngs)
        for name, _ in LEVELS
      ]
    )
    self.transformer = PyramidTransformer(
      layers,
      width,
      heads,
      ffn,
      remat=remat,
      sampling=sampling,
      dtype=dtype,
      rngs=rngs,
    )
    self.adapter_1 = ConvGroupNorm(
      in_channels['res2'], width, 1, dtype=dtype, rngs=rngs
    )
    self.layer_1 = ConvGroupNorm(width, width, 3, dtype=dtype, rngs=rngs)
    self.mask_features = Conv(width, mask_dim, dtype=dtype, rngs=rngs)

  def __call__(
    self, features: dict[str, Float[Array, 'b h w c']], padded_hw: ValidHW = None
  ) -> PixelFeatures:
    """Decodes 'res2' to 'res5'; `padded_hw` is the real part of the pixels, or None."""

    def real(stride: int) -> ValidHW:
      return None if padded_hw is None else padded_hw // stride

    hws = [real(stride) for _, stride in LEVELS]
    maps = [
      project(features[name], hw)
      for project, (name, _), hw in zip(self.input_proj, LEVELS, hws, strict=True)
    ]
    layers = self.transformer(maps, hws)
    multi_scale = _unflatten(layers[-1], [x.shape[1:3] for x in maps])
    y = self.adapter_1(features['res2'], real(4)) + double(multi_scale[-1], real(8))
    y = nnx.relu(self.layer_1(zero_outside(y, real(4)), real(4)))
    return PixelFeatures(self.mask_features(y), multi_scale, layers)
