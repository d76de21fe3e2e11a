"""EVA02-CLIP: a ViT with rotary positions and gated MLPs (Fang et al., 2023).

The network of timm's `eva02_*_clip_*` and of MaskCLIP++ [fcclip 9.4]. Patches, and
nothing else, turn with their place; norms stand inside the attention and the MLP. The
tower has the parts of `nn.clip.VisionTower` by the same names, so that mask tokens can
look at its stream: their queries do not turn.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

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
from maskclip_jax.nn.layers import NORM_EPS, LayerNorm, check_heads

# The side of the grid that places are counted on, whatever the tower's own is.
_TRAINED_GRID = 16
_TEMPERATURE = 10000.0

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

  def __post_init__(self):
    vision = 'vision_width', 'vision_layers', 'vision_mlp_width'
    text = 'text_width', 'text_layers', 'context_length', 'vocab_size'
    plain.at_least(self, 1, 'embed_dim', 'image_size', 'patch_size', *vision, *text)
    plain.at_least(self, 1, 'text_mlp_width')
    plain.above(self, 0, 'vision_norm_eps', 'text_norm_eps', 'pixel_std')
    check_heads('vision_width', self.vision_width, self.vision_heads)
    check_heads('text_width', self.text_width, self.text_heads)
    if self.vision_width // self.vision_heads % 4:
      raise ValueError(
        f'{self.vision_heads} heads of vision_width {self.vision_width} have channels '
        'that are no multiple of 4, which rotary positions need'
      )
    if self.image_size % self.patch_size:
      raise ValueError(
        f'image_size {self.image_size} is not a multiple of patch_size '
        f'{self.patch_size}'
      )
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'activation must be one of {sorted(ACTIVATIONS)}, not {self.activation!r}'
      )

  @property
  def grid(self) -> int:
    """Patches along a side."""
    return self.image_size // self.patch_size


# The published sizes, and a small one.
EVA_CLIP_SIZES = {
  'eva02_b16': EvaCLIPConfig(
    512, 224, 16, 768, 12, 12, 2048, text_width=512, text_heads=8
  ),
  'eva02_l14': EvaCLIPConfig(image_size=224),
  'eva02_l14_336': EvaCLIPConfig(),
  'eva02_tiny': EvaCLIPConfig(
    32, 64, 16, 128, 2, 2, 341, text_width=64, text_layers=2, text_heads=1
  ),
}


@functools.cache
def _turns(grid: int, channels: int) -> Float[np.ndarray, '2 n c/2']:
  """Cosines and sines of every place, row by row, for each pair of channels.

  The first half of the pairs turns with the row, the second with the column.
  """
  place = np.arange(grid, dtype=np.float32) * np.float32(_TRAINED_GRID / grid)
  bands = channels // 4
  speed = np.float32(1) / np.float32(_TEMPERATURE) ** (
    np.arange(bands, dtype=np.float32) / bands
  )
  angles = place[:, None] * speed
  shape = (grid, grid, bands)
  rows = np.broadcast_to(angles[:, None], shape)
  columns = np.broadcast_to(angles[None], shape)
  both = np.concatenate([rows, columns], axis=-1).reshape(grid**2, -1)
  return np.stack([np.cos(both), np.sin(both)])


def turned(x: Float[Array, '*b t h d'], grid: int) -> Float[Array, '*b t h d']:
  """Queries or keys, the last `grid`² of which turn with their place."""
  cos, sin = (jnp.asarray(table)[:, None] for table in _turns(grid, x.shape[-1]))
  first, places = x[..., : -(grid**2), :, :], x[..., -(grid**2) :, :, :]
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
    self.grid = config.grid

  def queries(
    self, normed: Float[Array, '*b t w'], projection: nnx.Module | None = None
  ) -> Float[Array, '*b t h d']:
    """Scaled queries of [class, patches]; by another projection, of tokens without a
    place."""
    q = super().queries(normed, projection)
    return turned(q, self.grid) if projection is None else q

  def keys_values(
    self, normed: Float[Array, '*b t w']
  ) -> tuple[Float[Array, '*b t h d'], Float[Array, '*b t h d']]:
    """Keys and values of [class, patches]."""
    k, v = super().keys_values(normed)
    return turned(k, self.grid), v

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

  def ln_pre(self, tokens: Float[Array, '*b w']) -> Float[Array, '*b w']:
    """The tokens: this tower has no norm before its blocks."""
    return tokens


class EvaCLIP(TwoTowers):
  """CLIP with an EVA02."""

  def __init__(self, config: EvaCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    common = {'dtype': dtype, 'rngs': rngs}
    super().__init__(EvaTower(config, **common), config, **common)
