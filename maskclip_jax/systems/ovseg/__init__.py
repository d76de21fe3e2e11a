"""OVSeg (CVPR 2023)."""

from maskclip_jax.systems.ovseg.checkpoint import FORMAT, sized
from maskclip_jax.systems.ovseg.model import RULE, OVSeg, OVSegConfig
from maskclip_jax.systems.ovseg.presets import BENCHMARKS, CARDS, PRESETS
from maskclip_jax.systems.system import Naming, System

SYSTEM = System(
  name='ovseg',
  title='OVSeg',
  model=OVSeg,
  config=OVSegConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  benchmarks=BENCHMARKS,
  format=FORMAT,
  parts={'clip': 'clip'},
  reads_scores=(
    *('seen_weight', 'unseen_weight', 'mask_threshold'),
    *('drop_empty', 'mask_prompts', 'coat'),
  ),
  proposes_without=('clip',),
  names_by={'crop': Naming({'square': RULE.square, 'method': RULE.method}, 'ovseg')},
)
