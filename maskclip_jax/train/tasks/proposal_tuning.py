"""Tuning the proposals of a whole model by set prediction.

The same losses as of proposals alone (`set_prediction.py`); what names the masks is not
read while training and is part of the model that comes out, which can so be evaluated
on the way. Not of a paper.
"""

import dataclasses

from flax import nnx
from jaxtyping import Array

from maskclip_jax.systems.contract import Images, Outputs, TextBank
from maskclip_jax.systems.system import system_of
from maskclip_jax.train.task import (
  MODEL,
  Batch,
  Flat,
  LossAndTerms,
  Modules,
  flatten_modules,
)
from maskclip_jax.train.tasks.set_prediction import SetPrediction, SetPredictionConfig

_PART = 'proposals'


@dataclasses.dataclass(frozen=True)
class ProposalTuning(SetPrediction):
  """Set prediction by the proposal network inside a model."""

  title = 'tuning of proposals'
  system = ('clip_baseline', 'maskclip', 'masqclip')

  def __post_init__(self):
    super().__post_init__()
    found = system_of(self.preset.config.proposals)
    if found.name != 'mask2former':
      raise ValueError(
        f'this stage tunes the proposals of a Mask2Former, and these are of '
        f'{found.title}: train them by a stage of their own'
      )

  @classmethod
  def defaults(cls, profile: str) -> SetPredictionConfig:
    return SetPredictionConfig(trainable=(f'{_PART}/.*',))

  @property
  def unused(self) -> tuple[str, ...]:
    """Everything but the proposals."""
    parts = {path.partition('/')[0] for path in flatten_modules(self.modules())}
    return tuple(sorted(parts - {_PART}))

  @property
  def classes(self) -> int | None:
    return self.preset.config.proposals.num_classes

  def found(self, model: nnx.Module, images: Images, text: TextBank | None) -> Outputs:
    return model.proposals(images)

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    inside = {MODEL: modules[MODEL].proposals}
    return super().loss(inside, constants, batch, key)


TASK = ProposalTuning
