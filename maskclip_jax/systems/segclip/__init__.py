"""SegCLIP (Luo et al., ICML 2023): patches gathered by learnable centres."""

from maskclip_jax.systems.segclip.checkpoint import FORMAT, sized
from maskclip_jax.systems.segclip.model import SegCLIP, SegCLIPConfig
from maskclip_jax.systems.segclip.presets import BENCHMARKS, CARDS, PRESETS
from maskclip_jax.systems.system import System

SYSTEM = System(
  name='segclip',
  title='SegCLIP',
  model=SegCLIP,
  config=SegCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  benchmarks=BENCHMARKS,
  format=FORMAT,
  parts={'clip': 'clip'},
  reads_scores=('background_threshold',),
  proposes_without=('clip/text', 'clip/logit_scale', 'reconstruction'),
)
