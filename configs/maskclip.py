"""MaskCLIP (ICML 2023): proposals without classes, then relative mask attention.

    T="python -m maskclip_jax train --workdir"
    $T runs/proposals --config maskclip:stage=proposals \\
      --config.start.backbone.source=resnet50.pth --config.data.data_dir=DATA
    $T runs/maskclip --config maskclip:stage=rma \\
      --config.start.proposals.source=runs/proposals \\
      --config.start.clip.source=CLIP_BUNDLE --config.data.data_dir=DATA

Arguments: `profile=released` (the masks of earlier blocks are judged as the final ones,
photos are squashed to 1024 x 1024) or `paper` (each block's own masks, large-scale
jitter); `from=CROSS`, for `rma`: other proposals or another CLIP, as a bundle of
`convert --proposals X --classifier Y --rule rma` (`config.model.rma_blocks` says which
blocks, those of ViT-L/14 by default); `runlocal`.

Expected with ViT-L/14@336, from Table 1 of the MasQCLIP paper: ADE20K-150 PQ 15.1,
mIoU 23.7; A-847 8.2; PC-59 45.9; PC-459 10.0. Not yet reproduced with this code.

The second stage: [masqclip 4.7]. How the proposals were trained was not released; the
authors say "as the original Mask2Former", whose schedule is used here.
"""

from configs import common

_STAGES = ('proposals', 'rma')


def get_config(arg=None):
  """One of the two stages."""
  more = {'from': ''}
  a = common.parse(arg, stage='rma', profile='released', runlocal=False, **more)
  common.choose('stage', a.stage, _STAGES)
  common.choose('profile', a.profile, ('released', 'paper'))
  return _proposals(a) if a.stage == 'proposals' else _rma(a)


def _data(a, batch_size: int, **changes) -> dict:
  return common.coco(
    'coco/panoptic', batch_size=batch_size, profile=a.profile, **changes
  )


def _proposals(a):
  points = common.TINY_POINTS if a.runlocal else {}
  steps = 368_750
  config = {
    'task': 'set_prediction',
    'profile': a.profile,
    'preset': 'proposals_r50',
    'model': {'num_classes': None},
    'settings': {'criterion': common.criterion(2, sampling=points)},
    'start': {
      'backbone': {
        'target_prefix': 'backbone',
        'hint': "torchvision's ResNet-50 V1 weights",
      }
    },
    'data': _data(a, 16, same_orientation=2),
    'total_steps': steps,
    'optim': {
      'lr_factors': common.BACKBONE,
      'schedule': {'kind': 'step', 'milestones': [327_778 / steps, 355_092 / steps]},
    },
    'dtype': 'bfloat16',
    'remat': True,
  }
  if a.runlocal:
    return common.for_trying_out(config, preset='proposals_tiny')
  return common.finished(config)


def _rma(a):
  points = common.TINY_POINTS if a.runlocal else {}
  config = {
    'task': 'mask_attention',
    'profile': a.profile,
    'preset': 'maskclip_r50_vit_l14_336',
    'settings': {'criterion': common.criterion(1, sampling=points)},
    'start': {
      'proposals': {
        'target_prefix': 'proposals',
        # MaskCLIP's proposals have no classes; other networks' have.
        'keep_random': ['proposals/predictor/class_embed/.*'],
        'hint': 'a run or bundle of the first stage',
      },
      'clip': {
        'target_prefix': 'clip',
        'hint': 'a bundle of the CLIP (`convert --system clip`)',
      },
    },
    'data': _data(a, 8),
    'total_steps': 10_000,
    'dtype': 'bfloat16',
  }
  cross = {}
  if a['from']:
    cross = common.from_cross(a['from'], keep_random=('rma/.*',))
    cross['model'] = {'rma_blocks': (0, 1) if a.runlocal else (5, 11, 17, 23)}
  if a.runlocal:
    tiny = {'preset': 'maskclip_tiny'} | cross
    return common.for_trying_out(config, **tiny)
  return common.finished(config | cross)
