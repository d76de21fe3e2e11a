"""OVSeg's tuning of a CLIP on masked regions and their nouns [ovseg 5].

The contrastive loss of the whole batch, in which equal nouns are wrong answers for each
other. The image tower and the logit scale learn; the text tower is frozen, so that
proposals that were trained with its words still fit.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import normalize_pixels, unit
from maskclip_jax.plain import above
from maskclip_jax.systems.crops import Crop
from maskclip_jax.systems.ovseg.model import OVSeg
from maskclip_jax.systems.system import Preset
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.task import MODEL, Batch, Flat, LossAndTerms, Modules, Task
from maskclip_jax.train.tasks.contrastive import (
  check_canvas,
  check_captions,
  judge_pairs,
)

SCALE = 'clip/logit_scale'


@dataclasses.dataclass(frozen=True)
class CropTuningConfig:
  """The loss, and what learns from it.

  Attributes:
    largest_scale: the learned logit scale is moved back to this after every step.
    equal_texts_match: nouns of a batch that are the same belong to each other's
      regions; else they are wrong answers, as released.
    trainable: which parameters train.
  """

  largest_scale: float = 100.0
  equal_texts_match: bool = False
  trainable: tuple[str, ...] = ('clip/visual/.*', SCALE)

  def __post_init__(self):
    above(self, 1, 'largest_scale')


@dataclasses.dataclass(frozen=True)
class CropTuning(Task):
  """Masked regions and nouns find each other in the batch of all devices."""

  title = "tuning of OVSeg's CLIP"
  system = 'ovseg'
  reads_captions = True
  reads_regions = True
  unused = ('proposals', 'non_object_embedding')
  # Whether blank patches are prompts, or seen as they are.
  prompted = False

  @classmethod
  def defaults(cls, profile: str) -> CropTuningConfig:
    return CropTuningConfig()

  @classmethod
  def check_data(cls, config: TrainConfig, preset: Preset) -> None:
    cls.check_kind(config)
    data, clip = config.data, preset.config.clip
    check_canvas(data, clip)
    check_captions(data, clip)
    if (clip.prompt_depth > 0) != cls.prompted:
      depth = 'at least 1' if cls.prompted else '0'
      raise ValueError(
        f'config.model.clip.prompt_depth is {clip.prompt_depth} and must be {depth} '
        f'for {config.task}'
      )

  def constrained(self, trained: Flat) -> Flat:
    if SCALE not in trained:
      return trained
    largest = math.log(self.config.largest_scale)
    return {**trained, SCALE: jnp.clip(trained[SCALE], 0.0, largest)}

  def judge(
    self,
    model: OVSeg,
    pixels: Float[Array, 'n r r 3'],
    masks: Bool[Array, 'n r r'],
    tokens: Int[Array, 'n t'],
  ) -> LossAndTerms:
    """The loss of CLIP-normalised regions and their nouns."""

    def embed(pixels, masks, tokens):
      regions = model.encode_crop(Crop(pixels, masks), self.prompted)
      texts = jax.lax.stop_gradient(model.clip.text(tokens))
      return unit(regions), unit(texts)

    regions, texts = self.in_parts(embed)(pixels, masks, tokens)
    same = tokens if self.config.equal_texts_match else None
    return judge_pairs(regions, texts, jnp.exp(model.clip.logit_scale[...]), same)

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    image = batch['image'].astype(jnp.float32)
    pixels = normalize_pixels(image, modules[MODEL].config.clip)
    return self.judge(modules[MODEL], pixels, batch['segments'] >= 0, batch['tokens'])


TASK = CropTuning
