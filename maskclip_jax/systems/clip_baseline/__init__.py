"""The CLIP baseline of the MaskCLIP paper."""

from maskclip_jax.systems import parts
from maskclip_jax.systems.clip_baseline.model import CLIPBaseline, CLIPBaselineConfig
from maskclip_jax.systems.clip_baseline.presets import CARDS, PRESETS
from maskclip_jax.systems.system import Rule, System

SYSTEM = System(
  name='clip_baseline',
  title='CLIP baseline',
  model=CLIPBaseline,
  config=CLIPBaselineConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=parts.all_sized,
  parts={'proposals': 'mask2former', 'clip': 'clip'},
  from_parts=True,
  reads_scores=('mask_threshold', 'mask_prompts', 'coat'),
  rule=Rule('crop', suits=parts.lacks_size),
)
