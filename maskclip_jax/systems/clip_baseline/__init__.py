"""The CLIP baseline of the MaskCLIP paper."""

import dataclasses

from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.clip_baseline.model import CLIPBaseline, CLIPBaselineConfig
from maskclip_jax.systems.clip_baseline.presets import CARDS, PRESETS
from maskclip_jax.systems.mask2former import checkpoint as mask2former
from maskclip_jax.systems.system import System


def _sized(config: CLIPBaselineConfig, found: KnownSizes) -> CLIPBaselineConfig:
  return dataclasses.replace(
    config,
    proposals=mask2former.sized(config.proposals, found.below('proposals')),
    clip=clip.sized(config.clip, found.below('clip')),
  )


SYSTEM = System(
  name='clip_baseline',
  title='CLIP baseline',
  model=CLIPBaseline,
  config=CLIPBaselineConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=_sized,
  parts={'proposals': 'mask2former', 'clip': 'clip'},
  from_parts=True,
)
