"""The CLIP baseline of the MaskCLIP paper: crop every proposal, classify the crop.

Not released with the paper, so every choice it leaves open is a field of the config
[masqclip 4.9]. Nothing is trained; CLIP sees one crop per mask, which makes this
by far the slowest of the systems.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import (
  Images,
  Outputs,
  RegionVectors,
  Scores,
  TextBank,
  check_inputs,
)
from maskclip_jax.systems.crops import CropRule, crop_vectors, encode_crops
from maskclip_jax.systems.parts import PartConfig, build_part, build_proposer, logits_of
from maskclip_jax.systems.score_rules import named, without


@dataclasses.dataclass(frozen=True)
class CLIPBaselineConfig:
  """Sizes and choices of the baseline.

  Attributes:
    proposals: the proposal network, any that there is.
    clip: the CLIP that classifies the crops; with mask prompts they stand in for what a
      mask hides [ovseg 3].
    fill: what replaces the pixels outside the mask: CLIP's mean colour, black, or
      nothing (the crop keeps its background).
    square: how a box becomes a square: padded with the fill, or squashed.
    box_scale: enlargement of the box about its centre; 1 is the tight box.
    method: how it is resized, as Pillow does or as PyTorch does; see `CropRule`.
    joint: the proposals name masks by the same words, and `Scores` joins both opinions.
  """

  proposals: PartConfig
  clip: PartConfig
  fill: Literal['mean', 'black', 'none'] = 'mean'
  square: Literal['pad', 'squash'] = 'pad'
  box_scale: float = 1.0
  method: Literal['bicubic', 'bicubic_antialiased'] = 'bicubic_antialiased'
  joint: bool = False

  def __post_init__(self):
    self.rule()

  def rule(self) -> CropRule:
    """How masks become squares."""
    return CropRule(self.fill, self.square, self.box_scale, self.method)


class CLIPBaseline(nnx.Module):
  """Proposals and an unmodified CLIP."""

  def __init__(self, config: CLIPBaselineConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.proposals = build_proposer(config.proposals, dtype=dtype, rngs=rngs)
    self.clip = build_part(config.clip, dtype=dtype, rngs=rngs)
    self.config = config

  def encode_masks(
    self,
    images: Images,
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    scores: Scores | None = None,
  ) -> RegionVectors:
    """CLIP vectors of the crops of arbitrary masks, any number of them.

    Args:
      images: photos on their canvas.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: from which probability on a pixel belongs to a mask, and whether mask
        prompts are used.
    """
    config, scores = self.config, Scores() if scores is None else scores
    return encode_crops(
      images,
      mask_logits,
      mask_hw,
      lambda crops: crop_vectors(self.clip, crops, scores.mask_prompts),
      clip=config.clip,
      rule=config.rule(),
      threshold=scores.mask_threshold,
    )

  def __call__(
    self, images: Images, text: TextBank, scores: Scores | None = None
  ) -> Outputs:
    """The proposals' masks; class logits by crops; empty masks get probability 0."""
    check_inputs(images, text)
    found = self.proposals.propose_masks(images, text if self.config.joint else None)
    encoded = self.encode_masks(
      images, logits_of(found.mask_logits), found.mask_hw, scores
    )
    logits = regions.class_similarity(encoded.vectors, text)
    outputs = named(found, logits, text, scores, empty=encoded.empty)
    return without(outputs, encoded.empty)
