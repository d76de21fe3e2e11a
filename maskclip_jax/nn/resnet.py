"""Residual networks with frozen batch norm [masqclip 2.2]: ResNet-50, -101, -26.

The torchvision layout: the stride sits in a bottleneck's 3x3 convolution. Batch norm
never trains: its numbers are constants that travel with the weights. DeepLab's ResNet,
"R101c" [ovseg 1.3], begins with three small convolutions instead of a large one and
dilates those of its last stage.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.nn.layers import (
  NORM_EPS,
  Statistic,
  ValidHW,
  in_turn,
  recompute,
  target_platform,
  zero_outside,
)

Depth = Literal[26, 50, 101]
BLOCKS: dict[int, tuple[int, ...]] = {
  26: (2, 2, 2, 2),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
}

# Normal with variance 2 / (outputs x window): keeps the variance of gradients.
_kernel_init = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class FrozenBatchNorm(nnx.Module):
  """Batch norm by stored statistics: one multiply-add per channel."""

  def __init__(self, channels: int):
    self.scale = Statistic(jnp.ones(channels))
    self.bias = Statistic(jnp.zeros(channels))
    self.mean = Statistic(jnp.zeros(channels))
    self.var = Statistic(jnp.ones(channels))

  def __call__(self, x: Float[Array, '*b c']) -> Float[Array, '*b c']:
    scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + NORM_EPS)
    shift = self.bias[...] - self.mean[...] * scale
    return (x * scale + shift).astype(x.dtype)


def _is_first(kernel: jax.Array, stride: int, dilation: int) -> bool:
  """Whether a convolution halves pixels of three channels, 3x3 or 7x7."""
  window, _, channels, _ = kernel.shape
  return (channels, stride, dilation) == (3, 2, 1) and window % 4 == 3


def _folded(x: Float[Array, 'b h w c']) -> Float[Array, 'b h/2 w/2 4c']:
  """Two by two pixels as one of four times the channels.

  Three channels leave most of a TPU's lanes empty: by its compiler's figures, the stem
  on 1024 x 1024 pixels takes 1.4 M cycles instead of 3.2 M.
  """
  return jnp.concatenate([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=-1)


def _folded_kernel(
  kernel: Float[Array, 'k k c d'],
) -> Float[Array, 'n n 4c d']:
  """The kernel of stride 1 that does on folded pixels what one of stride 2 did."""
  kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
  window, _, channels, outputs = kernel.shape
  half = window // 2
  kernel = kernel.reshape(half, 2, half, 2, channels, outputs)
  return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(half, half, -1, outputs)


class ConvNorm(nnx.Module):
  """A convolution without bias, padded by half its reach, and its batch norm."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    window: int,
    stride: int = 1,
    *,
    dilation: int = 1,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    shape = (window, window, in_channels, out_channels)
    self.kernel = nnx.Param(_kernel_init(rngs.params(), shape))
    self.norm = FrozenBatchNorm(out_channels)
    self.stride = stride
    self.dilation = dilation
    self.dtype = dtype

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
    x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
    window = kernel.shape[0]
    if window == 1:
      # A matrix product is several times faster than a 1x1 convolution on CPU.
      x = x[:, :: self.stride, :: self.stride]
      return self.norm(jnp.einsum('bhwc,cd->bhwd', x, kernel[0, 0]))
    reach = window // 2 * self.dilation
    padding, stride = (reach, reach), self.stride
    if target_platform() == 'tpu' and _is_first(kernel, stride, self.dilation):
      x, kernel = _folded(x), _folded_kernel(kernel)
      padding, stride = (len(kernel) // 2, len(kernel) // 2 - 1), 1
    x = jax.lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(stride, stride),
      padding=(padding,) * 2,
      rhs_dilation=(self.dilation, self.dilation),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return self.norm(x)


class Stem(nnx.Module):
  """7x7 convolution, or three 3x3 ones, and 3x3 max-pool: stride 4 in all."""

  def __init__(
    self, channels: int, *, deep: bool = False, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    self.deep = deep
    if deep:
      self.conv1 = ConvNorm(3, channels, 3, 2, **common)
      self.conv2 = ConvNorm(channels, channels, 3, **common)
      self.conv3 = ConvNorm(channels, 2 * channels, 3, **common)
    else:
      self.conv1 = ConvNorm(3, channels, 7, 2, **common)

  def __call__(
    self, x: Float[Array, 'b h w 3'], hw: ValidHW = None
  ) -> Float[Array, 'b h/4 w/4 c']:
    hw = None if hw is None else hw // 2
    # After the ReLU a zero is as good as the pool's own padding of minus infinity.
    for conv in (self.conv1, self.conv2, self.conv3) if self.deep else (self.conv1,):
      x = zero_outside(nnx.relu(conv(x)), hw)
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class Bottleneck(nnx.Module):
  """1x1, 3x3 and 1x1 convolutions around a shortcut."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    project: bool,
    dilation: int = 1,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    narrow = out_channels // 4
    self.conv1 = ConvNorm(in_channels, narrow, 1, dtype=dtype, rngs=rngs)
    self.conv2 = ConvNorm(
      narrow, narrow, 3, stride, dilation=dilation, dtype=dtype, rngs=rngs
    )
    self.conv3 = ConvNorm(narrow, out_channels, 1, dtype=dtype, rngs=rngs)
    if project:
      self.shortcut = ConvNorm(
        in_channels, out_channels, 1, stride, dtype=dtype, rngs=rngs
      )
    else:
      self.shortcut = None

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None
  ) -> Float[Array, 'b h2 w2 d']:
    """Runs the block; `hw` is the real part of the input."""
    y = zero_outside(nnx.relu(self.conv1(x)), hw)
    y = self.conv3(nnx.relu(self.conv2(y)))
    return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
  """The four feature maps of a residual network.

  Args:
    depth: 26, 50 or 101; 26 only for networks that start from nothing.
    stem: channels of the stem's first convolution.
    width: channels of res2; each later stage doubles them.
    deeplab: three small convolutions in the stem, the last of them of twice the
      channels; and 3x3 convolutions that reach 1, 2 and 4 pixels far in res5.
    remat: recompute each block in the backward pass instead of storing it.
    dtype: compute type.
  """

  def __init__(
    self,
    depth: Depth = 50,
    *,
    stem: int = 64,
    width: int = 256,
    deeplab: bool = False,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if depth not in BLOCKS:
      raise ValueError(f'depth must be one of {sorted(BLOCKS)}, not {depth}')
    self.remat = remat
    self.stem = Stem(stem, deep=deeplab, dtype=dtype, rngs=rngs)

    def stage(index: int) -> nnx.List:
      channels = width * 2**index
      before = channels // 2 if index else stem * (2 if deeplab else 1)
      return nnx.List(
        [
          Bottleneck(
            channels if i else before,
            channels,
            stride=1 if i or index == 0 else 2,
            project=i == 0,
            dilation=2**i if deeplab and index == 3 else 1,
            dtype=dtype,
            rngs=rngs,
          )
          for i in range(BLOCKS[depth][index])
        ]
      )

    self.res2, self.res3, self.res4, self.res5 = (stage(i) for i in range(4))

  def __call__(
    self, pixels: Float[Array, 'b h w 3'], hw: ValidHW = None
  ) -> dict[str, Float[Array, 'b h2 w2 c']]:
    """Computes the features at strides 4, 8, 16 and 32.

    Args:
      pixels: normalised RGB, zero beyond the photo; sides divide by 32.
      hw: the padded size of each photo, a multiple of 32, or None if all is real.

    Returns:
      'res2' to 'res5'; beyond the real part they hold numbers without meaning.
    """
    x = self.stem(pixels, hw)
    hw = None if hw is None else hw // 4
    features = {}
    for name in ('res2', 'res3', 'res4', 'res5'):
      first, *others = getattr(self, name)
      x = recompute(first, self.remat)(x, hw)
      if hw is not None and first.conv2.stride == 2:
        hw = hw // 2

      def run(block, x, hw=hw):
        return recompute(block, self.remat)(x, hw), None

      x, _ = in_turn(run, others, x)
      features[name] = x
    return features
