"""SigLIP and SigLIP 2 (Zhai et al., 2023; Tschannen et al., 2025).

Two pre-norm transformers without a class token: an attention pool with a learned query
reads the patches, and the last token of a padded prompt reads the words. Pairs are
judged one by one, by a sigmoid with a learned scale and bias.

SigLIP 2 for photos of any shape (NaFlex) has a table of positions that is resized to
the patches of a photo; in all else it is the same network.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax import plain
from maskclip_jax.nn.clip import (
  ACTIVATIONS,
  MLP,
  RGB,
  Activation,
  Transformer,
  VisionTower,
  unit,
)
from maskclip_jax.nn.layers import (
  LayerNorm,
  MultiHeadAttention,
  check_heads,
  check_image_size,
  check_pixels,
)
from maskclip_jax.ops.resize import resize

_GREY = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class SigLIPConfig:
  """Sizes of a SigLIP; the defaults are those of B/16.

  Attributes:
    embed_dim: width of the joint space, which is that of the image tower.
    image_size: side of the square input, in pixels.
    patch_size: side of a patch, in pixels.
    position_grid: positions along a side of the table of a network that takes photos of
      any shape in whole patches (NaFlex); None for one that takes squares of
      `image_size` alone.
    vision_width, vision_layers, vision_heads: the image tower.
    text_width, text_layers, text_heads: the text tower.
    context_length: tokens of a prompt, which is padded to as many.
    vocab_size: number of token ids.
    pad_token: what prompts are padded with: 1 by the tokenizer of SigLIP, 0 by Gemma's,
      which is SigLIP 2's.
    cleaning: what happens to a text before it is cut into tokens: 'lower' lowers its
      case, 'canonical' takes its punctuation out as well.
    vision_activation, text_activation: of the towers' MLPs.
    vision_mlp_width, text_mlp_width: hidden channels of the blocks' MLPs; None for four
      times the tower's width.
    vision_norm_eps, text_norm_eps: of the layer norms.
    pixel_mean, pixel_std: RGB statistics that photos are normalised by, for values in
      0..1.

  Raises:
    ValueError: sizes that do not fit, or an unknown activation.
  """

  embed_dim: int = 768
  image_size: int = 224
  patch_size: int = 16
  vision_width: int = 768
  vision_layers: int = 12
  vision_heads: int = 12
  text_width: int = 768
  text_layers: int = 12
  text_heads: int = 12
  context_length: int = 64
  vocab_size: int = 32000
  pad_token: int = 1
  cleaning: Literal['canonical', 'lower'] = 'canonical'
  vision_activation: Activation = 'gelu_tanh'
  text_activation: Activation = 'gelu_tanh'
  vision_mlp_width: int | None = None
  text_mlp_width: int | None = None
  vision_norm_eps: float = 1e-6
  text_norm_eps: float = 1e-6
  pixel_mean: RGB = _GREY
  pixel_std: RGB = _GREY
  position_grid: int | None = None

  def __post_init__(self):
    for tower in ('vision', 'text'):
      width, heads, act = (f'{tower}_{x}' for x in ('width', 'heads', 'activation'))
      plain.at_least(self, 1, width, f'{tower}_layers', f'{tower}_mlp_width')
      plain.above(self, 0, f'{tower}_norm_eps')
      check_heads(width, getattr(self, width), getattr(self, heads))
      if getattr(self, act) not in ACTIVATIONS:
        raise ValueError(
          f'{act} must be one of {sorted(ACTIVATIONS)}, not {getattr(self, act)!r}'
        )
    sizes = 'embed_dim', 'patch_size', 'context_length', 'vocab_size'
    plain.at_least(self, 1, *sizes, 'position_grid')
    plain.at_least(self, 0, 'pad_token')
    plain.above(self, 0, 'pixel_std')
    if self.embed_dim != self.vision_width:
      raise ValueError(
        f'embed_dim {self.embed_dim} must be the width of the image tower, '
        f'{self.vision_width}, which has no projection'
      )
    if self.image_size < self.patch_size:
      raise ValueError(
        f'image_size {self.image_size} is smaller than patch_size {self.patch_size}'
      )
    # Photos of one size may be larger than their whole patches.
    check_image_size(self.image_size, self.patch_size if self.any_size else 1)

  @property
  def any_size(self) -> bool:
    """Whether photos may have another size than `image_size`."""
    return self.position_grid is not None

  @property
  def squashes(self) -> bool:
    """Whether photos are squashed to a square, where others are cut to one."""
    return True

  @property
  def grid(self) -> int:
    """Patches along a side; what is left of a photo at its edges is not seen."""
    return self.image_size // self.patch_size


def _square(side: int, patch: int, width: int, layers: int, **others) -> SigLIPConfig:
  """A size whose towers are alike."""
  sizes = {f'{tower}_width': width for tower in ('vision', 'text')}
  sizes |= {f'{tower}_layers': layers for tower in ('vision', 'text')}
  sizes |= {f'{tower}_heads': width // 64 for tower in ('vision', 'text')}
  return SigLIPConfig(width, side, patch, **(sizes | others))


_SO400M = {
  'vision_heads': 16,
  'text_heads': 16,
  'vision_mlp_width': 4304,
  'text_mlp_width': 4304,
}
_GEMMA = {'vocab_size': 256000, 'pad_token': 0, 'cleaning': 'lower'}
_NAFLEX = {'position_grid': 16}

# The published sizes, and a small one.
SIGLIP_SIZES = {
  'siglip_b16': _square(224, 16, 768, 12),
  'siglip_l16_256': _square(256, 16, 1024, 24),
  'siglip_so400m_14_384': _square(384, 14, 1152, 27, **_SO400M),
  'siglip2_b16': _square(224, 16, 768, 12, **_GEMMA),
  'siglip2_l16_256': _square(256, 16, 1024, 24, **_GEMMA),
  'siglip2_so400m_14': _square(224, 14, 1152, 27, **_SO400M, **_GEMMA),
  'siglip2_so400m_16_384': _square(384, 16, 1152, 27, **_SO400M, **_GEMMA),
  'siglip2_b16_naflex': _square(256, 16, 768, 12, **_GEMMA, **_NAFLEX),
  'siglip2_so400m_16_naflex': _square(
    256, 16, 1152, 27, **_SO400M, **_GEMMA, **_NAFLEX
  ),
  'siglip_tiny': _square(64, 16, 128, 2, vocab_size=512),
}


class AttentionPool(nnx.Module):
  """A learned query that looks at all patches, and an MLP."""

  def __init__(self, config: SigLIPConfig, *, dtype, rngs: nnx.Rngs):
    width, common = config.vision_width, {'dtype': dtype, 'rngs': rngs}
    normal = nnx.initializers.normal(width**-0.5)
    self.probe = nnx.Param(normal(rngs.params(), (width,)))
    self.attn = MultiHeadAttention(width, config.vision_heads, **common)
    self.norm = LayerNorm(width, epsilon=config.vision_norm_eps, **common)
    self.mlp = MLP(
      width, config.vision_activation, hidden=config.vision_mlp_width, **common
    )

  def __call__(self, tokens: Float[Array, 'b n w']) -> Float[Array, 'b w']:
    shape = (tokens.shape[0], 1, tokens.shape[-1])
    probe = jnp.broadcast_to(self.probe[...].astype(tokens.dtype), shape)
    x = self.attn(probe, tokens)
    return (x + self.mlp(self.norm(x)))[:, 0]


class SigLIPTower(VisionTower):
  """The image tower: patches with positions, blocks, and the pool."""

  def __init__(self, config: SigLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    width, patch = config.vision_width, config.patch_size
    norm = {'epsilon': config.vision_norm_eps, 'dtype': dtype, 'rngs': rngs}
    self.image_size = config.image_size
    self.patch_size = config.patch_size
    self.position_grid = config.position_grid
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
    side = config.position_grid or config.grid
    table = nnx.Param(normal(rngs.params(), (side**2, width)))
    if config.any_size:
      self.position_table = table
    else:
      self.positional_embedding = table
    self.transformer = Transformer(
      width,
      config.vision_layers,
      config.vision_heads,
      config.vision_activation,
      mlp_width=config.vision_mlp_width,
      **norm,
    )
    self.ln_post = LayerNorm(width, **norm)
    self.pool = AttentionPool(config, dtype=dtype, rngs=rngs)

  def check(self, pixels: Float[Array, 'b h w 3']) -> None:
    """Refuses photos that the tower does not read.

    Raises:
      ValueError: photos of another size than the tower's, or that are not whole patches
        of one that takes any; or channels first.
    """
    if self.position_grid is None:
      super().check(pixels)
    else:
      check_pixels(pixels, self.patch_size)

  def positions(self, shape: tuple[int, int]) -> Float[Array, 'n w']:
    """The positions of patches, row by row.

    Args:
      shape: rows and columns of patches.
    """
    if self.position_grid is None:
      return self.positional_embedding[...]
    table = self.position_table[...]
    maps = table.T.reshape(-1, self.position_grid, self.position_grid)
    return resize(maps, shape, 'bilinear_antialiased').reshape(len(maps), -1).T

  def embed(self, pixels: Float[Array, 'b h w 3']) -> Float[Array, 'b n w']:
    """The patches of pixels plus positions."""
    patches = self.patch_tokens(pixels)
    rows, columns = (side // self.patch_size for side in pixels.shape[1:3])
    return patches + self.positions((rows, columns)).astype(patches.dtype)

  def __call__(self, pixels: Float[Array, 'b h w 3']) -> Float[Array, 'b d']:
    """Image vectors (not normalised) of normalised pixels, float32.

    Raises:
      ValueError: see `check`.
    """
    tokens = self.ln_post(self.transformer(self.embed(pixels)))
    return self.pool(tokens).astype(jnp.float32)


class SigLIPTextTower(nnx.Module):
  """The text tower: every token sees all others, the last one is read."""

  def __init__(self, config: SigLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    width = config.text_width
    norm = {'epsilon': config.text_norm_eps, 'dtype': dtype, 'rngs': rngs}
    normal = nnx.initializers.normal(0.02)
    self.token_embedding = nnx.Embed(
      config.vocab_size, width, embedding_init=normal, dtype=dtype, rngs=rngs
    )
    self.positional_embedding = nnx.Param(
      normal(rngs.params(), (config.context_length, width))
    )
    self.transformer = Transformer(
      width,
      config.text_layers,
      config.text_heads,
      config.text_activation,
      mlp_width=config.text_mlp_width,
      **norm,
    )
    self.ln_final = LayerNorm(width, **norm)
    self.text_projection = nnx.Linear(width, config.embed_dim, dtype=dtype, rngs=rngs)

  def __call__(self, tokens: Int[Array, 'n t']) -> Float[Array, 'n d']:
    """Prompt vectors (not normalised), float32.

    Raises:
      ValueError: not rows of tokens, padded to the length that the tower reads.
    """
    length = len(self.positional_embedding[...])
    if tokens.ndim != 2 or tokens.shape[1] != length:
      raise ValueError(
        f'tokens must be (texts, {length}), padded, not {tokens.shape}: make them by '
        'maskclip_jax.text.word_pieces.WordPieces'
      )
    x = self.token_embedding(tokens)
    x = self.transformer(x + self.positional_embedding[...].astype(x.dtype))
    return self.text_projection(self.ln_final(x[:, -1])).astype(jnp.float32)


class SigLIP(nnx.Module):
  """Both towers, the logit scale (stored as its logarithm) and the bias."""

  def __init__(self, config: SigLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.visual = SigLIPTower(config, dtype=dtype, rngs=rngs)
    self.text = SigLIPTextTower(config, dtype=dtype, rngs=rngs)
    self.logit_scale = nnx.Param(jnp.asarray(np.log(10), jnp.float32))
    self.logit_bias = nnx.Param(jnp.asarray(-10, jnp.float32))
    self.config = config

  def __call__(
    self, pixels: Float[Array, 'b r r 3'], tokens: Int[Array, 'n t']
  ) -> Float[Array, 'b n']:
    """Logits that an image and a prompt belong together, each pair by itself."""
    image, text = unit(self.visual(pixels)), unit(self.text(tokens))
    return jnp.exp(self.logit_scale[...]) * image @ text.T + self.logit_bias[...]
