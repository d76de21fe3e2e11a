"""CLIP with a ViT image tower, as released by OpenAI [masqclip 1].

One implementation serves every system: the blocks give out their keys and values, so
that mask tokens can look at the image stream without ever becoming part of it.
Parameter names are OpenAI's in Scenic's layout, `visual/transformer/resblocks/0/...`.
"""

import dataclasses
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax import plain
from maskclip_jax.nn.layers import (
  NORM_EPS,
  LayerNorm,
  MultiHeadAttention,
  attend,
  check_heads,
  check_image_size,
  check_square,
  exact_gelu,
  quick_gelu,
)

# RGB statistics of the training images of OpenAI's CLIP, and of most others, for values
# in 0..1.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

RGB = tuple[float, float, float]

Activation = Literal['quick_gelu', 'gelu', 'gelu_tanh']

ACTIVATIONS = {'quick_gelu': quick_gelu, 'gelu': exact_gelu, 'gelu_tanh': jax.nn.gelu}
_lecun = nnx.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
  """Sizes of a CLIP.

  Attributes:
    embed_dim: width of the joint space.
    image_size: side of the square input, in pixels.
    patch_size: side of a patch, in pixels.
    vision_width, vision_layers, vision_heads: the image tower.
    text_width, text_layers, text_heads: the text tower.
    context_length: most tokens of a prompt.
    vocab_size: number of token ids.
    activation: 'quick_gelu' for OpenAI's weights; 'gelu' for most open_clip ones.
    prompt_depth: blocks of the image tower before which learned prompts replace the
      patches that a mask hides [ovseg 3]; 0 for a CLIP without mask prompts.
    vision_mlp_width, text_mlp_width: hidden channels of the blocks' MLPs; None for four
      times the tower's width.
    vision_norm_eps, text_norm_eps: of the layer norms.
    pixel_mean, pixel_std: RGB statistics that photos are normalised by, for values in
      0..1.

  Raises:
    ValueError: sizes that do not fit, or an unknown activation.
  """

  embed_dim: int
  image_size: int
  patch_size: int
  vision_width: int
  vision_layers: int
  vision_heads: int
  text_width: int
  text_layers: int
  text_heads: int
  context_length: int = 77
  vocab_size: int = 49408
  activation: Activation = 'quick_gelu'
  prompt_depth: int = 0
  vision_mlp_width: int | None = None
  text_mlp_width: int | None = None
  vision_norm_eps: float = NORM_EPS
  text_norm_eps: float = NORM_EPS
  pixel_mean: RGB = PIXEL_MEAN
  pixel_std: RGB = PIXEL_STD

  def __post_init__(self):
    for field in dataclasses.fields(self):
      size = getattr(self, field.name)
      # What may be 0 is 0 by default.
      if isinstance(size, int | float) and not size > 0 and field.default != 0:
        raise ValueError(f'{field.name} must be positive, not {size}')
    for tower in ('vision', 'text'):
      width, heads = f'{tower}_width', getattr(self, f'{tower}_heads')
      check_heads(width, getattr(self, width), heads)
    check_image_size(self.image_size, self.patch_size)
    if self.activation not in ACTIVATIONS:
      raise ValueError(
        f'activation must be one of {sorted(ACTIVATIONS)}, not {self.activation!r}'
      )
    plain.above(self, 0, 'pixel_std')
    if not 0 <= self.prompt_depth <= self.vision_layers:
      raise ValueError(
        f'prompt_depth must be in 0..{self.vision_layers}, the blocks of the image '
        f'tower, not {self.prompt_depth}'
      )

  @property
  def grid(self) -> int:
    """Patches along a side."""
    return self.image_size // self.patch_size


def _vit(image_size, patch, width, layers, embed, text_width, **others) -> CLIPConfig:
  sizes = {
    'embed_dim': embed,
    'image_size': image_size,
    'patch_size': patch,
    'vision_width': width,
    'vision_layers': layers,
    'vision_heads': width // 64,
    'text_width': text_width,
    'text_layers': 12,
    'text_heads': text_width // 64,
  }
  return CLIPConfig(**(sizes | others))


def _laion(**sizes: int) -> CLIPConfig:
  """One of open_clip's largest, whose heads are wider than 64."""
  return _vit(224, 14, activation='gelu', vision_heads=16, **sizes)


# The four sizes of OpenAI's [masqclip 1.1], three larger ones, and two small ones.
CLIP_SIZES = {
  'vit_b32': _vit(224, 32, 768, 12, 512, 512),
  'vit_b16': _vit(224, 16, 768, 12, 512, 512),
  'vit_l14': _vit(224, 14, 1024, 24, 768, 768),
  'vit_l14_336': _vit(336, 14, 1024, 24, 768, 768),
  'vit_h14': _laion(width=1280, layers=32, embed=1024, text_width=1024, text_layers=24),
  'vit_g14': _laion(
    width=1408,
    layers=40,
    embed=1024,
    text_width=1024,
    text_layers=24,
    vision_mlp_width=6144,
  ),
  'vit_bigg14': _laion(
    width=1664,
    layers=48,
    embed=1280,
    text_width=1280,
    text_layers=32,
    vision_mlp_width=8192,
  ),
  'vit_tiny': CLIPConfig(32, 64, 16, 128, 3, 2, 64, 3, 1),
  # Trained on the generated world (`configs/miniature.py`).
  'vit_miniature': CLIPConfig(64, 96, 8, 96, 4, 3, 64, 3, 2, context_length=32),
  'vit_miniature_192': CLIPConfig(64, 192, 8, 96, 4, 3, 64, 3, 2, context_length=32),
}


class MLP(nnx.Module):
  """Two dense layers with CLIP's activation between; by default four times as wide."""

  def __init__(
    self,
    width: int,
    activation: Activation,
    *,
    hidden: int | None = None,
    kernel_init: nnx.initializers.Initializer = _lecun,
    dtype,
    rngs: nnx.Rngs,
  ):
    common = {'kernel_init': kernel_init, 'dtype': dtype, 'rngs': rngs}
    hidden = hidden or 4 * width
    self.c_fc = nnx.Linear(width, hidden, **common)
    self.c_proj = nnx.Linear(hidden, width, **common)
    self.activation = ACTIVATIONS[activation]

  def __call__(self, x: Float[Array, '*b w']) -> Float[Array, '*b w']:
    return self.c_proj(self.activation(self.c_fc(x)))


class Block(nnx.Module):
  """Pre-norm residual attention block.

  `block(x, mask)` is the plain layer. A second stream of tokens that looks at this one
  takes its keys and values from `keys_values` and joins again at `residual`.

  Args:
    width: channels.
    heads: attention heads.
    activation: the activation of the MLP.
    mlp_width: hidden channels of the MLP; four times `width` by default.
    epsilon: the epsilon of the norms.
    input_init: how the query, key and value kernels start.
    kernel_init: how the other kernels start.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    activation: Activation,
    *,
    mlp_width: int | None = None,
    epsilon: float = NORM_EPS,
    input_init: nnx.initializers.Initializer = _lecun,
    kernel_init: nnx.initializers.Initializer = _lecun,
    dtype,
    rngs: nnx.Rngs,
  ):
    self.ln_1 = LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
    self.attn = MultiHeadAttention(
      width,
      heads,
      kernel_init=input_init,
      out_init=kernel_init,
      dtype=dtype,
      rngs=rngs,
    )
    self.ln_2 = LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
    common = {'kernel_init': kernel_init, 'dtype': dtype, 'rngs': rngs}
    self.mlp = MLP(width, activation, hidden=mlp_width, **common)

  def queries(
    self, normed: Float[Array, '*b t w'], projection: nnx.Module | None = None
  ) -> Float[Array, '*b t h d']:
    """Scaled queries of normalised tokens, by the block's projection or another."""
    return (projection or self.attn.query)(normed) * self.attn.scale

  def keys_values(
    self, normed: Float[Array, '*b t w']
  ) -> tuple[Float[Array, '*b t h d'], Float[Array, '*b t h d']]:
    """Keys and values of normalised tokens."""
    return self.attn.key(normed), self.attn.value(normed)

  def residual(
    self, x: Float[Array, '*b t w'], attended: Float[Array, '*b t h d']
  ) -> Float[Array, '*b t w']:
    """Output projection and MLP, each added to the stream."""
    x = x + self.attn.out(attended)
    return x + self.mlp(self.ln_2(x))

  def __call__(
    self, x: Float[Array, '*b t w'], mask: Bool[Array, '*#b #h t t'] | None = None
  ) -> Float[Array, '*b t w']:
    normed = self.ln_1(x)
    k, v = self.keys_values(normed)
    return self.residual(x, attend(self.queries(normed), k, v, mask))


class Transformer(nnx.Module):
  """A stack of blocks."""

  def __init__(
    self,
    width: int,
    layers: int,
    heads: int,
    activation: Activation,
    *,
    mlp_width: int | None = None,
    epsilon: float = NORM_EPS,
    dtype,
    rngs: nnx.Rngs,
  ):
    common = {'mlp_width': mlp_width, 'epsilon': epsilon, 'dtype': dtype, 'rngs': rngs}
    self.resblocks = nnx.List(
      [Block(width, heads, activation, **common) for _ in range(layers)]
    )

  def __call__(
    self, x: Float[Array, '*b t w'], mask: Bool[Array, '*#b #h t t'] | None = None
  ) -> Float[Array, '*b t w']:
    for block in self.resblocks:
      x = block(x, mask)
    return x


def _normal(rngs: nnx.Rngs, shape, scale: float) -> nnx.Param:
  return nnx.Param(scale * jax.random.normal(rngs.params(), shape, jnp.float32))


class VisionTower(nnx.Module):
  """The image tower [masqclip 1.2]."""

  def __init__(self, config: CLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    width, patch = config.vision_width, config.patch_size
    self.image_size = config.image_size
    norm = {'epsilon': config.vision_norm_eps, 'dtype': dtype, 'rngs': rngs}
    self.conv1 = nnx.Conv(
      3,
      width,
      (patch, patch),
      strides=patch,
      padding='VALID',
      use_bias=False,
      dtype=dtype,
      rngs=rngs,
    )
    self.class_embedding = _normal(rngs, (width,), width**-0.5)
    self.positional_embedding = _normal(rngs, (config.grid**2 + 1, width), width**-0.5)
    if config.prompt_depth:
      shape = (config.prompt_depth, config.grid**2, width)
      self.mask_prompts = _normal(rngs, shape, 0.02)
    else:
      self.mask_prompts = None
    self.ln_pre = LayerNorm(width, **norm)
    self.transformer = Transformer(
      width,
      config.vision_layers,
      config.vision_heads,
      config.activation,
      mlp_width=config.vision_mlp_width,
      **norm,
    )
    self.ln_post = LayerNorm(width, **norm)
    self.proj = nnx.Linear(
      width, config.embed_dim, use_bias=False, dtype=dtype, rngs=rngs
    )

  def check(self, pixels: Float[Array, 'b h w 3']) -> None:
    """Refuses photos that the tower does not read.

    Raises:
      ValueError: photos of another size than the tower's, or channels first.
    """
    check_square(pixels, self.image_size)

  def patch_tokens(self, pixels: Float[Array, 'b h w 3']) -> Float[Array, 'b n w']:
    """The patches row by row, without positions; errors as for `check`."""
    self.check(pixels)
    patches = self.conv1(pixels)
    return patches.reshape(patches.shape[0], -1, patches.shape[-1])

  def with_class_token(self, patches: Float[Array, 'b n w']) -> Float[Array, 'b m w']:
    """[class, patches] plus positions, before `ln_pre`."""
    first = jnp.broadcast_to(
      self.class_embedding[...].astype(patches.dtype),
      (patches.shape[0], 1, patches.shape[-1]),
    )
    tokens = jnp.concatenate([first, patches], axis=1)
    return tokens + self.positional_embedding[...].astype(tokens.dtype)

  def embed(self, pixels: Float[Array, 'b r r 3']) -> Float[Array, 'b n w']:
    """[class, patches] of pixels plus positions, before `ln_pre`."""
    return self.with_class_token(self.patch_tokens(pixels))

  def project(self, tokens: Float[Array, '*b w']) -> Float[Array, '*b d']:
    """Final norm and projection into the joint space; not normalised, float32."""
    return self.proj(self.ln_post(tokens)).astype(jnp.float32)

  def __call__(
    self,
    pixels: Float[Array, 'b r r 3'],
    kept: Bool[Array, 'b n'] | None = None,
  ) -> Float[Array, 'b d']:
    """Image vectors (not normalised) of normalised square pixels.

    Args:
      pixels: CLIP-normalised.
      kept: patches that are seen as they are; the others become mask prompts, which
        the tower must have. None keeps all.
    """
    if kept is None:
      x = self.transformer(self.ln_pre(self.embed(pixels)))
      return self.project(x[:, 0])
    patches, kept = self.patch_tokens(pixels), kept[..., None]
    prompts = self.mask_prompts[...].astype(patches.dtype)
    x = self.with_class_token(jnp.where(kept, patches, prompts[0]))
    x = self.ln_pre(x)
    for done, block in enumerate(self.transformer.resblocks, start=1):
      x = block(x)
      if done < len(prompts):
        # Later prompts enter without positions and without a norm [ovseg 3.3].
        patches = jnp.where(kept, x[:, 1:], prompts[done])
        x = jnp.concatenate([x[:, :1], patches], axis=1)
    return self.project(x[:, 0])


class TextSizes(Protocol):
  """What a text tower reads of the config of its CLIP."""

  embed_dim: int
  text_width: int
  text_layers: int
  text_heads: int
  context_length: int
  vocab_size: int
  activation: Activation
  text_mlp_width: int | None
  text_norm_eps: float


class TextTower(nnx.Module):
  """The text tower [masqclip 1.3]."""

  def __init__(self, config: TextSizes, *, dtype=jnp.float32, rngs: nnx.Rngs):
    width = config.text_width
    norm = {'epsilon': config.text_norm_eps, 'dtype': dtype, 'rngs': rngs}
    self.token_embedding = nnx.Embed(
      config.vocab_size,
      width,
      embedding_init=nnx.initializers.normal(0.02),
      dtype=dtype,
      rngs=rngs,
    )
    self.positional_embedding = _normal(rngs, (config.context_length, width), 0.01)
    self.transformer = Transformer(
      width,
      config.text_layers,
      config.text_heads,
      config.activation,
      mlp_width=config.text_mlp_width,
      **norm,
    )
    self.ln_final = LayerNorm(width, **norm)
    self.text_projection = nnx.Linear(
      width, config.embed_dim, use_bias=False, dtype=dtype, rngs=rngs
    )

  def __call__(self, tokens: Int[Array, 'n t']) -> Float[Array, 'n d']:
    """Prompt vectors (not normalised), float32.

    The tower is causal and the end token is where the vector is read, so `tokens` may
    be cut to any length that holds every end token: the result is the same.

    Raises:
      ValueError: not rows of tokens, or longer ones than the tower reads.
    """
    longest = len(self.positional_embedding[...])
    if tokens.ndim != 2 or tokens.shape[1] > longest:
      raise ValueError(
        f'tokens must be (texts, at most {longest}), not {tokens.shape}: make them by '
        'maskclip_jax.text.tokenizer.tokenize'
      )
    length = tokens.shape[1]
    x = self.token_embedding(tokens)
    x = x + self.positional_embedding[...][:length].astype(x.dtype)
    x = self.transformer(x, jnp.tri(length, dtype=bool))
    end = jnp.argmax(tokens, axis=-1)
    x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
    return self.text_projection(self.ln_final(x)).astype(jnp.float32)


class TwoTowers(nnx.Module):
  """An image tower, CLIP's text tower and the logit scale (stored as its logarithm)."""

  def __init__(
    self, visual: nnx.Module, config: TextSizes, *, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    self.visual = visual
    self.text = TextTower(config, dtype=dtype, rngs=rngs)
    self.logit_scale = nnx.Param(jnp.asarray(np.log(1 / 0.07), jnp.float32))
    self.config = config

  def __call__(
    self, pixels: Float[Array, 'b h w 3'], tokens: Int[Array, 'n t']
  ) -> Float[Array, 'b n']:
    """Similarity of images and prompts, times the logit scale."""
    image, text = unit(self.visual(pixels)), unit(self.text(tokens))
    return jnp.exp(self.logit_scale[...]) * image @ text.T


class CLIP(TwoTowers):
  """CLIP with a ViT."""

  def __init__(self, config: CLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    common = {'dtype': dtype, 'rngs': rngs}
    super().__init__(VisionTower(config, **common), config, **common)


def unit(x: Float[Array, '*b d']) -> Float[Array, '*b d']:
  """x / |x|, in float32."""
  x = x.astype(jnp.float32)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def capped_scale(logarithm: Float[Array, ''], largest: float) -> Float[Array, '']:
  """The logit scale, at most `largest`, from its stored logarithm.

  A scale that is exactly the largest still learns, as with PyTorch's clamp.
  """
  scale = jnp.exp(logarithm)
  return jnp.where(scale <= largest, scale, largest)


class PhotoInput(Protocol):
  """How a CLIP takes photos, which its config says."""

  image_size: int
  pixel_mean: RGB
  pixel_std: RGB


def normalize_pixels(
  pixels: Float[Array, '*b 3'], clip: PhotoInput
) -> Float[Array, '*b 3']:
  """0..255 RGB to the values that a CLIP reads, by its own statistics."""
  mean, std = (jnp.asarray(x, jnp.float32) for x in (clip.pixel_mean, clip.pixel_std))
  return (pixels / 255.0 - mean) / std
