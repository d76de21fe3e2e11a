"""Training a proposal network: Mask2Former by set prediction (spec sections 3, 5.1).

Class-agnostic networks (one class) are the teachers of MasQCLIP; without a class head
they are MaskCLIP's proposals, matched by masks alone; with many classes this is stock
Mask2Former.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.io.restore import abstract_model
from maskclip_jax.models.base import Images, Outputs
from maskclip_jax.ops.criterion import (
  Batched,
  CriterionConfig,
  Points,
  Predictions,
  set_criterion,
  whole_batch,
)
from maskclip_jax.ops.ground_truth import GroundTruth
from maskclip_jax.ops.losses import log_probabilities
from maskclip_jax.train.task import MODEL, Flat, Make, Terms
from maskclip_jax.zoo import Preset


def images_of(batch: Mapping[str, Array]) -> Images:
  """The photos of a training batch; crops fill their canvas, so nothing is masked."""
  return Images(batch['image'], batch['image_hw'], batch.get('padded_hw'))


def stacked(outputs: Outputs) -> Predictions:
  """The predictions of all layers, the final one first; the last column is void."""
  layers = (outputs, *outputs.aux)
  log_p = None
  if outputs.class_logits is not None:
    log_p = log_probabilities(jnp.stack([o.class_logits for o in layers], axis=1))
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
class SetPrediction:
  """Queries and segments are matched one to one in every decoder layer.

  Attributes:
    preset: a `mask2former` system.
    config: the loss.
    dtype: compute type.
    batched: how per-image work is spread over devices.
    constants: none.
    unused: nothing.
  """

  preset: Preset
  config: SetPredictionConfig
  dtype: jnp.dtype = jnp.float32
  batched: Batched = whole_batch
  constants: Flat = dataclasses.field(default_factory=dict)
  unused: tuple[str, ...] = ()

  def __post_init__(self):
    if self.preset.system != 'mask2former':
      raise ValueError(
        f'this stage trains a mask2former, not a {self.preset.system}: choose another '
        'preset'
      )

  @property
  def trainable(self) -> tuple[str, ...]:
    return self.config.trainable

  def modules(self, make: Make = abstract_model) -> dict[str, nnx.Module]:
    return {MODEL: make('mask2former', self.preset.config, dtype=self.dtype)}

  def derive(self, values: Flat, path: str) -> Array | None:
    return None

  def truth(self, batch: Mapping[str, Array]) -> GroundTruth:
    """The ground truth; class-agnostic networks know one class, 0."""
    truth = GroundTruth.from_batch(batch)
    if self.preset.config.num_classes == 1:
      truth = dataclasses.replace(truth, classes=jnp.zeros_like(truth.classes))
    return truth

  def judge(
    self,
    model: nnx.Module,
    images: Images,
    truth: GroundTruth,
    source: Array | Points,
  ) -> tuple[Float[Array, ''], Terms]:
    """The loss of the model's predictions, with a key or with recorded points."""
    outputs = model(images, aux=True)
    predictions = with_extent(stacked(outputs), outputs, images)
    return set_criterion(
      predictions, truth, source, self.config.criterion, batched=self.batched
    )

  def loss(
    self,
    modules: Mapping[str, nnx.Module],
    constants: Flat,
    batch: Mapping[str, Array],
    key: Array,
  ) -> tuple[Float[Array, ''], Terms]:
    truth = self.truth(batch)
    loss, terms = self.judge(modules[MODEL], images_of(batch), truth, key)
    return loss, {**terms, 'targets': jnp.mean(truth.valid.sum(-1, dtype=jnp.float32))}
