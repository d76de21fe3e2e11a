"""EVA02-CLIP: a part of systems that classify masks, and a model of its own."""

from maskclip_jax.nn.eva import EvaCLIP, EvaCLIPConfig
from maskclip_jax.systems.eva_clip.checkpoint import FORMAT, sized
from maskclip_jax.systems.eva_clip.presets import CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='eva_clip',
  title='EVA02-CLIP',
  model=EvaCLIP,
  config=EvaCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  segments=False,
)
