"""MaskCLIP++: a fine-tuned EVA02-CLIP names masks by tokens that join its last blocks.

A frozen segmenter proposes masks and says what it thinks of words. A second CLIP, whose
image tower has learned to read masks, looks at the photo in its own proportions: from
one of its last blocks on every mask has a copy of the class token, which attends to the
patches inside the mask. Both opinions are joined, this one with most of the weight.
Source: [fcclip 9.4], which also says what is open.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax import plain
from maskclip_jax.nn.clip import capped_scale
from maskclip_jax.nn.eva import EvaBlock, EvaCLIP, EvaCLIPConfig
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
from maskclip_jax.systems.maskclippp.patches import PatchGrid, Resample, Shrink
from maskclip_jax.systems.parts import PartConfig, build_proposer, logits_of
from maskclip_jax.systems.score_rules import named

# How much this CLIP counts beside the segmenter [fcclip 9.4].
SCORES = Scores(seen_weight=0.9, unseen_weight=1.0)
# Added to the scores of patches outside a mask.
_OUTSIDE = -100.0
# Added to the joint probabilities of classes.
_FLOOR = 1e-8


@dataclasses.dataclass(frozen=True)
class MaskCLIPPPConfig:
  """Sizes of a MaskCLIP++, and what its description leaves open.

  Attributes:
    proposals: the segmenter, any that proposes masks.
    clip: the CLIP that has learned to read masks.
    proposal_words: how the segmenter reads words by its own text tower, a system of
      `text/treatments.json`; '' where its masks alone are taken.
    short_edge: pixels of a photo's short side on its way to CLIP,
    long_edge: unless the long side would exceed this many.
    resample: how the photo is resized.
    soft_masks: a mask is its probabilities, not what is above a threshold.
    shrink: how a mask is resized to the patches: bilinear, or by the mean over each.
    sees_itself: whether a mask's token attends to itself beside the patches.
  """

  proposals: PartConfig
  clip: EvaCLIPConfig
  proposal_words: str = ''
  short_edge: int = 392
  long_edge: int = 658
  resample: Resample = 'bilinear_antialiased'
  soft_masks: bool = False
  shrink: Shrink = 'bilinear'
  sees_itself: bool = True

  def __post_init__(self):
    plain.at_least(self, self.clip.patch_size, 'short_edge', 'long_edge')
    if self.long_edge < self.short_edge:
      raise ValueError(
        f'long_edge {self.long_edge} must be at least short_edge {self.short_edge}'
      )
    if reason := lacks_mask_blocks(self.clip):
      raise ValueError(f'the CLIP of a MaskCLIP++ reads masks: {reason}')

  @property
  def joint(self) -> bool:
    """The proposals name masks too, and `Scores` joins both opinions."""
    return bool(self.proposal_words)


def lacks_mask_blocks(clip: PartConfig) -> str:
  """Why no mask tokens can join the blocks of a CLIP; '' if they can."""
  if getattr(clip, 'mask_blocks', 0):
    return ''
  return 'its image tower has not learned to read masks: take the CLIP of MaskCLIP++'


class MaskCLIPPP(nnx.Module):
  """A segmenter, and the CLIP that has learned to read its masks.

  Args:
    config: sizes.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(self, config: MaskCLIPPPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.proposals = build_proposer(
      config.proposals, reads_words=config.joint, dtype=dtype, rngs=rngs
    )
    self.clip = EvaCLIP(config.clip, dtype=dtype, rngs=rngs)
    self.config = config

  def encode_masks(
    self,
    images: Images,
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    scores: Scores | None = None,
  ) -> RegionVectors:
    """CLIP vectors (not normalised) of arbitrary masks, any number of them.

    Args:
      images: photos on their canvas.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: of them, from which probability on a position belongs to a mask.
    """
    config, clip = self.config, self.config.clip
    probability = jax.nn.sigmoid(mask_logits.astype(jnp.float32))
    if config.soft_masks:
      masks = probability
    else:
      threshold = (SCORES if scores is None else scores).mask_threshold
      masks = (probability > threshold).astype(jnp.float32)
    edges = config.short_edge, config.long_edge
    grid = PatchGrid.of(images, clip.patch_size, *edges)
    shares = grid.shares(images, masks, mask_hw, clip.patch_size, config.shrink)
    inside = shares > shares.max(-1, keepdims=True) / 2
    tokens = grid.embed(self.clip.visual, clip, images, config.resample)
    vectors = self._mask_vectors(tokens, grid, shares, inside)
    return RegionVectors(vectors, (), ~inside.any(-1))

  def _mask_vectors(
    self,
    tokens: Float[Array, 'b n+1 w'],
    grid: PatchGrid,
    shares: Float[Array, 'b q n'],
    inside: Bool[Array, 'b q n'],
  ) -> Float[Array, 'b q d']:
    """What the tokens of masks become, beside a stream that does not see them."""
    tower = self.clip.visual
    blocks, scales = tower.transformer.resblocks, tower.mask_scale[...]
    turns = grid.turns(tower.transformer.resblocks[0].head_width)
    seen = jnp.pad(grid.real, ((0, 0), (1, 0)), constant_values=True)[:, None, None]
    masks = None
    for left, block in reversed(list(enumerate(reversed(blocks)))):
      normed = block.ln_1(tokens)
      k, v = block.keys_values(normed, turns)
      if left < len(scales):
        if masks is None:
          shape = (*shares.shape[:2], tokens.shape[-1])
          masks = jnp.broadcast_to(tokens[:, :1], shape)
        # Row 0 of the scales is the last block's.
        weight = jnp.exp(scales[left].astype(jnp.float32))[:, None, None]
        bias = jnp.where(inside[:, None], shares[:, None] * weight, _OUTSIDE)
        bias = jnp.where(grid.real[:, None, None], bias, -jnp.inf)
        masks = self._mask_block(block, masks, k[:, 1:], v[:, 1:], bias)
      # Nothing reads what the stream becomes in the last block.
      if left:
        q = block.queries(normed, turns=turns)
        tokens = block.residual(tokens, attend(q, k, v, seen))
    return tower.project(masks)

  def _mask_block(
    self,
    block: EvaBlock,
    masks: Float[Array, 'b q w'],
    k: Float[Array, 'b n h d'],
    v: Float[Array, 'b n h d'],
    bias: Float[Array, 'b h q n'],
  ) -> Float[Array, 'b q w']:
    """One block of the mask tokens: each attends to patches, and perhaps to itself.

    They have no place, so nothing of them turns.
    """
    attention, normed = block.attn, block.ln_1(masks)
    q = block.queries(normed, attention.query)
    scores = jnp.einsum('bqhd,bnhd->bhqn', q, k, preferred_element_type=jnp.float32)
    scores += bias
    if self.config.sees_itself:
      own = (q * attention.key(normed)).astype(jnp.float32).sum(-1)
      scores = jnp.concatenate([scores, jnp.moveaxis(own, 2, 1)[..., None]], axis=-1)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    attended = jnp.einsum('bhqn,bnhd->bqhd', weights[..., : k.shape[1]], v)
    if self.config.sees_itself:
      own = jnp.moveaxis(weights[..., -1], 1, 2)[..., None]
      attended += own * attention.value(normed)
    return block.residual(masks, attended)

  def __call__(
    self, images: Images, text: TextBank, scores: Scores = SCORES
  ) -> Outputs:
    """The segmenter's masks, and log-probabilities of classes.

    Where the segmenter names masks too, both opinions are joined and the void column is
    its own; otherwise class logits are CLIP's.

    Args:
      images: photos on their canvas.
      text: class vectors, by both text towers where both name masks.
      scores: how both classifiers are joined; the published way by default.
    """
    check_inputs(images, text)
    words = text.as_proposals_read() if self.config.joint else None
    found = self.proposals.propose_masks(images, words)
    encoded = self.encode_masks(
      images, logits_of(found.mask_logits), found.mask_hw, scores
    )
    scale = capped_scale(self.clip.logit_scale[...], regions.LOGIT_SCALE)
    logits = regions.class_similarity(
      encoded.vectors, text, scale, mixer=self.clip.mixer
    )
    return named(found, logits, text, scores, empty=encoded.empty, floor=_FLOOR)
