"""CLIP with a ResNet image tower, as released by OpenAI [fcclip 2.5].

Three small convolutions in the stem, average pools wherever a ResNet strides, and an
attention pool as head. FC-CLIP reads its feature maps for masks, and pools each mask by
the attention of the same head.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

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
  ValidHW,
  attend,
  check_heads,
  check_square,
  in_turn,
  inside,
  recompute,
  zero_outside,
)
from maskclip_jax.nn.resnet import ConvNorm
from maskclip_jax.ops.resize import resize

# Feature maps by name, with their strides.
STAGES = {'res2': 4, 'res3': 8, 'res4': 16, 'res5': 32}

_STRIDE = STAGES['res5']
_init = nnx.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class ResNetCLIPConfig:
  """Sizes of a CLIP with a ResNet image tower; the defaults are RN50's.

  Attributes:
    embed_dim: width of the joint space.
    image_size: side of the square input, in pixels.
    blocks: bottlenecks of each of the four stages.
    stem_width: channels that leave the stem; the stages have 4, 8, 16 and 32 times as
      many.
    vision_heads: attention heads of the pool.
    text_width, text_layers, text_heads: the text tower.
    context_length: most tokens of a prompt.
    vocab_size: number of token ids.
    activation: the activation of the text tower; the image tower has ReLUs.
    text_mlp_width: hidden channels of the text blocks' MLPs; None for four times the
      tower's width.
    text_norm_eps: the epsilon of the text tower's layer norms.
    pixel_mean, pixel_std: RGB statistics that photos are normalised by, for values in
      0..1.

  Raises:
    ValueError: sizes that do not fit, or an unknown activation.
  """

  embed_dim: int = 1024
  image_size: int = 224
  blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
  stem_width: int = 64
  vision_heads: int = 32
  text_width: int = 512
  text_layers: int = 12
  text_heads: int = 8
  context_length: int = 77
  vocab_size: int = 49408
  activation: Activation = 'quick_gelu'
  text_mlp_width: int | None = None
  text_norm_eps: float = NORM_EPS
  pixel_mean: RGB = PIXEL_MEAN
  pixel_std: RGB = PIXEL_STD

  def __post_init__(self):
    if len(self.blocks) != len(STAGES):
      raise ValueError(f'blocks must be four numbers, not {self.blocks}')
    sizes = 'embed_dim', 'image_size', 'stem_width', 'text_width', 'text_layers'
    plain.at_least(self, 1, *sizes, 'blocks', 'context_length', 'vocab_size')
    plain.at_least(self, 1, 'text_mlp_width')
    plain.above(self, 0, 'text_norm_eps', 'pixel_std')
    if self.image_size % _STRIDE or self.stem_width % 2:
      raise ValueError(
        f'image_size must be a multiple of {_STRIDE} and stem_width of 2, not '
        f'{self.image_size} and {self.stem_width}'
      )
    check_heads('32 times stem_width', self.widths[-1], self.vision_heads)
    check_heads('text_width', self.text_width, self.text_heads)
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'activation must be one of {sorted(ACTIVATIONS)}, not {self.activation!r}'
      )

  @property
  def widths(self) -> tuple[int, int, int, int]:
    """Channels of each stage."""
    return tuple(self.stem_width * 4 * 2**stage for stage in range(len(STAGES)))


def _published(embed, image_size, blocks, width, text_width) -> ResNetCLIPConfig:
  return ResNetCLIPConfig(
    embed_dim=embed,
    image_size=image_size,
    blocks=blocks,
    stem_width=width,
    vision_heads=width // 2,
    text_width=text_width,
    text_heads=text_width // 64,
  )


# OpenAI's sizes [fcclip 2.5], and a small one.
RESNET_CLIP_SIZES = {
  'rn50': _published(1024, 224, (3, 4, 6, 3), 64, 512),
  'rn101': _published(512, 224, (3, 4, 23, 3), 64, 512),
  'rn50x4': _published(640, 288, (4, 6, 10, 6), 80, 640),
  'rn50x16': _published(768, 384, (6, 8, 18, 8), 96, 768),
  'rn50x64': _published(1024, 448, (3, 15, 36, 10), 128, 1024),
  'rn_tiny': ResNetCLIPConfig(
    32, 96, (1, 2, 1, 1), 8, 4, text_width=64, text_layers=2, text_heads=1
  ),
}


def _average(x: Float[Array, 'b h w c'], window: int) -> Float[Array, 'b h/n w/n c']:
  """Means of cells of `window` x `window` pixels."""
  if window == 1:
    return x
  batch, height, width, channels = x.shape
  cells = x.reshape(batch, height // window, window, width // window, window, channels)
  return cells.mean((2, 4))


class Bottleneck(nnx.Module):
  """1x1, 3x3 and 1x1 convolutions; an average pool strides, on the shortcut too."""

  def __init__(
    self,
    in_channels: int,
    narrow: int,
    stride: Literal[1, 2],
    *,
    project: bool,
    dtype,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    self.conv1 = ConvNorm(in_channels, narrow, 1, **common)
    self.conv2 = ConvNorm(narrow, narrow, 3, **common)
    self.conv3 = ConvNorm(narrow, 4 * narrow, 1, **common)
    self.shortcut = ConvNorm(in_channels, 4 * narrow, 1, **common) if project else None
    self.stride = stride

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None
  ) -> Float[Array, 'b h2 w2 d']:
    """Runs the block; `hw` is the real part of the input."""
    y = zero_outside(nnx.relu(self.conv1(x)), hw)
    y = self.conv3(_average(nnx.relu(self.conv2(y)), self.stride))
    if self.shortcut is not None:
      x = self.shortcut(_average(x, self.stride))
    return nnx.relu(y + x)


class Stem(nnx.Module):
  """Three 3x3 convolutions, the first of stride 2, and a 2x2 average pool."""

  def __init__(self, channels: int, *, dtype, rngs: nnx.Rngs):
    common = {'dtype': dtype, 'rngs': rngs}
    self.conv1 = ConvNorm(3, channels // 2, 3, 2, **common)
    self.conv2 = ConvNorm(channels // 2, channels // 2, 3, **common)
    self.conv3 = ConvNorm(channels // 2, channels, 3, **common)

  def __call__(
    self, x: Float[Array, 'b h w 3'], hw: ValidHW = None
  ) -> Float[Array, 'b h/4 w/4 c']:
    hw = None if hw is None else hw // 2
    for conv in (self.conv1, self.conv2, self.conv3):
      x = zero_outside(nnx.relu(conv(x)), hw)
    return _average(x, 2)


class Trunk(nnx.Module):
  """The four feature maps of CLIP's ResNet.

  Args:
    config: sizes.
    remat: recompute each block in the backward pass instead of storing it.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    config: ResNetCLIPConfig,
    *,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    self.stem = Stem(config.stem_width, **common)
    before = config.stem_width
    stages = []
    for index, (width, blocks) in enumerate(
      zip(config.widths, config.blocks, strict=True)
    ):
      first = Bottleneck(before, width // 4, 2 if index else 1, project=True, **common)
      others = [
        Bottleneck(width, width // 4, 1, project=False, **common)
        for _ in range(blocks - 1)
      ]
      stages.append(nnx.List([first, *others]))
      before = width
    self.res2, self.res3, self.res4, self.res5 = stages
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
    x, features = self.stem(pixels, hw), {}
    for name, stride in STAGES.items():
      first, *others = getattr(self, name)
      real = None if hw is None else hw // (stride // first.stride)
      x = recompute(first, self.remat)(x, real)
      real = None if hw is None else hw // stride

      def run(block, x, real=real):
        return recompute(block, self.remat)(x, real), None

      x, _ = in_turn(run, others, x)
      features[name] = x
    return features


class AttentionPool(nnx.Module):
  """CLIP's head: the mean of a map looks at its places, and enters the joint space."""

  def __init__(self, config: ResNetCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    width, heads = config.widths[-1], config.vision_heads
    shape = (heads, width // heads)
    common = {'kernel_init': _init, 'dtype': dtype, 'rngs': rngs}
    self.grid = config.image_size // _STRIDE
    self.positional_embedding = nnx.Param(
      width**-0.5 * jax.random.normal(rngs.params(), (self.grid**2 + 1, width))
    )
    self.query = nnx.LinearGeneral(width, shape, **common)
    self.key = nnx.LinearGeneral(width, shape, **common)
    self.value = nnx.LinearGeneral(width, shape, **common)
    self.out = nnx.LinearGeneral(shape, config.embed_dim, axis=(-2, -1), **common)
    self.scale = shape[1] ** -0.5

  def __call__(self, features: Float[Array, 'b g g c']) -> Float[Array, 'b d']:
    """CLIP's own pooling, of a map of the trained size; not normalised, float32."""
    tokens = features.reshape(features.shape[0], -1, features.shape[-1])
    tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
    tokens = tokens + self.positional_embedding[...].astype(tokens.dtype)
    q = self.query(tokens[:, :1]) * self.scale
    pooled = attend(q, self.key(tokens), self.value(tokens))
    return self.out(pooled)[:, 0].astype(jnp.float32)

  def of_masks(
    self,
    features: Float[Array, 'b h w c'],
    masks: Bool[Array, 'b q h w'],
    hw: ValidHW = None,
  ) -> Float[Array, 'b q d']:
    """The vector of each mask, by the mean's attention inside it [fcclip 2.5].

    Unlike CLIP's own pooling, the mean is not among the keys. A mask that covers
    nothing gets the output layer's bias.

    Args:
      features: the last map of the trunk, of any size.
      masks: places that each mask covers, all of them real.
      hw: the real part of the map.

    Returns:
      Vectors in the joint space, not normalised, float32.
    """
    table = self.positional_embedding[...]
    places = self._resized(table[1:], features.shape[1:3], hw)
    keys = features + places.astype(features.dtype)
    keys = keys.reshape(features.shape[0], -1, features.shape[-1])
    real = zero_outside(features, hw).astype(jnp.float32).sum((1, 2))
    count = features.shape[1] * features.shape[2] if hw is None else hw.prod(-1)
    mean = real / jnp.reshape(jnp.maximum(count, 1), (-1, 1)).astype(jnp.float32)
    query = (mean + table[0]).astype(features.dtype)[:, None]
    q = self.query(query) * self.scale
    covered = masks.reshape(*masks.shape[:2], -1)
    q = jnp.broadcast_to(q, (q.shape[0], covered.shape[1], *q.shape[2:]))
    pooled = attend(q, self.key(keys), self.value(keys), covered[:, None])
    there = covered.any(-1)[..., None, None]
    return self.out(jnp.where(there, pooled, 0)).astype(jnp.float32)

  def _resized(
    self, table: Float[Array, 'g2 c'], shape: tuple[int, int], hw: ValidHW
  ) -> Float[Array, '#b h w c']:
    """The positions of places on maps of another size, bilinearly."""
    square = jnp.moveaxis(table, -1, 0).reshape(-1, self.grid, self.grid)
    if hw is None:
      maps = resize(square, shape)[None]
    else:
      maps = jax.vmap(lambda size: resize(square, shape, out_hw=size))(hw)
      maps = jnp.where(inside(hw, shape)[:, None], maps, 0)
    return jnp.moveaxis(maps, 1, -1)


class ResNetTower(nnx.Module):
  """The image tower: trunk and attention pool."""

  def __init__(
    self,
    config: ResNetCLIPConfig,
    *,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.trunk = Trunk(config, remat=remat, dtype=dtype, rngs=rngs)
    self.head = AttentionPool(config, dtype=dtype, rngs=rngs)
    self.image_size = config.image_size

  def __call__(self, pixels: Float[Array, 'b r r 3']) -> Float[Array, 'b d']:
    """Image vectors (not normalised) of normalised square pixels.

    Raises:
      ValueError: photos of another size than the tower's, or channels first.
    """
    check_square(pixels, self.image_size)
    return self.head(self.trunk(pixels)['res5'])


class ResNetCLIP(TwoTowers):
  """CLIP with a ResNet."""

  def __init__(
    self,
    config: ResNetCLIPConfig,
    *,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    super().__init__(ResNetTower(config, remat=remat, **common), config, **common)
