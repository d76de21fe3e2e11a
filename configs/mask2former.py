"""Mask2Former (CVPR 2022) with the 133 classes of COCO panoptic: 50 epochs, R50.

    python -m maskclip_jax train --workdir runs/mask2former \\
      --config mask2former --config.start.backbone.source=resnet50.pth \\
      --config.data.data_dir=DATA

Argument: `runlocal`. Expected, from the Mask2Former model zoo: COCO PQ 51.9, AP 41.7,
mIoU 61.7. Not yet reproduced with this code.
"""

from configs import common


def get_config(arg=None):
  """The only stage."""
  a = common.parse(arg, runlocal=False)
  points = common.TINY_POINTS if a.runlocal else {}
  steps = 368_750
  config = {
    'task': 'set_prediction',
    'profile': 'paper',
    'preset': 'mask2former_r50_coco_panoptic',
    'settings': {'criterion': common.criterion(2, sampling=points)},
    'start': {
      'backbone': {
        'target_prefix': 'backbone',
        'hint': "torchvision's ResNet-50 V1 weights",
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
