"""Training a proposal network: Mask2Former by set prediction [masqclip 3, 5.1].

Class-agnostic networks (one class) are the teachers of MasQCLIP; without a class head
they are MaskCLIP's proposals, matched by masks alone; with many classes this is stock
Mask2Former.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool

from maskclip_jax.losses.criterion import (
  CriterionConfig,
  Points,
  Predictions,
  set_criterion,
)
from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.losses.terms import log_probabilities
from maskclip_jax.systems.contract import Images, Outputs
from maskclip_jax.systems.system import Label, Preset
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.task import (
  MODEL,
  Batch,
  Flat,
  LossAndTerms,
  Modules,
  Task,
  images_of,
  rows_per_photo,
)


def stacked(outputs: Outputs, valid: Bool[Array, ' k'] | None = None) -> Predictions:
  """The predictions of all layers, the final one first.

  Args:
    outputs: of the final layer, with those of the others.
    valid: columns that exist; all by default.
  """
  layers = (outputs, *outputs.aux)
  log_p = None
  if outputs.class_logits is not None:
    logits = jnp.stack([o.class_logits for o in layers], axis=1)
    log_p = log_probabilities(logits, valid)
  masks = jnp.stack([o.mask_logits for o in layers], axis=1)
  return Predictions(masks, log_p)


def with_extent(predictions: Predictions, outputs: Outputs, images: Images):
  """Says which part of the canvas is real, where photos do not fill it."""
  if images.padded_hw is None:
    return predictions
  return dataclasses.replace(
    predictions, mask_hw=outputs.mask_hw, truth_hw=images.padded_hw
  )


@dataclasses.dataclass(frozen=True)
class SetPredictionConfig:
  """The loss, and what learns from it.

  Attributes:
    criterion: matching and losses.
    trainable: which parameters train; all by default.
  """

  criterion: CriterionConfig = dataclasses.field(default_factory=CriterionConfig)
  trainable: tuple[str, ...] = ('.*',)


@dataclasses.dataclass(frozen=True)
class SetPrediction(Task):
  """Queries and segments are matched one to one in every decoder layer."""

  title = 'set prediction'
  system = 'mask2former'

  @classmethod
  def defaults(cls, profile: str) -> SetPredictionConfig:
    return SetPredictionConfig()

  @classmethod
  def exported(cls, config: TrainConfig) -> Preset:
    """With the classes of the data, where these are others than the preset's."""
    preset = config.chosen_preset
    if preset.vocabulary is None or preset.config.num_classes in (None, 1):
      return preset
    labels = _labels(config.data.words())
    if labels == (preset.labels or _labels(Vocabulary.named(preset.vocabulary))):
      return preset
    # Called as the data are read.
    name = config.data.mixture[0].view
    return dataclasses.replace(preset, vocabulary=name, labels=labels)

  @property
  def classes(self) -> int | None:
    """How many classes the network tells; None if it has no class head."""
    return self.preset.config.num_classes

  def truth(self, batch: Batch) -> GroundTruth:
    """The ground truth; class-agnostic networks know one class, 0."""
    truth = GroundTruth.from_batch(batch)
    if self.classes == 1:
      truth = dataclasses.replace(truth, classes=jnp.zeros_like(truth.classes))
    return truth

  def judge(
    self,
    model: nnx.Module,
    images: Images,
    truth: GroundTruth,
    source: Array | Points,
  ) -> LossAndTerms:
    """The loss of the model's predictions, with a key or with recorded points."""
    outputs = self.in_parts(lambda part: model(part, aux=True))(images)
    predictions = with_extent(stacked(outputs), outputs, images)
    return set_criterion(
      predictions, truth, source, self.config.criterion, batched=self.batched
    )

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    truth = self.truth(batch)
    loss, terms = self.judge(modules[MODEL], images_of(batch), truth, key)
    return loss, {**terms, 'targets': rows_per_photo(truth.valid)}


def _labels(words: Vocabulary) -> tuple[Label, ...]:
  return tuple(Label(one.name, one.thing) for one in words.classes)


TASK = SetPrediction
