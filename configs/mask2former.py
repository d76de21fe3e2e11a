"""Mask2Former (CVPR 2022) with the 133 classes of COCO panoptic: 50 epochs.

    python -m maskclip_jax train --workdir runs/mask2former \\
      --config mask2former --config.start.backbone.source=resnet50.pth \\
      --config.data.data_dir=DATA

Arguments: `backbone` (r50, swin_t, swin_s, swin_b, swin_l) and `runlocal`. Expected,
from the Mask2Former model zoo: COCO PQ 51.9, AP 41.7, mIoU 61.7 with R50. Not yet
reproduced with this code. The Swins of the model zoo were trained with stochastic depth
and the largest for 100 epochs, which this is not.
"""

from configs import common

_BACKBONES = 'r50', 'swin_t', 'swin_s', 'swin_b', 'swin_l'


def get_config(arg=None):
  """The only stage."""
  a = common.parse(arg, backbone='r50', runlocal=False)
  name = common.choose('backbone', a.backbone, _BACKBONES)
  swin = name != 'r50'
  points = common.TINY_POINTS if a.runlocal else {}
  steps = 368_750
  config = {
    'task': 'set_prediction',
    'profile': 'paper',
    'preset': f'mask2former_{name}_coco_panoptic',
    'settings': {'criterion': common.criterion(2, sampling=points)},
    'start': {
      'backbone': {
        'target_prefix': 'backbone',
        # The norms of the four stages are new.
        'keep_random': [r'backbone/norm\d/.*'] if swin else [],
        'hint': 'the ImageNet weights of that Swin'
        if swin
        else "torchvision's ResNet-50 V1 weights",
      }
    },
    # The stock mapper is the paper's: large-scale jitter.
    'data': common.coco(
      'coco/panoptic', batch_size=16, profile='paper', same_orientation=2
    ),
    'total_steps': steps,
    'optim': {
      'lr_factors': common.BACKBONE,
      'schedule': {'kind': 'step', 'milestones': [327_778 / steps, 355_092 / steps]},
    },
    'dtype': 'bfloat16',
    'remat': True,
  }
  if a.runlocal:
    return common.for_trying_out(config, preset='mask2former_tiny')
  return common.finished(config)
