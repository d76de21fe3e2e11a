"""MaskCLIP's training: relative mask attention inside a frozen CLIP (spec section 4.7).

Proposals and CLIP are frozen. Classes and refined masks are matched to the segments one
to one; unmatched queries have no class loss.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.io.restore import abstract_model
from maskclip_jax.models.base import Outputs, TextBank
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
from maskclip_jax.train.tasks import text_constants
from maskclip_jax.train.tasks.set_prediction import images_of
from maskclip_jax.zoo import Preset

# Only the final output has a class loss, and unmatched queries weigh nothing in it.
CRITERION = CriterionConfig(void_weight=0.0, label_every_layer=False)


@dataclasses.dataclass(frozen=True)
class MaskAttentionConfig:
  """The losses of MaskCLIP.

  Attributes:
    criterion: matching and losses.
    intermediate_masks: judge the masks as each block refined them. The released code
      lists the final masks in their place (spec section 4.4).
    trainable: which parameters train.
  """

  criterion: CriterionConfig = CRITERION
  intermediate_masks: bool = False
  trainable: tuple[str, ...] = ('rma/.*',)


@dataclasses.dataclass(frozen=True)
class MaskAttention:
  """Classes and masks refined by relative mask attention.

  Attributes:
    preset: a `maskclip` system with relative mask attention.
    config: losses.
    constants: the text bank.
    dtype: compute type.
    batched: how per-image work is spread over devices.
    unused: CLIP's text tower.
  """

  preset: Preset
  config: MaskAttentionConfig
  constants: Flat
  dtype: jnp.dtype = jnp.float32
  batched: Batched = whole_batch
  unused: tuple[str, ...] = text_constants.UNUSED

  def __post_init__(self):
    if self.preset.system != 'maskclip' or not self.preset.config.rma_blocks:
      raise ValueError(
        'this stage trains a maskclip with relative mask attention: choose another '
        'preset'
      )

  @property
  def trainable(self) -> tuple[str, ...]:
    return self.config.trainable

  def modules(self, make: Make = abstract_model) -> dict[str, nnx.Module]:
    preset = self.preset
    return {MODEL: make(preset.system, preset.config, dtype=self.dtype)}

  def derive(self, values: Flat, path: str) -> Array | None:
    return None

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
  ) -> tuple[Float[Array, ''], Terms]:
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
    self,
    modules: Mapping[str, nnx.Module],
    constants: Flat,
    batch: Mapping[str, Array],
    key: Array,
  ) -> tuple[Float[Array, ''], Terms]:
    text, truth = (
      text_constants.from_constants(constants),
      GroundTruth.from_batch(batch),
    )
    outputs = modules[MODEL](images_of(batch), text)
    loss, terms = self.judge(outputs, text, truth, key)
    return loss, {**terms, 'targets': truth.valid.sum(-1, dtype=jnp.float32).mean()}
