"""MasQCLIP (ICCV 2023): mask tokens with query projections of their own.

A class-agnostic proposal network finds masks; every mask becomes a token that reads the
frozen CLIP through one new query projection per block (MasQ-tuning). The CLIP stream
never sees the mask tokens: it is computed once, whatever their number.
Source: [masqclip 5].
"""

import dataclasses
import re
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.layers import attend
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import (
  Images,
  Outputs,
  RegionVectors,
  Scores,
  TextBank,
  check_inputs,
)
from maskclip_jax.systems.parts import PartConfig, build_part, build_proposer, logits_of
from maskclip_jax.systems.score_rules import named

# What CLIP sees beyond the photo's edge [masqclip 5.3].
PADDING = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class MasQCLIPConfig:
  """Sizes of a MasQCLIP.

  Attributes:
    proposals: the proposal network, a Mask2Former with one class (object) in the
      released models, or any other.
    clip: the CLIP that carries the mask tokens.
    joint: the proposals name masks by the same words, and `Scores` joins both opinions.
  """

  proposals: PartConfig
  clip: PartConfig
  joint: bool = False


def untuned(values: Mapping[str, Array], path: str) -> Array | None:
  """The value of a parameter before any tuning, where it follows from CLIP's own: mask
  tokens are copies of the class token that ask as it does.

  Args:
    values: CLIP's parameters, below 'clip/'.
    path: a parameter of this model.
  """
  if path == 'mask_embeddings':
    return values['clip/visual/positional_embedding'][0]
  part, _, rest = path.partition('/')
  if part != 'new_q_proj':
    return None
  block, _, array = rest.partition('/')
  return values[f'clip/visual/transformer/resblocks/{block}/attn/query/{array}']


def all_untuned(values: Mapping[str, Array]) -> dict[str, Array]:
  """Every parameter of tuning before any, of CLIP's own; see `untuned`."""
  query = re.compile(r'clip/visual/transformer/resblocks/(\d+)/attn/query/(\w+)')
  found = filter(None, map(query.fullmatch, values))
  paths = ['mask_embeddings', *(f'new_q_proj/{m[1]}/{m[2]}' for m in found)]
  return {path: untuned(values, path) for path in paths}


class MasQCLIP(nnx.Module):
  """Proposals, a frozen CLIP, and the tuned queries of the mask tokens."""

  def __init__(self, config: MasQCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    clip = config.clip
    self.proposals = build_proposer(config.proposals, dtype=dtype, rngs=rngs)
    self.clip = build_part(clip, dtype=dtype, rngs=rngs)
    heads = (clip.vision_heads, clip.vision_width // clip.vision_heads)
    bound = clip.vision_width**-0.5
    uniform = nnx.initializers.uniform(2 * bound)

    def init(key, shape, dtype=jnp.float32):
      # PyTorch's default for a linear layer, weight and bias alike [masqclip 5.3].
      return uniform(key, shape, dtype) - bound

    self.new_q_proj = nnx.List(
      [
        nnx.LinearGeneral(
          clip.vision_width,
          heads,
          kernel_init=init,
          bias_init=init,
          dtype=dtype,
          rngs=rngs,
        )
        for _ in range(clip.vision_layers)
      ]
    )
    self.mask_embeddings = nnx.Param(
      jnp.array(self.clip.visual.positional_embedding[...][0])
    )
    self.config = config

  def visibility(
    self, mask_logits: Float[Array, 'b q h w'], mask_hw: Int[Array, 'b 2']
  ) -> Bool[Array, 'b 1 q n']:
    """True where a mask token sees a CLIP token: the class token, and every patch that
    the mask touches (largest logit inside it above 0)."""
    clip = self.config.clip
    squashed = regions.squash_masks(mask_logits, mask_hw, clip.image_size)
    peaks = regions.patches_of(squashed, clip.patch_size).max(-1)
    return regions.with_class_token(peaks > 0)

  def encode_masks(
    self,
    images: Images,
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    scores: Scores | None = None,
  ) -> RegionVectors:
    """CLIP vectors of arbitrary masks, any number of them.

    Args:
      images: photos on their canvas.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: nothing of them is read.
    """
    visible = self.visibility(mask_logits, mask_hw)
    visual = self.clip.visual
    pixels = regions.squash_photos(images, self.config.clip, PADDING)
    # CLIP's own stream does not see the mask tokens [masqclip 5.3].
    tokens = visual.ln_pre(visual.embed(pixels))
    start = visual.class_embedding[...] + self.mask_embeddings[...]
    batch, queries = mask_logits.shape[:2]
    masks = jnp.broadcast_to(visual.ln_pre(start), (batch, queries, start.shape[-1]))
    for block, new_q in zip(visual.transformer.resblocks, self.new_q_proj, strict=True):
      normed = block.ln_1(tokens)
      k, v = block.keys_values(normed)
      q = block.queries(block.ln_1(masks), new_q)
      masks = block.residual(masks, attend(q, k, v, visible))
      attended = attend(block.queries(normed), k, v)
      tokens = block.residual(tokens, attended)
    empty = regions.empty_masks(mask_logits, mask_hw)
    return RegionVectors(visual.project(masks), (), empty)

  def __call__(
    self, images: Images, text: TextBank, scores: Scores | None = None
  ) -> Outputs:
    """The proposals' masks, class logits, and the object log-probability.

    The class logits include the void column ('background'), the last one of the bank.
    """
    check_inputs(images, text)
    found = self.proposals.propose_masks(images, text if self.config.joint else None)
    encoded = self.encode_masks(images, logits_of(found.mask_logits), found.mask_hw)
    logits = regions.class_similarity(encoded.vectors, text)
    return named(found, logits, text, scores, empty=encoded.empty)
