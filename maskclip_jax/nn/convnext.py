"""ConvNeXt and CLIP with a ConvNeXt image tower (Liu et al., CVPR 2022) [fcclip 2].

The network of open_clip's `convnext_*` models. It has no position embedding and takes a
photo of any size; FC-CLIP reads its feature maps twice, for masks and for words.
"""

import dataclasses
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax import plain
from maskclip_jax.nn.clip import (
  ACTIVATIONS,
  PIXEL_MEAN,
  PIXEL_STD,
  RGB,
  Activation,
  TwoTowers,
)
from maskclip_jax.nn.layers import (
  NORM_EPS,
  LayerNorm,
  ValidHW,
  check_heads,
  check_image_size,
  check_pixels,
  exact_gelu,
  in_turn,
  recompute,
  zero_outside,
)

# Feature maps by name, with their strides.
STAGES = {'res2': 4, 'res3': 8, 'res4': 16, 'res5': 32}

_STEM = 4
_WINDOW = 7
_init = nnx.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class ConvNeXtCLIPConfig:
  """Sizes of a CLIP with a ConvNeXt image tower.

  Attributes:
    embed_dim: width of the joint space.
    depths: blocks of each of the four stages.
    widths: channels of each stage.
    head: from pooled features to the joint space, one layer or two.
    image_size: side of the square photos it was trained with; it takes any multiple
      of 32.
    text_width, text_layers, text_heads: the text tower.
    context_length: most tokens of a prompt.
    vocab_size: number of token ids.
    activation: the activation of the text tower; the image tower has the exact GELU.
    norm_eps: the epsilon of the image tower's layer norms.
    text_mlp_width: hidden channels of the text blocks' MLPs; None for four times the
      tower's width.
    text_norm_eps: the epsilon of the text tower's layer norms.
    pixel_mean, pixel_std: RGB statistics that photos are normalised by, for values in
      0..1.
  """

  embed_dim: int = 768
  depths: tuple[int, int, int, int] = (3, 3, 27, 3)
  widths: tuple[int, int, int, int] = (192, 384, 768, 1536)
  head: Literal['linear', 'mlp'] = 'mlp'
  image_size: int = 320
  text_width: int = 768
  text_layers: int = 16
  text_heads: int = 12
  context_length: int = 77
  vocab_size: int = 49408
  activation: Activation = 'gelu'
  norm_eps: float = 1e-6
  text_mlp_width: int | None = None
  text_norm_eps: float = NORM_EPS
  pixel_mean: RGB = PIXEL_MEAN
  pixel_std: RGB = PIXEL_STD

  def __post_init__(self):
    for name in ('depths', 'widths'):
      if len(getattr(self, name)) != len(STAGES):
        raise ValueError(f'{name} must be four numbers, not {getattr(self, name)}')
    sizes = 'embed_dim', 'text_width', 'text_layers', 'text_heads', 'context_length'
    plain.at_least(self, 1, 'depths', 'widths', *sizes, 'vocab_size', 'text_mlp_width')
    check_image_size(self.image_size, STAGES['res5'])
    plain.above(self, 0, 'norm_eps', 'text_norm_eps', 'pixel_std')
    check_heads('text_width', self.text_width, self.text_heads)
    if self.head not in ('linear', 'mlp'):
      raise ValueError(f"head must be 'linear' or 'mlp', not {self.head!r}")
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'activation must be one of {sorted(ACTIVATIONS)}, not {self.activation!r}'
      )

  @property
  def any_size(self) -> bool:
    """Whether photos may have another size than `image_size`."""
    return True


_BASE = {'depths': (3, 3, 27, 3), 'widths': (128, 256, 512, 1024), 'head': 'linear'}

# open_clip's sizes, by its names, and two small ones. Models that differ only in the
# size of their training images share a row, which has the largest.
CONVNEXT_CLIP_SIZES = {
  'convnext_base': ConvNeXtCLIPConfig(
    512, **_BASE, image_size=224, text_width=512, text_layers=12, text_heads=8
  ),
  'convnext_base_w': ConvNeXtCLIPConfig(
    640, **_BASE, text_width=640, text_layers=12, text_heads=10
  ),
  'convnext_large': ConvNeXtCLIPConfig(head='linear', image_size=224, text_layers=12),
  'convnext_large_d': ConvNeXtCLIPConfig(),
  'convnext_xxlarge': ConvNeXtCLIPConfig(
    1024,
    (3, 4, 30, 3),
    (384, 768, 1536, 3072),
    'linear',
    image_size=256,
    text_width=1024,
    text_layers=24,
    text_heads=16,
    norm_eps=1e-5,
  ),
  'convnext_tiny': ConvNeXtCLIPConfig(
    32,
    (1, 1, 2, 1),
    (16, 32, 64, 128),
    image_size=256,
    text_width=64,
    text_layers=2,
    text_heads=2,
  ),
  # Trained on the generated world (`configs/miniature.py`).
  'convnext_miniature': ConvNeXtCLIPConfig(
    64,
    (1, 2, 2, 1),
    (32, 64, 96, 128),
    'linear',
    image_size=128,
    text_width=64,
    text_layers=3,
    text_heads=2,
    context_length=32,
  ),
}


def depthwise_conv(
  x: Float[Array, 'b h w c'], kernel: Float[Array, 'n n 1 c']
) -> Float[Array, 'b h w c']:
  """A convolution of every channel by itself, padded with zeros to keep the size.

  On CPUs it is a sum of shifted maps: XLA fuses them into one loop over the channels,
  which takes a tenth of the time of its grouped convolution.
  """
  window, (height, width) = len(kernel), x.shape[1:3]
  margin = window // 2

  def shifted(x, kernel):
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    padded, kernel = padded.astype(jnp.float32), kernel.astype(jnp.float32)
    y = jnp.zeros_like(x, jnp.float32)
    for i in range(window):
      for j in range(window):
        y += padded[:, i : i + height, j : j + width] * kernel[i, j, 0]
    return y.astype(x.dtype)

  def grouped(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      ((margin, margin),) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=x.shape[-1],
    )

  return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


class PatchConv(nnx.Module):
  """A convolution whose window is its stride: a linear layer on patches, with bias."""

  def __init__(
    self, in_channels: int, out_channels: int, patch: int, *, dtype, rngs: nnx.Rngs
  ):
    shape = (patch, patch, in_channels, out_channels)
    self.kernel = nnx.Param(_init(rngs.params(), shape))
    self.bias = nnx.Param(jnp.zeros(out_channels))
    self.dtype = dtype

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
    kernel = self.kernel[...].astype(self.dtype)
    patch = len(kernel)
    batch, height, width, channels = x.shape
    cells = x.astype(self.dtype).reshape(
      batch, height // patch, patch, width // patch, patch, channels
    )
    # A matrix product is several times faster than the convolution on CPU.
    y = jnp.einsum('bhiwjc,ijcd->bhwd', cells, kernel)
    return y + self.bias[...].astype(self.dtype)


class DepthwiseConv(nnx.Module):
  """A 7x7 convolution of every channel by itself, with bias."""

  def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
    self.kernel = nnx.Param(_init(rngs.params(), (_WINDOW, _WINDOW, 1, channels)))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.dtype = dtype

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    kernel = self.kernel[...].astype(self.dtype)
    y = depthwise_conv(x.astype(self.dtype), kernel)
    return y + self.bias[...].astype(self.dtype)


class MLP(nnx.Module):
  """Two linear layers with an exact GELU between."""

  def __init__(
    self,
    width: int,
    hidden: int,
    out_width: int,
    *,
    out_bias: bool = True,
    dtype,
    rngs: nnx.Rngs,
  ):
    common = {'kernel_init': _init, 'dtype': dtype, 'rngs': rngs}
    self.fc1 = nnx.Linear(width, hidden, **common)
    self.fc2 = nnx.Linear(hidden, out_width, use_bias=out_bias, **common)

  def __call__(self, x: Float[Array, '*b c']) -> Float[Array, '*b d']:
    return self.fc2(exact_gelu(self.fc1(x)))


class Block(nnx.Module):
  """Depthwise convolution, norm and MLP, scaled per channel and added to the input."""

  def __init__(self, channels: int, epsilon: float, *, dtype, rngs: nnx.Rngs):
    self.conv_dw = DepthwiseConv(channels, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(channels, epsilon=epsilon, dtype=dtype, rngs=rngs)
    self.mlp = MLP(channels, 4 * channels, channels, dtype=dtype, rngs=rngs)
    self.gamma = nnx.Param(jnp.full(channels, 1e-6))

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None
  ) -> Float[Array, 'b h w c']:
    """Runs the block; `hw` is the real part of the maps."""
    y = self.mlp(self.norm(self.conv_dw(zero_outside(x, hw))))
    return x + y * self.gamma[...].astype(y.dtype)


class Downsample(nnx.Module):
  """Norm and a 2x2 convolution of stride 2."""

  def __init__(
    self, in_channels: int, out_channels: int, epsilon: float, *, dtype, rngs: nnx.Rngs
  ):
    self.norm = LayerNorm(in_channels, epsilon=epsilon, dtype=dtype, rngs=rngs)
    self.conv = PatchConv(in_channels, out_channels, 2, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h/2 w/2 d']:
    return self.conv(self.norm(x))


class Stem(nnx.Module):
  """A 4x4 convolution of stride 4 and norm."""

  def __init__(self, channels: int, epsilon: float, *, dtype, rngs: nnx.Rngs):
    self.conv = PatchConv(3, channels, _STEM, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(channels, epsilon=epsilon, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'b h w 3']) -> Float[Array, 'b h/4 w/4 c']:
    return self.norm(self.conv(x))


class ConvNeXt(nnx.Module):
  """The four feature maps of a ConvNeXt.

  Args:
    depths: blocks of each stage.
    widths: channels of each stage.
    epsilon: the epsilon of the layer norms.
    remat: recompute each block in the backward pass instead of storing it.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    *,
    epsilon: float = 1e-6,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    self.stem = Stem(widths[0], epsilon, **common)
    self.downsample3, self.downsample4, self.downsample5 = (
      Downsample(before, after, epsilon, **common)
      for before, after in itertools.pairwise(widths)
    )
    self.res2, self.res3, self.res4, self.res5 = (
      nnx.List([Block(width, epsilon, **common) for _ in range(depth)])
      for depth, width in zip(depths, widths, strict=True)
    )
    self.remat = remat

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
    x, features = self.stem(pixels), {}
    for name, stride in STAGES.items():
      if stride > _STEM:
        x = getattr(self, f'downsample{name[-1]}')(x)
      real = None if hw is None else hw // stride

      def run(block, x, real=real):
        return recompute(block, self.remat)(x, real), None

      x, _ = in_turn(run, getattr(self, name), x)
      features[name] = x
    return features


class VisionHead(nnx.Module):
  """From pooled features to the joint space: norm, then one linear layer or two."""

  def __init__(self, config: ConvNeXtCLIPConfig, *, dtype, rngs: nnx.Rngs):
    width, embed = config.widths[-1], config.embed_dim
    common = {'dtype': dtype, 'rngs': rngs}
    self.norm = LayerNorm(width, epsilon=config.norm_eps, **common)
    if config.head == 'mlp':
      self.mlp = MLP(width, 2 * embed, embed, out_bias=False, **common)
    else:
      self.proj = nnx.Linear(width, embed, use_bias=False, kernel_init=_init, **common)

  def __call__(self, pooled: Float[Array, '*b c']) -> Float[Array, '*b d']:
    """Vectors in the joint space, not normalised, float32."""
    project = self.mlp if hasattr(self, 'mlp') else self.proj
    return project(self.norm(pooled)).astype(jnp.float32)


class ConvNeXtTower(nnx.Module):
  """The image tower: trunk and head."""

  def __init__(
    self,
    config: ConvNeXtCLIPConfig,
    *,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.trunk = ConvNeXt(
      config.depths,
      config.widths,
      epsilon=config.norm_eps,
      remat=remat,
      dtype=dtype,
      rngs=rngs,
    )
    self.head = VisionHead(config, dtype=dtype, rngs=rngs)

  def __call__(self, pixels: Float[Array, 'b h w 3']) -> Float[Array, 'b d']:
    """Image vectors (not normalised) of normalised pixels; sides divide by 32.

    Raises:
      ValueError: sides that do not, or channels first.
    """
    check_pixels(pixels, STAGES['res5'])
    features = self.trunk(pixels)['res5'].astype(jnp.float32)
    return self.head(features.mean((1, 2)))


class ConvNeXtCLIP(TwoTowers):
  """CLIP with a ConvNeXt."""

  def __init__(
    self,
    config: ConvNeXtCLIPConfig,
    *,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    super().__init__(ConvNeXtTower(config, remat=remat, **common), config, **common)
