"""OVSeg's proposals: a MaskFormer whose queries are named by words [ovseg 4].

Queries and segments are matched one to one in every decoder layer, at all pixels. The
class of a query is the word whose vector it is nearest to; the words are constants, and
only the vector of 'no object' is learned. CLIP's image tower does not run.
"""

import dataclasses

import jax
from jaxtyping import Array

from maskclip_jax.losses.criterion import CriterionConfig, set_criterion
from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.losses.matching import Weights
from maskclip_jax.nn.dropout import Drops
from maskclip_jax.plain import at_least
from maskclip_jax.systems.contract import Images, Outputs, TextBank
from maskclip_jax.systems.ovseg.model import OVSeg
from maskclip_jax.train.task import (
  MODEL,
  Batch,
  Flat,
  LossAndTerms,
  Modules,
  images_of,
  rows_per_photo,
)
from maskclip_jax.train.tasks.set_prediction import stacked, with_extent
from maskclip_jax.train.words import TextTask

CRITERION = CriterionConfig(Weights(label=1.0, mask=20.0, dice=1.0), sampling=None)


@dataclasses.dataclass(frozen=True)
class TextProposalsConfig:
  """The losses, and what is left out at random.

  Attributes:
    criterion: matching and losses; MaskFormer's by default.
    dropout: share of values that the decoder loses.
    depth: how often a photo skips a branch of a Swin's last block.
    trainable: which parameters train.
  """

  criterion: CriterionConfig = CRITERION
  dropout: float = 0.1
  depth: float = 0.3
  trainable: tuple[str, ...] = ('proposals/.*', 'non_object_embedding')

  def __post_init__(self):
    at_least(self, 0, 'dropout', 'depth')
    if not max(self.dropout, self.depth) < 1:
      raise ValueError(
        f'dropout and depth are shares below 1, not {self.dropout} and {self.depth}'
      )


@dataclasses.dataclass(frozen=True)
class TextProposals(TextTask):
  """Queries and segments are matched one to one; the words are constants."""

  title = 'training of proposals named by words'
  system = 'ovseg'
  unused = ('clip',)

  @classmethod
  def defaults(cls, profile: str) -> TextProposalsConfig:
    return TextProposalsConfig()

  def found(self, model: OVSeg, images: Images, text: TextBank) -> Outputs:
    outputs = model.propose(images, text)
    log_p = jax.nn.log_softmax(outputs.class_logits)[..., :-1]
    named = jax.nn.logsumexp(log_p, axis=-1, where=text.valid)
    return dataclasses.replace(outputs, class_logits=log_p, objectness=named)

  def judge(
    self,
    outputs: Outputs,
    images: Images,
    truth: GroundTruth,
    key: Array,
  ) -> LossAndTerms:
    """The loss of the outputs of all layers."""
    predictions = with_extent(stacked(outputs), outputs, images)
    return set_criterion(
      predictions, truth, key, self.config.criterion, batched=self.batched
    )

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    text, model, config = self.text(constants), modules[MODEL], self.config
    images, truth = images_of(batch), GroundTruth.from_batch(batch)

    def propose(images: Images, keys: Array, text: TextBank = text) -> Outputs:
      drops = Drops(keys, config.dropout, config.depth)
      return model.propose(images, text, drops)

    drawn, judged = jax.random.split(key)
    keys = jax.random.split(drawn, len(truth.valid))
    outputs = self.in_parts(propose)(images, keys)
    loss, terms = self.judge(outputs, images, truth, judged)
    return loss, {**terms, 'targets': rows_per_photo(truth.valid)}


TASK = TextProposals
