"""EVA02-CLIP: a ViT with rotary positions and gated MLPs (Fang et al., 2023).

The network of timm's `eva02_*_clip_*` and of MaskCLIP++ [fcclip 9.4]. Patches, and
nothing else, turn with their place; norms stand inside the attention and the MLP. The
tower has the parts of `nn.clip.VisionTower` by the same names, so that mask tokens can
look at its stream: their queries do not turn. What MaskCLIP++ has learned beside a
tower, for tokens that join its last blocks, is kept with it.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax import plain
from maskclip_jax.nn.clip import (
  ACTIVATIONS,
  PIXEL_MEAN,
  PIXEL_STD,
  RGB,
  Activation,
  Block,
  Transformer,
  TwoTowers,
  VisionTower,
)
from maskclip_jax.nn.layers import NORM_EPS, LayerNorm, check_heads, check_image_size

# The side of the grid that places are counted on, whatever the tower's own is.
_TRAINED_GRID = 16
_TEMPERATURE = 10000.0
# How the logarithm of a mask's weight starts.
_MASK_SCALE = -5.0

_lecun = nnx.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class EvaCLIPConfig:
  """Sizes of an EVA02-CLIP; the defaults are those of L/14@336.

  Attributes:
    embed_dim: width of the joint space.
    image_size: side of the square input, in pixels.
    patch_size: side of a patch, in pixels.
    vision_width, vision_layers, vision_heads: the image tower.
    vision_mlp_width: hidden channels of its gated MLPs.
    text_width, text_layers, text_heads: the text tower, which is CLIP's.
    context_length: most tokens of a prompt.
    vocab_size: number of token ids.
    activation: the activation of the text tower.
    text_mlp_width: hidden channels of the text blocks' MLPs; None for four times the
      tower's width.
    vision_norm_eps, text_norm_eps: of the layer norms.
    pixel_mean, pixel_std: RGB statistics that photos are normalised by, for values in
      0..1.
    mask_blocks: last blocks that mask tokens have learned to join, as in MaskCLIP++;
      0 for a CLIP that nobody has shown masks.
    mixer_width: hidden channels of its `Mixer`; 0 for none.

  Raises:
    ValueError: sizes that do not fit, or an unknown activation.
  """

  embed_dim: int = 768
  image_size: int = 336
  patch_size: int = 14
  vision_width: int = 1024
  vision_layers: int = 24
  vision_heads: int = 16
  vision_mlp_width: int = 2730
  text_width: int = 768
  text_layers: int = 12
  text_heads: int = 12
  context_length: int = 77
  vocab_size: int = 49408
  activation: Activation = 'gelu'
  text_mlp_width: int | None = None
  vision_norm_eps: float = 1e-6
  text_norm_eps: float = NORM_EPS
  pixel_mean: RGB = PIXEL_MEAN
  pixel_std: RGB = PIXEL_STD
  mask_blocks: int = 0
  mixer_width: int = 0

  def __post_init__(self):
    vision = 'vision_width', 'vision_layers', 'vision_mlp_width'
    text = 'text_width', 'text_layers', 'context_length', 'vocab_size'
    plain.at_least(self, 1, 'embed_dim', 'patch_size', *vision, *text)
    plain.at_least(self, 1, 'text_mlp_width')
    plain.at_least(self, 0, 'mask_blocks', 'mixer_width')
    plain.above(self, 0, 'vision_norm_eps', 'text_norm_eps', 'pixel_std')
    if self.mask_blocks > self.vision_layers:
      raise ValueError(
        f'mask_blocks must be at most {self.vision_layers}, the blocks of the image '
        f'tower, not {self.mask_blocks}'
      )
    check_heads('vision_width', self.vision_width, self.vision_heads)
    check_heads('text_width', self.text_width, self.text_heads)
    if self.vision_width // self.vision_heads % 4:
      raise ValueError(
        f'{self.vision_heads} heads of vision_width {self.vision_width} have channels '
        'that are no multiple of 4, which rotary positions need'
      )
    check_image_size(self.image_size, self.patch_size)
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'activation must be one of {sorted(ACTIVATIONS)}, not {self.activation!r}'
      )

  @property
  def grid(self) -> int:
    """Patches along a side."""
    return self.image_size // self.patch_size


_TINY = EvaCLIPConfig(
  32, 64, 16, 128, 2, 2, 341, text_width=64, text_layers=2, text_heads=1
)

# The published sizes, that of MaskCLIP++, and two small ones.
EVA_CLIP_SIZES = {
  'eva02_b16': EvaCLIPConfig(
    512, 224, 16, 768, 12, 12, 2048, text_width=512, text_heads=8
  ),
  'eva02_l14': EvaCLIPConfig(image_size=224),
  'eva02_l14_336': EvaCLIPConfig(),
  'eva02_l14_336_masks': EvaCLIPConfig(mask_blocks=3, mixer_width=768),
  'eva02_tiny': _TINY,
  'eva02_tiny_masks': dataclasses.replace(_TINY, mask_blocks=1, mixer_width=24),
}


def _speeds(channels: int) -> Float[np.ndarray, ' c/4']:
  """How fast the pairs of a head's channels turn, along one axis."""
  bands = channels // 4
  power = np.arange(bands, dtype=np.float32) / bands
  return np.float32(1) / np.float32(_TEMPERATURE) ** power


@functools.cache
def _turns(grid: int, channels: int) -> Float[np.ndarray, '2 n c/2']:
  """Cosines and sines of every place of a square, row by row, for each pair of a head's
  channels.

  The first half of the pairs turns with the row, the second with the column.
  """
  place = np.arange(grid, dtype=np.float32) * np.float32(_TRAINED_GRID / grid)
  angles = place[:, None] * _speeds(channels)
  shape = (grid, grid, channels // 4)
  rows = np.broadcast_to(angles[:, None], shape)
  columns = np.broadcast_to(angles[None], shape)
  both = np.concatenate([rows, columns], axis=-1).reshape(grid**2, -1)
  return np.stack([np.cos(both), np.sin(both)])


def turns_at(
  places: Int[Array, '*n 2'], grid: Int[Array, '*#n 2'], channels: int
) -> Float[Array, '2 *n c/2']:
  """The same of any places of any grid [fcclip 9.4].

  Args:
    places: row and column of each.
    grid: rows and columns of what they are places of.
    channels: of a head.
  """
  place = places.astype(jnp.float32) * (jnp.float32(_TRAINED_GRID) / grid)
  angles = place[..., None] * _speeds(channels)
  both = angles.reshape(*angles.shape[:-2], -1)
  return jnp.stack([jnp.cos(both), jnp.sin(both)])


def turned(
  x: Float[Array, '*b t h d'], turns: Float[Array, '2 *#b n d/2']
) -> Float[Array, '*b t h d']:
  """Queries or keys, the last n of which turn with their place."""
  cos, sin = jnp.asarray(turns)[..., None, :]
  count = turns.shape[-2]
  first, places = x[..., :-count, :, :], x[..., -count:, :, :]
  pairs = places.astype(jnp.float32).reshape(*places.shape[:-1], -1, 2)
  one, two = pairs[..., 0], pairs[..., 1]
  pairs = jnp.stack([one * cos - two * sin, two * cos + one * sin], axis=-1)
  return jnp.concatenate([first, pairs.reshape(places.shape).astype(x.dtype)], axis=-3)


class EvaAttention(nnx.Module):
  """Projections of attention: keys without bias, a norm before the output."""

  def __init__(self, width: int, heads: int, epsilon: float, *, dtype, rngs: nnx.Rngs):
    shape = (heads, width // heads)
    common = {'kernel_init': _lecun, 'dtype': dtype, 'rngs': rngs}
    self.query = nnx.LinearGeneral(width, shape, **common)
    self.key = nnx.LinearGeneral(width, shape, use_bias=False, **common)
    self.value = nnx.LinearGeneral(width, shape, **common)
    self.norm = LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
    self.out = nnx.LinearGeneral(shape, width, axis=(-2, -1), **common)
    self.scale = shape[1] ** -0.5


class GatedMLP(nnx.Module):
  """SwiGLU with a norm before the last layer (Shazeer, 2020)."""

  def __init__(self, width: int, hidden: int, epsilon: float, *, dtype, rngs: nnx.Rngs):
    common = {'kernel_init': _lecun, 'dtype': dtype, 'rngs': rngs}
    self.gate = nnx.Linear(width, hidden, **common)
    self.up = nnx.Linear(width, hidden, **common)
    self.norm = LayerNorm(hidden, epsilon=epsilon, dtype=dtype, rngs=rngs)
    self.down = nnx.Linear(hidden, width, **common)

  def __call__(self, x: Float[Array, '*b w']) -> Float[Array, '*b w']:
    return self.down(self.norm(nnx.silu(self.gate(x)) * self.up(x)))


class EvaBlock(Block):
  """Pre-norm residual block whose attention knows the places of patches."""

  def __init__(self, config: EvaCLIPConfig, *, dtype, rngs: nnx.Rngs):
    width, epsilon = config.vision_width, config.vision_norm_eps
    common = {'dtype': dtype, 'rngs': rngs}
    self.ln_1 = LayerNorm(width, epsilon=epsilon, **common)
    self.attn = EvaAttention(width, config.vision_heads, epsilon, **common)
    self.ln_2 = LayerNorm(width, epsilon=epsilon, **common)
    self.mlp = GatedMLP(width, config.vision_mlp_width, epsilon, **common)
    self.grid, self.head_width = config.grid, width // config.vision_heads

  def queries(
    self,
    normed: Float[Array, '*b t w'],
    projection: nnx.Module | None = None,
    turns: Float[Array, '2 *b n c'] | None = None,
  ) -> Float[Array, '*b t h d']:
    """Scaled queries of [class, patches]; by another projection, of tokens without a
    place.

    Args:
      normed: the tokens.
      projection: takes the place of the block's own.
      turns: of the patches, as `turns_at` gives them; those of the tower's square by
        default.
    """
    q = super().queries(normed, projection)
    return q if projection is not None else self._turned(q, turns)

  def keys_values(
    self,
    normed: Float[Array, '*b t w'],
    turns: Float[Array, '2 *b n c'] | None = None,
  ) -> tuple[Float[Array, '*b t h d'], Float[Array, '*b t h d']]:
    """Keys and values of [class, patches]; arguments as for `queries`."""
    k, v = super().keys_values(normed)
    return self._turned(k, turns), v

  def _turned(
    self, x: Float[Array, '*b t h d'], turns: Float[Array, '2 *b n c'] | None
  ) -> Float[Array, '*b t h d']:
    return turned(x, _turns(self.grid, self.head_width) if turns is None else turns)

  def residual(
    self, x: Float[Array, '*b t w'], attended: Float[Array, '*b t h d']
  ) -> Float[Array, '*b t w']:
    """Norm, output projection and MLP, each added to the stream."""
    flat = attended.reshape(*attended.shape[:-2], -1)
    return super().residual(x, self.attn.norm(flat).reshape(attended.shape))


class EvaTransformer(Transformer):
  """A stack of blocks."""

  def __init__(self, config: EvaCLIPConfig, *, dtype, rngs: nnx.Rngs):
    blocks = [
      EvaBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.vision_layers)
    ]
    self.resblocks = nnx.List(blocks)


class EvaTower(VisionTower):
  """The image tower: CLIP's, but for the blocks, two biases and a missing norm."""

  def __init__(self, config: EvaCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    width, patch = config.vision_width, config.patch_size
    self.image_size = config.image_size
    self.conv1 = nnx.Conv(
      3,
      width,
      (patch, patch),
      strides=patch,
      padding='VALID',
      dtype=dtype,
      rngs=rngs,
    )
    normal = nnx.initializers.normal(width**-0.5)
    self.class_embedding = nnx.Param(normal(rngs.params(), (width,)))
    self.positional_embedding = nnx.Param(
      normal(rngs.params(), (config.grid**2 + 1, width))
    )
    self.mask_prompts = None
    self.transformer = EvaTransformer(config, dtype=dtype, rngs=rngs)
    self.ln_post = LayerNorm(
      width, epsilon=config.vision_norm_eps, dtype=dtype, rngs=rngs
    )
    self.proj = nnx.Linear(width, config.embed_dim, dtype=dtype, rngs=rngs)
    if config.mask_blocks:
      shape = (config.mask_blocks, config.vision_heads)
      self.mask_scale = nnx.Param(jnp.full(shape, _MASK_SCALE, jnp.float32))
    else:
      self.mask_scale = None

  def ln_pre(self, tokens: Float[Array, '*b w']) -> Float[Array, '*b w']:
    """The tokens: this tower has no norm before its blocks."""
    return tokens


class Mixer(nnx.Module):
  """What MaskCLIP++ makes of the similarity of a mask and a word [fcclip 9.4].

  Two linear layers for the similarities by every template, of which there is one: so
  what they do is a factor and a summand, and is computed as that, in float32.

  Args:
    width: channels between the layers.
    rngs: seeds of the initialisation.
  """

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    common = {'dtype': jnp.float32, 'rngs': rngs}
    self.inner = nnx.Linear(1, width, **common)
    self.outer = nnx.Linear(width, 1, **common)

  def __call__(self, similarity: Float[Array, '*n']) -> Float[Array, '*n']:
    outer = self.outer.kernel[...][:, 0]
    factor = self.inner.kernel[...][0] @ outer
    summand = self.inner.bias[...] @ outer + self.outer.bias[...][0]
    return factor * similarity + summand


class EvaCLIP(TwoTowers):
  """CLIP with an EVA02."""

  def __init__(self, config: EvaCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    common = {'dtype': dtype, 'rngs': rngs}
    super().__init__(EvaTower(config, **common), config, **common)
    if config.mixer_width:
      self.mixer = Mixer(config.mixer_width, rngs=rngs)
    else:
      self.mixer = None
