"""CLIP with a ConvNeXt image tower: a part of FC-CLIP, and a model of its own."""

from maskclip_jax.nn.convnext import ConvNeXtCLIP, ConvNeXtCLIPConfig
from maskclip_jax.systems.convnext_clip.checkpoint import FORMAT, sized
from maskclip_jax.systems.convnext_clip.presets import CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='convnext_clip',
  title='ConvNeXt-CLIP',
  model=ConvNeXtCLIP,
  config=ConvNeXtCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  segments=False,
)
