"""Masks named by an unmodified CLIP whose features are pooled over them.

What FC-CLIP's second classifier does [fcclip 6], for the masks of any proposals and for
a ViT as well. Nothing is trained, and the photo goes through CLIP once.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax.nn.clip import capped_scale
from maskclip_jax.nn.clip_resnet import ResNetTower
from maskclip_jax.nn.convnext import ConvNeXtTower
from maskclip_jax.systems import pooling, regions
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
  build_part,
  build_proposer,
  colour_beyond,
  logits_of,
)
from maskclip_jax.systems.score_rules import named, without


@dataclasses.dataclass(frozen=True)
class CLIPPoolingConfig:
  """Sizes of both parts.

  Attributes:
    proposals: the proposal network, any that there is.
    clip: the CLIP whose features are pooled, with a ConvNeXt, a ResNet or a ViT.
    joint: the proposals name masks by the same words, and `Scores` joins both opinions.
  """

  proposals: PartConfig
  clip: PartConfig
  joint: bool = False


class CLIPPooling(nnx.Module):
  """Proposals and an unmodified CLIP."""

  def __init__(self, config: CLIPPoolingConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
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
    """CLIP vectors (not normalised) of arbitrary masks, any number of them.

    Args:
      images: photos on their canvas.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: nothing of them is read.
    """
    tower = self.clip.visual
    if isinstance(tower, ConvNeXtTower | ResNetTower):
      dense = pooling.feature_maps(self.clip, images)['res5']
      return pooling.pool_map(tower, images, dense, mask_logits, mask_hw)
    return pooling.pool_patches(
      self.clip,
      images,
      mask_logits,
      mask_hw,
      colour_beyond(self.config.proposals),
    )

  def __call__(
    self, images: Images, text: TextBank, scores: Scores | None = None
  ) -> Outputs:
    """The proposals' masks; class logits by pooling. Masks that cover no position of
    CLIP's map get probability 0, unless the proposals name them too."""
    check_inputs(images, text)
    found = self.proposals.propose_masks(images, text if self.config.joint else None)
    encoded = self.encode_masks(images, logits_of(found.mask_logits), found.mask_hw)
    scale = capped_scale(self.clip.logit_scale[...], regions.LOGIT_SCALE)
    logits = regions.class_similarity(encoded.vectors, text, scale)
    outputs = named(found, logits, text, scores, empty=encoded.empty)
    return outputs if self.config.joint else without(outputs, encoded.empty)
