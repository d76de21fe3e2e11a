"""MaskCLIP (Ding, Wang, Tu; ICML 2023)."""

from maskclip_jax.systems import parts
from maskclip_jax.systems.maskclip.checkpoint import FORMAT, sized
from maskclip_jax.systems.maskclip.model import MaskCLIP, MaskCLIPConfig
from maskclip_jax.systems.maskclip.presets import BENCHMARKS, CARDS, PRESETS
from maskclip_jax.systems.system import Rule, System

SYSTEM = System(
  name='maskclip',
  title='MaskCLIP',
  model=MaskCLIP,
  config=MaskCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  benchmarks=BENCHMARKS,
  format=FORMAT,
  parts={'proposals': 'mask2former', 'clip': 'clip'},
  from_parts=True,
  rule=Rule('rma', suits=parts.lacks_free_tokens, untuned={'rma_blocks': ()}),
  takes_part=lambda config: not config.rma_blocks,
)
