"""CLIP with a ViT image tower: a part of the systems, and a model of its own."""

from maskclip_jax.nn.clip import CLIP, CLIPConfig
from maskclip_jax.systems.clip.checkpoint import FORMAT, sized
from maskclip_jax.systems.clip.presets import CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='clip',
  title='CLIP',
  model=CLIP,
  config=CLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  segments=False,
)
