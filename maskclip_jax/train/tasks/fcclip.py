"""FC-CLIP's training: masks and their words, on a frozen CLIP [fcclip 8].

Queries and segments are matched one to one in every decoder layer. The class of a query
is the class whose best word its vector is nearest to, or the learned vector of 'no
object'. CLIP gives feature maps and the words' vectors; its own say on masks is left to
inference, so its image head does not run.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from maskclip_jax.losses.criterion import (
  CriterionConfig,
  Points,
  Predictions,
  set_criterion,
)
from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.systems.contract import Images, Outputs, TextBank
from maskclip_jax.systems.fcclip.model import FCCLIP
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


@dataclasses.dataclass(frozen=True)
class FCCLIPLossConfig:
  """The losses, and what learns from them.

  Attributes:
    criterion: matching and losses; Mask2Former's by default.
    trainable: which parameters train: both decoders, the void vector, and the
      temperature of the trained classifier, which is the predictor's.
  """

  criterion: CriterionConfig = dataclasses.field(default_factory=CriterionConfig)
  trainable: tuple[str, ...] = ('pixel_decoder/.*', 'predictor/.*', 'void_embedding/.*')


@dataclasses.dataclass(frozen=True)
class FCCLIPTraining(TextTask):
  """Both decoders learn on the maps of a CLIP that stays as it is."""

  title = "FC-CLIP's training"
  system = 'fcclip'
  unused = ('clip/text', 'clip/logit_scale', 'clip/visual/head')

  def __post_init__(self):
    super().__post_init__()
    for part, name in (('transfer', 'a MAFT+'), ('adapter', 'with a Mask-Adapter')):
      if getattr(self.preset.config, part) is not None:
        raise ValueError(
          f'{self.title} does not train what this model has beside an FC-CLIP, which '
          f'is {name}: choose another preset, or config.model.{part}=None'
        )

  @classmethod
  def defaults(cls, profile: str) -> FCCLIPLossConfig:
    return FCCLIPLossConfig()

  def propose(
    self, model: FCCLIP, images: Images, text: TextBank, *, aux: bool = False
  ) -> Outputs:
    """Masks and the logits of the trained classifier; nothing flows into CLIP."""
    features = jax.lax.stop_gradient(model.features(images))
    return model.propose(images, features, text, aux=aux)

  def found(self, model: FCCLIP, images: Images, text: TextBank) -> Outputs:
    return self.propose(model, images, text)

  def predictions(
    self, outputs: Outputs, images: Images, text: TextBank
  ) -> Predictions:
    """What every layer says, the last one first."""
    return with_extent(stacked(outputs, text.valid), outputs, images)

  def judge(
    self,
    outputs: Outputs,
    images: Images,
    text: TextBank,
    truth: GroundTruth,
    source: Array | Points,
  ) -> LossAndTerms:
    """The loss of the outputs of all layers, with a key or with recorded points."""
    return set_criterion(
      self.predictions(outputs, images, text),
      truth,
      source,
      self.config.criterion,
      void=jnp.argmax(text.void),
      batched=self.batched,
    )

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    text, model = self.text(constants), modules[MODEL]
    images, truth = images_of(batch), GroundTruth.from_batch(batch)
    outputs = self.in_parts(lambda part: self.propose(model, part, text, aux=True))(
      images
    )
    loss, terms = self.judge(outputs, images, text, truth, key)
    return loss, {**terms, 'targets': rows_per_photo(truth.valid)}


TASK = FCCLIPTraining
