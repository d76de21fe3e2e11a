"""MaskCLIP (Ding, Wang, Tu; ICML 2023): mask class tokens and relative mask attention.

Every proposal becomes a copy of CLIP's class token that sees only its mask's patches.
In four blocks, relative mask attention (RMA) adds what the mask looks like to what the
patches look like, and refines the mask itself. Without RMA this is the training-free
encoder that MasQCLIP calls "freeze". Source: [masqclip 4].
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import CLIP, CLIPConfig
from maskclip_jax.nn.layers import LayerNorm, attend, quick_gelu
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import (
  Images,
  Outputs,
  RegionVectors,
  Scores,
  TextBank,
  check_inputs,
)
from maskclip_jax.systems.parts import (
  PartConfig,
  build_proposer,
  colour_beyond,
  logits_of,
)
from maskclip_jax.systems.score_rules import named

# Masks whose mask features (patches x width floats each) are in memory at a time.
CHUNK = 10


@dataclasses.dataclass(frozen=True)
class MaskCLIPConfig:
  """Sizes of a MaskCLIP.

  Attributes:
    proposals: the proposal network, a Mask2Former without a class head in the released
      models, or any other.
    clip: the CLIP whose image tower carries the mask tokens.
    rma_blocks: zero-based blocks with relative mask attention; empty for the
      training-free encoder, whose masks stay the proposals'.
    antialias: whether the photo is antialiased on its way to CLIP. The released code
      leaves that to torchvision: off up to 0.16, among them the version it was trained
      with, on in later ones [masqclip 1.5].
    joint: the proposals name masks by the same words, and `Scores` joins both opinions.
  """

  proposals: PartConfig
  clip: CLIPConfig
  rma_blocks: tuple[int, ...] = (5, 11, 17, 23)
  antialias: bool = False
  joint: bool = False

  def __post_init__(self):
    if any(not 0 <= b < self.clip.vision_layers for b in self.rma_blocks):
      raise ValueError(
        f'rma_blocks {self.rma_blocks} do not exist in a tower of '
        f'{self.clip.vision_layers} blocks'
      )


def _per_patch(
  conv: nnx.Conv, patches: Float[Array, '*b n i']
) -> Float[Array, '*b n o']:
  """A convolution that sees one patch at a time, as one matrix product: on CPUs several
  times faster than the convolution."""
  kernel = conv.kernel[...].reshape(patches.shape[-1], -1)
  dtype = conv.dtype or kernel.dtype
  return patches.astype(dtype) @ kernel.astype(dtype) + conv.bias[...].astype(dtype)


def _normal(fan: int) -> nnx.Initializer:
  return nnx.initializers.normal((2 / fan) ** 0.5)


class RelativeMaskAttention(nnx.Module):
  """What MaskCLIP trains in one block [masqclip 4.3]: 1.45 M parameters at L/14."""

  def __init__(self, config: CLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    width, patch = config.vision_width, config.patch_size
    self.heads, self.patch = config.vision_heads, patch
    # [masqclip 4.5]: uniform(0, 1) biases are what the released code draws.
    self.conv1 = nnx.Conv(
      1,
      width,
      (patch, patch),
      strides=patch,
      padding='VALID',
      kernel_init=_normal(patch**2),
      bias_init=nnx.initializers.uniform(1.0),
      dtype=dtype,
      rngs=rngs,
    )
    self.conv3 = nnx.Conv(
      width,
      patch**2,
      (1, 1),
      kernel_init=_normal(width),
      bias_init=nnx.initializers.uniform(1.0),
      dtype=dtype,
      rngs=rngs,
    )
    self.q_prime_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.k_prime_proj = nnx.Linear(
      width, width, kernel_init=_normal(width), dtype=dtype, rngs=rngs
    )

  def mask_features(self, masks: Float[Array, '*b r r']) -> Float[Array, '*b n w']:
    """`conv1` of tanh(mask)."""
    return _per_patch(self.conv1, regions.patches_of(jnp.tanh(masks), self.patch))

  def refinement(
    self, q: Float[Array, '*b h d'], k: Float[Array, 'n h d']
  ) -> Float[Array, '*b r r']:
    """What is added to each mask: `conv3` of quick_gelu(query * key), unshuffled."""
    product = q[..., None, :, :] * k
    product = quick_gelu(product.reshape(*product.shape[:-2], -1))
    return regions.maps_of(_per_patch(self.conv3, product), self.patch)

  def __call__(
    self,
    masks: Float[Array, 'q r r'],
    q: Float[Array, 'q h d'],
    k: Float[Array, 'n h d'],
    patches: Float[Array, 'n w'],
  ) -> tuple[Float[Array, 'h q n'], Float[Array, 'q r r']]:
    """Relative scores and mask updates of one photo.

    Args:
      masks: current mask logits.
      q: the block's frozen queries of the mask tokens, already scaled.
      k: the block's frozen keys of the patches.
      patches: the block's normalised patch tokens.
    """
    keys = self.k_prime_proj(patches)
    keys = keys.reshape(-1, self.heads, keys.shape[-1] // self.heads)
    scale = keys.shape[-1] ** -0.5

    @jax.checkpoint
    def chunk(inputs):
      mask, query = inputs
      u = self.q_prime_norm(self.mask_features(mask)).reshape(keys.shape)
      scores = scale * jnp.einsum('nhd,nhd->hn', u, keys)
      return scores, self.refinement(query, k)

    scores, update = jax.lax.map(
      chunk, (masks, q), batch_size=min(CHUNK, masks.shape[0])
    )
    return jnp.swapaxes(scores, 0, 1), update.astype(jnp.float32)


class MaskCLIP(nnx.Module):
  """Proposals, a frozen CLIP, and relative mask attention."""

  def __init__(self, config: MaskCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.proposals = build_proposer(config.proposals, dtype=dtype, rngs=rngs)
    self.clip = CLIP(config.clip, dtype=dtype, rngs=rngs)
    self.rma = nnx.List(
      [
        RelativeMaskAttention(config.clip, dtype=dtype, rngs=rngs)
        for _ in config.rma_blocks
      ]
    )
    self.config = config

  def visibility(self, masks: Float[Array, 'b q r r']) -> Bool[Array, 'b 1 q n']:
    """True where a mask token sees a CLIP token: the class token, and every patch with
    a pixel of probability 0.5 or more."""
    peaks = regions.patches_of(masks, self.config.clip.patch_size).max(-1)
    return regions.with_class_token(peaks >= 0)

  def encode_squares(
    self, pixels: Float[Array, 'b r r 3'], masks: Float[Array, 'b q r r']
  ) -> tuple[Float[Array, 'b q d'], tuple[Float[Array, 'b q r r'], ...]]:
    """Encodes masks that lie on CLIP's square already.

    Args:
      pixels: normalised square photos.
      masks: mask logits on the same square.

    Returns:
      Vectors (not normalised), and the masks after each RMA block (none without RMA).
    """
    visual = self.clip.visual
    tokens = visual.ln_pre(visual.embed(pixels))
    start = tokens[:, :1]
    mask_tokens = jnp.broadcast_to(start, (*masks.shape[:2], start.shape[-1]))
    rma = dict(zip(self.config.rma_blocks, self.rma, strict=True))
    visible, refined = self.visibility(masks), []
    for index, block in enumerate(visual.transformer.resblocks):
      normed = block.ln_1(tokens)
      k, v = block.keys_values(normed)
      q = block.queries(block.ln_1(mask_tokens))
      if index in rma:
        relative, update = jax.vmap(rma[index])(masks, q, k[:, 1:], normed[:, 1:])
        average = functools.partial(_halve_patches, relative=relative)
        attended = attend(q, k, v, visible, adjust=average)
        masks = masks + update
        refined.append(masks)
        visible = self.visibility(masks)
      else:
        attended = attend(q, k, v, visible)
      mask_tokens = block.residual(mask_tokens, attended)
      tokens = block.residual(tokens, attend(block.queries(normed), k, v))
    return visual.project(mask_tokens), tuple(refined)

  def encode_masks(
    self,
    images: Images,
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    scores: Scores | None = None,
  ) -> RegionVectors:
    """CLIP vectors of arbitrary masks, any number of them, and the masks as refined.

    Args:
      images: photos on their canvas.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: nothing of them is read.
    """
    size = self.config.clip.image_size
    # CLIP sees the detector's mean colour beyond the photo's edge [masqclip 4.1].
    padding = colour_beyond(self.config.proposals)
    method = 'bicubic_antialiased' if self.config.antialias else 'bicubic'
    pixels = regions.squash_photos(images, self.config.clip, padding, method)
    masks = regions.squash_masks(mask_logits, mask_hw, size)
    vectors, refined = self.encode_squares(pixels, jax.lax.stop_gradient(masks))
    return RegionVectors(vectors, refined, regions.empty_masks(mask_logits, mask_hw))

  def __call__(
    self, images: Images, text: TextBank, scores: Scores | None = None
  ) -> Outputs:
    """Refined masks on CLIP's square, class logits with the void column ('other').

    `aux` holds the outputs after each RMA block, all with the final class logits. The
    released training code lists the final masks there instead (an aliasing slip): which
    of the two a loss uses is the training profile's choice [masqclip 4.4].
    """
    check_inputs(images, text)
    found = self.proposals.propose_masks(images, text if self.config.joint else None)
    size = self.config.clip.image_size
    encoded = self.encode_masks(images, logits_of(found.mask_logits), found.mask_hw)
    logits = regions.class_similarity(encoded.vectors, text)
    found = named(found, logits, text, scores, empty=encoded.empty)
    if not encoded.masks:
      return found
    whole = jnp.full_like(found.mask_hw, size)
    stages = tuple(
      dataclasses.replace(found, mask_logits=masks, mask_hw=whole)
      for masks in encoded.masks
    )
    return dataclasses.replace(stages[-1], aux=stages[:-1])


def _halve_patches(
  scores: Float[Array, 'b h q n'], relative: Float[Array, 'b h q n-1']
) -> Float[Array, 'b h q n']:
  """Averages the patch scores with the relative ones.

  The class token's score is not halved, so it gains weight in RMA blocks: that is how
  the released model was trained [masqclip 12.2].
  """
  patches = 0.5 * (scores[..., 1:] + relative)
  return jnp.concatenate([scores[..., :1], patches], axis=-1)
