"""FC-CLIP (Yu et al., NeurIPS 2023)."""

from maskclip_jax.systems.fcclip.checkpoint import FORMAT, sized
from maskclip_jax.systems.fcclip.model import FCCLIP, FCCLIPConfig
from maskclip_jax.systems.fcclip.presets import BENCHMARKS, CARDS, PRESETS
from maskclip_jax.systems.system import Naming, System

SYSTEM = System(
  name='fcclip',
  title='FC-CLIP',
  model=FCCLIP,
  config=FCCLIPConfig,
  presets=PRESETS,
  cards=CARDS,
  sized=sized,
  benchmarks=BENCHMARKS,
  format=FORMAT,
  parts={'clip': 'convnext_clip'},
  reads_scores=('seen_weight', 'unseen_weight', 'mask_threshold', 'skip_empty', 'coat'),
  names_by={'pool': Naming()},
  proposes_without=(
    *('clip/text', 'clip/visual/head', 'clip/logit_scale'),
    *('transfer', 'adapter'),
  ),
  proposals_read_words=True,
)
