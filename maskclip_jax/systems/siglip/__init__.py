"""SigLIP and SigLIP 2: a part of systems that name crops, and a model of its own."""

from maskclip_jax.nn.siglip import SigLIP, SigLIPConfig
from maskclip_jax.systems.siglip.checkpoint import FORMAT, sized
from maskclip_jax.systems.siglip.presets import CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='siglip',
  title='SigLIP',
  model=SigLIP,
  config=SigLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  segments=False,
)
