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

from maskclip_jax.nn.clip import CLIP, CLIPConfig
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import (
  Images,
  Outputs,
  RegionVectors,
  Scores,
  TextBank,
  check_inputs,
)
from maskclip_jax.systems.crops import CropRule, encode_crops
from maskclip_jax.systems.mask2former.model import Mask2Former, Mask2FormerConfig


@dataclasses.dataclass(frozen=True)
class CLIPBaselineConfig:
  """Sizes and choices of the baseline.

  Attributes:
    proposals: the proposal network.
    clip: the CLIP that classifies the crops.
    fill: what replaces the pixels outside the mask: CLIP's mean colour, black, or
      nothing (the crop keeps its background).
    square: how a box becomes a square: padded with the fill, or squashed.
    box_scale: enlargement of the box about its centre; 1 is the tight box.
  """

  proposals: Mask2FormerConfig
  clip: CLIPConfig
  fill: Literal['mean', 'black', 'none'] = 'mean'
  square: Literal['pad', 'squash'] = 'pad'
  box_scale: float = 1.0

  def __post_init__(self):
    self.rule()

  def rule(self) -> CropRule:
    """How masks become squares."""
    return CropRule(self.fill, self.square, self.box_scale)


class CLIPBaseline(nnx.Module):
  """Proposals and an unmodified CLIP."""

  def __init__(self, config: CLIPBaselineConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.proposals = Mask2Former(config.proposals, dtype=dtype, rngs=rngs)
    self.clip = CLIP(config.clip, dtype=dtype, rngs=rngs)
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
      scores: nothing of them is read.
    """
    config = self.config
    return encode_crops(
      images,
      mask_logits,
      mask_hw,
      lambda crops: self.clip.visual(crops.pixels),
      clip=config.clip,
      rule=config.rule(),
    )

  def __call__(self, images: Images, text: TextBank) -> Outputs:
    """The proposals' masks; class logits by crops; empty masks get probability 0."""
    check_inputs(images, text)
    found = self.proposals(images)
    encoded = self.encode_masks(images, found.mask_logits, found.mask_hw)
    objectness = 0.0 if found.objectness is None else found.objectness
    return dataclasses.replace(
      found,
      class_logits=regions.class_similarity(encoded.vectors, text),
      objectness=jnp.where(encoded.empty, -jnp.inf, objectness),
    )
