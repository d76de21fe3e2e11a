"""OVSeg (Liang et al., CVPR 2023): proposals named by words and by a CLIP that knows
masked crops.

Each query of a MaskFormer is compared with words directly; each mask is also cut out of
the photo, what it hides is blanked, and a CLIP that was tuned on such crops is asked.
Learned prompts stand in for the blank patches. The two opinions are joined by a
geometric mean. Source: [ovseg 1, 2, 3].
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import CLIP, CLIPConfig, unit
from maskclip_jax.nn.dropout import Drops
from maskclip_jax.nn.mask_decoder import MASK_STRIDE
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import (
  Images,
  Outputs,
  RegionVectors,
  Scores,
  TextBank,
  check_inputs,
)
from maskclip_jax.systems.crops import Crop, CropRule, crop_vectors, encode_crops
from maskclip_jax.systems.ovseg.maskformer import MaskFormer, MaskFormerConfig
from maskclip_jax.systems.score_rules import give_way, surest_class

# The tight box, stretched to a square, resized by PyTorch [ovseg 2.4].
RULE = CropRule(fill='mean', square='squash', method='bicubic')
# What the published models are evaluated with on ADE20K [ovseg 7.4].
SCORES = Scores(seen_weight=0.7, unseen_weight=0.7, mask_threshold=0.4)


@dataclasses.dataclass(frozen=True)
class OVSegConfig:
  """Sizes of an OVSeg.

  Attributes:
    proposals: the proposal network.
    clip: the CLIP that sees the crops, with or without mask prompts, and reads the
      words.
  """

  proposals: MaskFormerConfig
  clip: CLIPConfig


class OVSeg(nnx.Module):
  """Proposals, and the CLIP that was tuned on masked crops."""

  def __init__(self, config: OVSegConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    clip = config.clip
    self.proposals = MaskFormer(
      config.proposals, clip.embed_dim, dtype=dtype, rngs=rngs
    )
    self.clip = CLIP(clip, dtype=dtype, rngs=rngs)
    init = nnx.initializers.normal(clip.text_width**-0.5)
    self.non_object_embedding = nnx.Param(init(rngs.params(), (1, clip.embed_dim)))
    self.config = config

  def word_logits(
    self, vectors: Float[Array, '*b q d'], text: TextBank
  ) -> Float[Array, '*b q k+1']:
    """What the proposal network itself says of words; the last column is 'no object'.

    Args:
      vectors: the vectors of the queries.
      text: the words; columns that are not `valid` get minus infinity.
    """
    words = jnp.concatenate([text.embeddings, unit(self.non_object_embedding[...])])
    logits = regions.LOGIT_SCALE * jnp.einsum('...qd,kd->...qk', unit(vectors), words)
    return jnp.where(jnp.append(text.valid, True), logits, -jnp.inf)

  def propose(
    self, images: Images, text: TextBank, drops: Drops | None = None
  ) -> Outputs:
    """Masks and words of the proposals alone, of every layer: what training judges.

    Args:
      images: photos on their canvas.
      text: the words; the last column of `class_logits` is 'no object'.
      drops: what is left out at random.
    """
    config = self.config.proposals
    pixels = images.standardised(config.pixel_mean, config.pixel_std)
    mask_hw = images.input_hw // MASK_STRIDE
    found = self.proposals(pixels, images.padded_hw, aux=True, drops=drops)
    *earlier, last = (
      Outputs(
        layer.mask_logits, self.word_logits(layer.class_vectors, text), None, mask_hw
      )
      for layer in found
    )
    return dataclasses.replace(last, aux=tuple(earlier))

  def propose_masks(self, images: Images, text: TextBank | None = None) -> Outputs:
    """The masks; by words also their classes, and what is an object."""
    config = self.config.proposals
    pixels = images.standardised(config.pixel_mean, config.pixel_std)
    (found,) = self.proposals(pixels, images.padded_hw)
    logits = objectness = None
    if text is not None:
      logits = self.word_logits(found.class_vectors, text)
      objectness, logits = regions.is_object(logits), logits[..., :-1]
    mask_hw = images.input_hw // MASK_STRIDE
    return Outputs(found.mask_logits, logits, objectness, mask_hw)

  def encode_crop(
    self, crops: Crop, prompted: bool | Bool[Array, ''] = True
  ) -> Float[Array, 'n d']:
    """CLIP's vectors of crops; see `crops.crop_vectors`."""
    return crop_vectors(self.clip, crops, prompted)

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
      mask_logits: high inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: from which probability on a pixel belongs to a mask, and whether prompts
        stand in for the rest; the published ones by default.
    """
    scores = SCORES if scores is None else scores
    return encode_crops(
      images,
      mask_logits,
      mask_hw,
      lambda crops: self.encode_crop(crops, scores.mask_prompts),
      clip=self.config.clip,
      rule=RULE,
      threshold=scores.mask_threshold,
    )

  def __call__(
    self, images: Images, text: TextBank, scores: Scores = SCORES
  ) -> Outputs:
    """Masks at a quarter of the canvas and the scores of words [ovseg 2.6].

    Scores are not normalised: p^(1 - w) q^w of the proposals' and CLIP's
    probabilities, q being 1 for masks without a pixel above the threshold. So
    `objectness` is the logarithm of a query's sum over words, which may be positive,
    and `class_logits` are logarithms of scores.
    """
    check_inputs(images, text)
    config = self.config.proposals
    pixels = images.standardised(config.pixel_mean, config.pixel_std)
    (found,) = self.proposals(pixels, images.padded_hw)
    mask_hw = images.input_hw // MASK_STRIDE
    encoded = self.encode_masks(images, found.mask_logits, mask_hw, scores)
    joint = self.join(found.class_vectors, encoded, text, scores)
    total = jax.nn.logsumexp(joint, axis=-1, where=text.valid)
    dropped = encoded.empty & jnp.asarray(scores.drop_empty)
    return Outputs(
      found.mask_logits, joint, jnp.where(dropped, -jnp.inf, total), mask_hw
    )

  def join(
    self,
    vectors: Float[Array, 'b q d'],
    encoded: RegionVectors,
    text: TextBank,
    scores: Scores,
  ) -> Float[Array, 'b q k']:
    """Logarithms of the joined scores; zero in columns that are not `valid`.

    The proposals' probabilities leave room for 'no object', CLIP's do not [ovseg 2.5].
    """
    log_p = jax.nn.log_softmax(self.word_logits(vectors, text))
    by_query, nothing = log_p[..., :-1], log_p[..., -1]
    by_crop = regions.class_similarity(encoded.vectors, text)
    surest = jnp.where(encoded.empty, 0.0, surest_class(by_crop, text))
    something = jax.nn.logsumexp(by_query, axis=-1, where=text.valid)
    _, more = give_way(nothing, something, surest, scores.coat)
    by_query += jnp.where(scores.coat > 0, more - something, 0.0)[..., None]
    by_crop = jax.nn.log_softmax(jnp.where(text.valid, by_crop, -jnp.inf))
    by_crop = jnp.where(encoded.empty[..., None], 0.0, by_crop)
    # Where there is no word, no power of zero is taken.
    by_query, by_crop = (jnp.where(text.valid, x, 0.0) for x in (by_query, by_crop))
    weight = jnp.where(text.seen, scores.seen_weight, scores.unseen_weight)
    return (1 - weight) * by_query + weight * by_crop
