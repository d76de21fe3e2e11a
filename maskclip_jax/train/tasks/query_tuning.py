"""MasQ-tuning: new query projections learn to read a frozen CLIP [masqclip 5.3, 5.4].

Proposals are frozen. Every mask is labelled by the segment it covers, or as background,
and the loss is the weighted log-likelihood of these labels: no matching, no mask loss,
no object score.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.losses.matching import LABEL_RULES, LabelRule, labels_by_overlap
from maskclip_jax.losses.terms import log_probabilities, weighted_nll
from maskclip_jax.plain import at_least
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, Outputs, TextBank
from maskclip_jax.systems.masqclip.model import untuned
from maskclip_jax.systems.parts import logits_of
from maskclip_jax.train.task import (
  MODEL,
  Batch,
  Flat,
  LossAndTerms,
  Modules,
  images_of,
  rows_per_photo,
)
from maskclip_jax.train.words import TextTask

TRAINABLE = {
  # The released code also moves the vector that all mask tokens start from.
  'released': ('new_q_proj/.*', 'mask_embeddings'),
  'paper': ('new_q_proj/.*',),
}


@dataclasses.dataclass(frozen=True)
class QueryTuningConfig:
  """The labels and their loss.

  Attributes:
    rule: when a mask has the label of a segment; `losses.matching.LABEL_RULES` has both
      profiles'.
    label_size: side of the square at which masks are compared; 336 whatever the CLIP.
    weight: the weight of the loss.
    void_weight: weight of masks that are background.
    images_per_mean: images in one weighted mean.
    start: queries that no file gives start at random, as published, or as CLIP's own:
      better where there is little to learn from.
    trainable: which parameters train.
  """

  rule: LabelRule = LABEL_RULES['released']
  label_size: int = 336
  weight: float = 2.0
  void_weight: float = 0.1
  images_per_mean: int | None = 1
  start: Literal['random', 'clip'] = 'random'
  trainable: tuple[str, ...] = TRAINABLE['released']

  def __post_init__(self):
    at_least(self, 1, 'label_size', 'images_per_mean')
    at_least(self, 0, 'weight', 'void_weight')


@dataclasses.dataclass(frozen=True)
class QueryTuning(TextTask):
  """Classification of frozen proposals by the class vectors of a text bank."""

  title = 'MasQ-tuning'
  system = 'masqclip'

  @classmethod
  def defaults(cls, profile: str) -> QueryTuningConfig:
    # [masqclip 12.1], rows 1 and 4.
    return QueryTuningConfig(rule=LABEL_RULES[profile], trainable=TRAINABLE[profile])

  def derive(self, values: Flat, path: str) -> Array | None:
    if path != 'mask_embeddings' and self.config.start == 'random':
      return None
    return untuned(values, path)

  def background(self, text: TextBank) -> Int[Array, '']:
    """The column that masks of nothing are labelled with: of words without a void
    class the one after the last, in which no loss is taken."""
    last = len(text.void)
    return jnp.where(text.void.any(), jnp.argmax(text.void), last)

  def labels(
    self, outputs: Outputs, images: Images, truth: GroundTruth, text: TextBank
  ) -> tuple[Int[Array, 'b q'], Int[Array, 'b q']]:
    """The class of every mask (void for background), and its row in the truth."""
    void = self.background(text)
    size = self.config.label_size

    def one(inputs):
      logits, mask_hw, truth, truth_hw, void = inputs
      squashed = regions.squash_masks(logits[None], mask_hw[None], size)[0]
      return labels_by_overlap(squashed > 0, truth, void, self.config.rule, truth_hw)

    def all_images(*inputs):
      return jax.lax.map(one, inputs)

    batch = len(outputs.mask_logits)
    return self.batched(all_images)(
      jax.lax.stop_gradient(logits_of(outputs.mask_logits)),
      outputs.mask_hw,
      truth,
      images.padded_hw,
      jnp.full(batch, void),
    )

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    config, text = self.config, self.text(constants)
    images, truth = images_of(batch), GroundTruth.from_batch(batch)
    model = modules[MODEL]
    outputs = self.in_parts(lambda part: model(part, text))(images)
    labels, rows = self.labels(outputs, images, truth, text)
    log_p = log_probabilities(outputs.class_logits, text.valid)
    # A column of zeros for `background`, where no void class has one.
    judged = jnp.pad(log_p, ((0, 0), (0, 0), (0, 1)))
    void_weight = jnp.where(text.void.any(), config.void_weight, 0.0)
    loss = config.weight * weighted_nll(
      judged, labels, self.background(text), void_weight, config.images_per_mean
    )
    found = rows >= 0
    right = found & (log_p.argmax(-1) == labels)
    return loss, {
      'loss_ce': loss,
      'labelled': rows_per_photo(found),
      'accuracy': right.sum() / jnp.maximum(found.sum(), 1),
    }


TASK = QueryTuning
