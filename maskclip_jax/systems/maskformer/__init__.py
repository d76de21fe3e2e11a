"""MaskFormer with a class head: a closed-vocabulary segmenter."""

from maskclip_jax.systems.maskformer.checkpoint import FORMAT, sized
from maskclip_jax.systems.maskformer.model import (
  ClosedMaskFormer,
  ClosedMaskFormerConfig,
)
from maskclip_jax.systems.maskformer.presets import CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='maskformer',
  title='MaskFormer',
  model=ClosedMaskFormer,
  config=ClosedMaskFormerConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  format=FORMAT,
  proposes_without=(),
)
