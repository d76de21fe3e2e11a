"""MasQCLIP (ICCV 2023): teacher, students, MasQ-tuning.

    T="python -m maskclip_jax train --workdir"
    $T runs/teacher --config masqclip:stage=teacher \\
      --config.start.backbone.source=resnet50.pth --config.data.data_dir=DATA
    $T runs/student --config masqclip:stage=student \\
      --config.start.teacher.source=runs/teacher --config.data.data_dir=DATA
    $T runs/masq --config masqclip:stage=masq \\
      --config.start.proposals.source=runs/student \\
      --config.start.clip.source=CLIP_BUNDLE --config.data.data_dir=DATA

or all of it in one go, resumed wherever it stopped:

    $T runs/masqclip --config masqclip:stage=pipeline \\
      --config.stages.teacher.start.backbone.source=resnet50.pth \\
      --config.stages.masq.start.clip.source=CLIP_BUNDLE

Arguments: `setting=cross` (COCO panoptic, tested on other datasets) or `base_novel` (48
of COCO's classes with instance masks, tested on 17 more); `profile=released` or
`paper`, where they differ; `rounds`, the students trained one after another (the
paper's main result has 2, the released scripts run 1); `clip=vit_l14_336` or `vit_b16`;
`from=CROSS`, for `masq`: other proposals or another CLIP, as a bundle of
`convert --proposals X --classifier Y --rule masq`, whose queries are tuned further;
`runlocal`.

Expected with ViT-L/14@336, from Tables 1 and 3 of the paper. cross: ADE20K-150 PQ 23.3,
mIoU 30.4; A-847 10.7; PC-59 57.8; PC-459 18.2. base_novel, AP50 base / novel / all:
53.8 / 22.6 / 45.6 without a student, 50.6 / 26.1 / 44.2 with one round, 51.0 / 31.9 /
46.0 with two. Not yet reproduced with this code.

Batch sizes, lengths and learning rates: [masqclip 5.6].
"""

from configs import common

_VIEWS = {'cross': 'coco/panoptic', 'base_novel': 'coco/base48'}
_CLIPS = {
  'vit_l14_336': 'masqclip_r50_vit_l14_336',
  'vit_b16': 'masqclip_r50_vit_b16',
}
_STAGES = ('teacher', 'student', 'masq', 'pipeline')


def get_config(arg=None):
  """A stage, or the pipeline of all of them."""
  a = common.parse(
    arg,
    stage='masq',
    setting='cross',
    profile='released',
    clip='vit_l14_336',
    rounds=1,
    runlocal=False,
    **{'from': ''},
  )
  common.choose('stage', a.stage, _STAGES)
  common.choose('setting', a.setting, _VIEWS)
  common.choose('profile', a.profile, ('released', 'paper'))
  if a.stage == 'pipeline':
    return _pipeline(a)
  stage = {'teacher': _teacher, 'student': _student, 'masq': _masq}[a.stage]
  return stage(a)


def _data(a, batch_size: int, **changes) -> dict:
  view = _VIEWS[a.setting]
  return common.coco(view, batch_size=batch_size, profile=a.profile, **changes)


def _teacher(a, **changes):
  points = common.TINY_POINTS if a.runlocal else {}
  config = {
    'task': 'set_prediction',
    'profile': a.profile,
    'preset': 'proposals_r50',
    'settings': {'criterion': common.criterion(2, sampling=points)},
    'start': {
      'backbone': {
        'target_prefix': 'backbone',
        'hint': "torchvision's ResNet-50 V1 weights",
      }
    },
    # Two photos per GPU, both landscape or both portrait [masqclip 7.5].
    'data': _data(a, 16, same_orientation=2),
    'total_steps': 200_000 if a.setting == 'cross' else 100_000,
    'optim': {'lr_factors': common.BACKBONE},
    'dtype': 'bfloat16',
    'remat': True,
    **changes,
  }
  if a.runlocal:
    return common.for_trying_out(config, preset='proposals_tiny')
  return common.finished(config)


def _student(a, **changes):
  points = common.TINY_POINTS if a.runlocal else {}
  released_cross = a.profile == 'released' and a.setting == 'cross'
  config = {
    'task': 'distill',
    'profile': a.profile,
    'preset': 'proposals_r50',
    'settings': {
      'criterion': common.criterion(1, sampling=points),
      'rule': points,
    },
    'start': {
      'teacher': {'target_prefix': 'teacher', 'hint': 'a run or bundle of the teacher'}
    },
    'data': _data(a, 4),
    'total_steps': 30_000,
    'optim': {'lr': 1e-5 if released_cross else 1e-4, 'lr_factors': common.BACKBONE},
    'dtype': 'bfloat16',
    'remat': True,
    **changes,
  }
  if a.runlocal:
    start = changes.get('start', {})
    return common.for_trying_out(config, preset='proposals_tiny', start=start)
  return common.finished(config)


def _masq(a, **changes):
  start = {
    'proposals': {
      'target_prefix': 'proposals',
      'hint': 'a run or bundle of the last student',
    },
    'clip': {
      'target_prefix': 'clip',
      'hint': 'a bundle of the CLIP (`convert --system clip`)',
    },
  }
  config = {
    'task': 'query_tuning',
    'profile': a.profile,
    'preset': common.choose('clip', a.clip, _CLIPS),
    'start': start,
    'data': _data(a, 4),
    'total_steps': 10_000,
    'optim': {'schedule': {'kind': 'step', 'milestones': [0.9]}},
    'dtype': 'bfloat16',
    **changes,
  }
  cross = common.from_cross(a['from']) if a['from'] else {}
  if a.runlocal:
    start = {k: v for k, v in config['start'].items() if k in changes.get('start', {})}
    tiny = {'preset': 'masqclip_tiny', 'start': start} | cross
    return common.for_trying_out(config, **tiny)
  config |= cross
  return common.finished(config)


def _pipeline(a):
  """Every stage starts from the one before; '{workdir}' is the pipeline's own."""
  stages = {'teacher': _teacher(a)}
  last = 'teacher'
  for number in range(1, a.rounds + 1):
    name = f'student_{number}'
    teacher = {'target_prefix': 'teacher', 'source': f'{{workdir}}/{last}'}
    stages[name] = _student(a, start={'teacher': teacher})
    last = name
  proposals = {'target_prefix': 'proposals', 'source': f'{{workdir}}/{last}'}
  start = {'proposals': proposals}
  if not a.runlocal:
    start['clip'] = {'target_prefix': 'clip', 'hint': 'a bundle of the CLIP'}
  stages['masq'] = _masq(a, start=start)
  # The order of a ConfigDict is alphabetical.
  return common.finished({'order': list(stages), 'stages': stages})
