"""Progressive distillation: a student learns annotated and pseudo masks [masqclip 5.2].

The frozen teacher and the student see the same augmented photos. What the teacher is
sure of, and what no annotation covers, becomes a target beside the annotations. Further
rounds take the last student as the next teacher.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from maskclip_jax.checkpoints.params import abstract_model
from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.losses.pseudo_masks import (
  PSEUDO_MASK_RULES,
  PseudoMaskRule,
  binary_masks,
  choose,
  extend,
)
from maskclip_jax.systems.contract import Images
from maskclip_jax.train.task import (
  MODEL,
  Batch,
  Flat,
  LossAndTerms,
  ModuleFactory,
  Modules,
  images_of,
  rows_per_photo,
)
from maskclip_jax.train.tasks.set_prediction import SetPrediction, SetPredictionConfig

TEACHER = 'teacher'


@dataclasses.dataclass(frozen=True)
class DistillConfig(SetPredictionConfig):
  """The student's loss, and when a teacher's mask is a target.

  Attributes:
    rule: thresholds; `losses.pseudo_masks.PSEUDO_MASK_RULES` has both profiles'.
  """

  rule: PseudoMaskRule = PSEUDO_MASK_RULES['released']


@dataclasses.dataclass(frozen=True)
class Distill(SetPrediction):
  """Set prediction whose targets a frozen teacher of the same size adds to."""

  title = 'distillation'

  def __post_init__(self):
    super().__post_init__()
    if self.preset.config.num_classes != 1:
      raise ValueError(
        'distillation needs a class-agnostic mask2former (num_classes=1) as preset'
      )

  @classmethod
  def defaults(cls, profile: str) -> DistillConfig:
    return DistillConfig(rule=PSEUDO_MASK_RULES[profile])

  def modules(self, make: ModuleFactory = abstract_model) -> dict[str, nnx.Module]:
    teacher = make(self.system, self.preset.config, dtype=self.dtype)
    return {**super().modules(make), TEACHER: teacher}

  def derive(self, values: Flat, path: str) -> Array | None:
    # A student starts as its teacher.
    return None if path.startswith(f'{TEACHER}/') else values[f'{TEACHER}/{path}']

  def pseudo_masks(
    self,
    teacher: nnx.Module,
    images: Images,
    truth: GroundTruth,
    points: Float[Array, 'b 2 p 2'],
  ) -> tuple[UInt8[Array, 'b q h w/8'], Bool[Array, 'b q']]:
    """The teacher's masks, and which of them are targets.

    Args:
      teacher: the frozen network.
      images: what the student sees too.
      truth: annotated segments.
      points: at which overlaps are measured, with the truth and among proposals.
    """
    found = jax.lax.stop_gradient(self.in_parts(lambda part: teacher(part))(images))
    filled = images.padded_hw is None

    def one(inputs):
      logits, objectness, mask_hw, image_hw, padded_hw, truth, points = inputs
      extent = {} if filled else {'mask_hw': mask_hw, 'padded_hw': padded_hw}
      photo = None if filled else image_hw
      masks, confidence = binary_masks(logits, truth.size, image_hw=photo, **extent)
      p = jnp.exp(objectness)
      return masks, choose(masks, p, confidence, truth, points, self.config.rule, photo)

    def all_images(*inputs):
      return jax.lax.map(one, inputs)

    return self.batched(all_images)(
      found.mask_logits,
      found.objectness,
      found.mask_hw,
      images.image_hw,
      images.padded_hw,
      truth,
      points,
    )

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    images, truth = images_of(batch), self.truth(batch)
    pseudo_key, key = jax.random.split(key)
    shape = (len(batch['image']), 2, self.config.rule.points, 2)
    points = jax.random.uniform(pseudo_key, shape)
    masks, chosen = self.pseudo_masks(modules[TEACHER], images, truth, points)
    extended = extend(truth, masks, chosen)
    loss, terms = self.judge(modules[MODEL], images, extended, key)
    counts = {
      'targets': rows_per_photo(truth.valid),
      'pseudo_targets': rows_per_photo(chosen),
    }
    return loss, {**terms, **counts}


TASK = Distill
