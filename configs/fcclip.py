"""FC-CLIP (NeurIPS 2023): masks and words on one frozen convolutional CLIP.

    python -m maskclip_jax convert open_clip_pytorch_model.bin \\
      --preset clip_convnext_large_d --to CLIP
    python -m maskclip_jax train --workdir runs/fcclip --config fcclip:stage=train \\
      --config.start.clip.source=CLIP --config.data.data_dir=DATA

The one stage, `train`, reads COCO panoptic with FC-CLIP's words for its 133 classes,
several each. CLIP is frozen; 21 M parameters learn. Arguments: `clip`, which CLIP it
stands on, by open_clip's names (`convnext_base`, `convnext_base_w`, `convnext_large`,
`convnext_large_d`, `convnext_xxlarge`) or OpenAI's (`rn50` to `rn50x64`); `runlocal`
tries it out on generated pictures.

Expected with `convnext_large_d`, from the authors' logs: ADE20K-150 PQ 26.8, AP 16.8,
mIoU 34.1; A-847 14.8, PC-59 58.4, PC-459 18.2, PAS-20 95.4; COCO PQ 54.4. Not yet
reproduced with this code. Source: [fcclip 8].
"""

import dataclasses

from configs import common
from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES

_RESNETS = ('rn50', 'rn101', 'rn50x4', 'rn50x16', 'rn50x64')


def get_config(arg=None):
  """The only stage."""
  a = common.parse(arg, stage='train', clip='convnext_large_d', runlocal=False)
  common.choose('stage', a.stage, ('train',))
  common.choose('clip', a.clip, (*CONVNEXT_CLIP_SIZES, *_RESNETS))
  model, preset = {}, f'fcclip_{a.clip}'
  if a.clip not in _RESNETS:
    preset = 'fcclip_convnext_large'
    model['clip'] = dataclasses.asdict(CONVNEXT_CLIP_SIZES[a.clip])
  points = common.TINY_POINTS if a.runlocal else {}
  steps = 368_750
  config = {
    'task': 'fcclip',
    'profile': 'paper',
    'preset': preset,
    'model': model,
    'settings': {'criterion': common.criterion(2, sampling=points)},
    'start': {
      'clip': {
        'target_prefix': 'clip',
        'hint': f'a bundle of the CLIP (`convert --preset clip_{a.clip}`)',
      }
    },
    # Large-scale jitter, as in Mask2Former.
    'data': common.coco(
      'coco/panoptic', batch_size=16, profile='paper', same_orientation=2
    ),
    'total_steps': steps,
    'optim': {
      'decay_factors': common.UNDECAYED_OF_FCCLIP,
      'schedule': {'kind': 'step', 'milestones': [327_778 / steps, 355_092 / steps]},
    },
    'dtype': 'bfloat16',
    'remat': True,
  }
  if a.runlocal:
    return common.for_trying_out(config, preset='fcclip_tiny', model={})
  return common.finished(config)
