"""OVSeg's mask prompts: what blank patches are to a frozen CLIP [ovseg 3.4].

The loss of `crop_tuning`; only the prompts and the logit scale learn.
"""

import dataclasses

from maskclip_jax.train.tasks.crop_tuning import SCALE, CropTuning, CropTuningConfig


@dataclasses.dataclass(frozen=True)
class MaskPrompts(CropTuning):
  """Prompts in the place of blank patches, before the first blocks."""

  title = 'training of mask prompts'
  prompted = True

  @classmethod
  def defaults(cls, profile: str) -> CropTuningConfig:
    return CropTuningConfig(trainable=('clip/visual/mask_prompts', SCALE))


TASK = MaskPrompts
