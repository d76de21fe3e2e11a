"""Mask2Former: mask proposals, or a closed-vocabulary segmenter."""

from maskclip_jax.systems.mask2former.checkpoint import FORMAT, sized
from maskclip_jax.systems.mask2former.model import Mask2Former, Mask2FormerConfig
from maskclip_jax.systems.mask2former.presets import BENCHMARKS, CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='mask2former',
  title='Mask2Former',
  model=Mask2Former,
  config=Mask2FormerConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  benchmarks=BENCHMARKS,
  format=FORMAT,
  proposes_without=(),
)
