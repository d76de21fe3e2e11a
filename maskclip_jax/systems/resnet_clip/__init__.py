"""CLIP with a ResNet image tower: a part of FC-CLIP, and a model of its own."""

from maskclip_jax.nn.clip_resnet import ResNetCLIP, ResNetCLIPConfig
from maskclip_jax.systems.resnet_clip.checkpoint import FORMAT, sized
from maskclip_jax.systems.resnet_clip.presets import CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='resnet_clip',
  title='ResNet-CLIP',
  model=ResNetCLIP,
  config=ResNetCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  segments=False,
)
