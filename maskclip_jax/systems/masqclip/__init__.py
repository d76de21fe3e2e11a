"""MasQCLIP (ICCV 2023)."""

from maskclip_jax.systems import parts
from maskclip_jax.systems.masqclip.checkpoint import FORMAT
from maskclip_jax.systems.masqclip.model import MasQCLIP, MasQCLIPConfig, all_untuned
from maskclip_jax.systems.masqclip.presets import CARDS, PRESETS
from maskclip_jax.systems.system import Rule, System

SYSTEM = System(
  name='masqclip',
  title='MasQCLIP',
  model=MasQCLIP,
  config=MasQCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=parts.all_sized,
  format=FORMAT,
  parts={'proposals': 'mask2former', 'clip': 'clip'},
  rule=Rule('masq', suits=parts.lacks_tokens, derived=all_untuned),
)
