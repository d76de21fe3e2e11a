"""MaskCLIP's training: relative mask attention inside a frozen CLIP [masqclip 4.7].

Proposals and CLIP are frozen. Classes and refined masks are matched to the segments one
to one; unmatched queries have no class loss.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from maskclip_jax.losses.criterion import (
  CriterionConfig,
  Points,
  Predictions,
  set_criterion,
)
from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.losses.terms import log_probabilities
from maskclip_jax.systems.contract import Outputs, TextBank
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

# Only the final output has a class loss, and unmatched queries weigh nothing in it.
CRITERION = CriterionConfig(void_weight=0.0, label_every_layer=False)


@dataclasses.dataclass(frozen=True)
class MaskAttentionConfig:
  """The losses of MaskCLIP.

  Attributes:
    criterion: matching and losses.
    intermediate_masks: judge the masks as each block refined them. The released code
      lists the final masks in their place [masqclip 4.4].
    trainable: which parameters train.
  """

  criterion: CriterionConfig = CRITERION
  intermediate_masks: bool = False
  trainable: tuple[str, ...] = ('rma/.*',)


@dataclasses.dataclass(frozen=True)
class MaskAttention(TextTask):
  """Classes and masks refined by relative mask attention."""

  title = 'relative mask attention'
  system = 'maskclip'

  def __post_init__(self):
    super().__post_init__()
    if not self.preset.config.rma_blocks:
      raise ValueError(
        'this stage trains a maskclip with relative mask attention: choose another '
        'preset'
      )

  @classmethod
  def defaults(cls, profile: str) -> MaskAttentionConfig:
    return MaskAttentionConfig(intermediate_masks=profile == 'paper')

  def predictions(self, outputs: Outputs, text: TextBank) -> Predictions:
    """The final masks and, after them, those of every block that refined them."""
    layers = (outputs, *outputs.aux)
    masks = [o.mask_logits for o in layers]
    if not self.config.intermediate_masks:
      masks = [outputs.mask_logits] * len(layers)
    log_p = log_probabilities(
      jnp.stack([o.class_logits for o in layers], axis=1), text.valid
    )
    return Predictions(jnp.stack(masks, axis=1), log_p)

  def judge(
    self,
    outputs: Outputs,
    text: TextBank,
    truth: GroundTruth,
    source: Array | Points,
  ) -> LossAndTerms:
    """The loss of outputs, with a key or with recorded points."""
    return set_criterion(
      self.predictions(outputs, text),
      truth,
      source,
      self.config.criterion,
      void=jnp.argmax(text.void),
      batched=self.batched,
    )

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    text = self.text(constants)
    truth = GroundTruth.from_batch(batch)
    model = modules[MODEL]
    outputs = self.in_parts(lambda images: model(images, text))(images_of(batch))
    loss, terms = self.judge(outputs, text, truth, key)
    return loss, {**terms, 'targets': rows_per_photo(truth.valid)}


TASK = MaskAttention
