"""MaskCLIP++: the masks of any segmenter, named by an EVA02-CLIP that reads masks."""

from maskclip_jax.systems import parts
from maskclip_jax.systems.maskclippp.model import (
  MaskCLIPPP,
  MaskCLIPPPConfig,
  lacks_mask_blocks,
)
from maskclip_jax.systems.maskclippp.presets import ALONE, BENCHMARKS, CARDS, PRESETS
from maskclip_jax.systems.system import Rule, System

SYSTEM = System(
  name='maskclippp',
  title='MaskCLIP++',
  model=MaskCLIPPP,
  config=MaskCLIPPPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=parts.all_sized,
  benchmarks=BENCHMARKS,
  parts={'proposals': 'fcclip', 'clip': 'eva_clip'},
  reads_scores=('mask_threshold', 'coat'),
  rule=Rule('bias', suits=lacks_mask_blocks, alone=ALONE),
)
