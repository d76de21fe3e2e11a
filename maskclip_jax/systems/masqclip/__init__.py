"""MasQCLIP (ICCV 2023)."""

from maskclip_jax.systems.masqclip.checkpoint import FORMAT, sized
from maskclip_jax.systems.masqclip.model import MasQCLIP, MasQCLIPConfig
from maskclip_jax.systems.masqclip.presets import CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='masqclip',
  title='MasQCLIP',
  model=MasQCLIP,
  config=MasQCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  parts={'proposals': 'mask2former', 'clip': 'clip'},
)
