"""An unmodified CLIP whose features are pooled over the masks of any proposals."""

from maskclip_jax.systems import parts
from maskclip_jax.systems.clip_pooling.model import CLIPPooling, CLIPPoolingConfig
from maskclip_jax.systems.clip_pooling.presets import PRESETS
from maskclip_jax.systems.system import Rule, System

SYSTEM = System(
  name='clip_pooling',
  title='CLIP pooling',
  model=CLIPPooling,
  config=CLIPPoolingConfig,
  presets=PRESETS,
  sized=parts.all_sized,
  parts={'proposals': 'mask2former', 'clip': 'convnext_clip'},
  from_parts=True,
  rule=Rule('pool', suits=parts.lacks_places),
)
