"""Training of the toy: every patch that shows a segment belongs to some group."""

import dataclasses

import jax.numpy as jnp
import optax
from jaxtyping import Array

from maskclip_jax.train.task import MODEL, Batch, Flat, LossAndTerms, Modules, images_of
from maskclip_jax.train.words import TextTask


@dataclasses.dataclass(frozen=True)
class ToyGroupingConfig:
  """What trains."""

  trainable: tuple[str, ...] = ('queries',)


@dataclasses.dataclass(frozen=True)
class ToyGrouping(TextTask):
  """A binary loss between the patches' best group and the photo's segments."""

  title = 'toy grouping'
  system = 'toy'

  @classmethod
  def defaults(cls, profile: str) -> ToyGroupingConfig:
    return ToyGroupingConfig()

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    text = self.text(constants)
    masks = modules[MODEL](images_of(batch), text).mask_logits.max(1)
    step = batch['segments'].shape[1] // masks.shape[1]
    shown = batch['segments'][:, ::step, ::step] > 0
    loss = optax.sigmoid_binary_cross_entropy(masks, shown).mean()
    return loss, {'shown': shown.mean(dtype=jnp.float32)}


TASK = ToyGrouping
