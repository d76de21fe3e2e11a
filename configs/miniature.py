"""The miniature: every stage of both papers on a generated world, on two CPU cores.

    launch/miniature.sh          # all of it, from nothing

or stage by stage, after `python -m maskclip_jax data build miniature --data_dir DATA`:

    T="python -m maskclip_jax train --config.data.data_dir=DATA"
    $T --workdir RUNS/close --config miniature:stage=clip
    $T --workdir RUNS/anywhere --config miniature:stage=clip_anywhere \\
      --config.start.clip.source=RUNS/close
    $T --workdir RUNS/clip --config miniature:stage=clip_photos \\
      --config.start.clip.source=RUNS/anywhere
    $T --workdir RUNS/teacher --config miniature:stage=teacher
    $T --workdir RUNS/student --config miniature:stage=student \\
      --config.start.teacher.source=RUNS/teacher
    $T --workdir RUNS/masq --config miniature:stage=masq \\
      --config.start.proposals.source=RUNS/student --config.start.clip.source=RUNS/clip

Stages: `clip`, a CLIP from scratch on image-text pairs that show all the world's words,
as the real one has, at first small ones in the centre of its square; `clip_anywhere`,
the same ones anywhere in it; `clip_photos`, photos of whole scenes that fill it, half
of whose patches it sees; `clip_close_ups`, in its place for a CLIP that is to read
crops, pairs that show things from near as well; `clip_mosaic`, after that, for larger
photos that mask tokens read: four pairs to a square; `teacher`, proposals from scratch
on the scenes, in which base things and stuff are annotated and novel things are not;
`student`, progressive distillation; `longer`, as much further training as two
students', without distillation; `masq`, MasQ-tuning; `tune_all`, the same with all of
CLIP's image tower tuned (Table 6 of the paper); `rma`, MaskCLIP's relative mask
attention; `segclip`, SegCLIP, from captions and superpixels and no mask: for it the
world is built with `--superpixels 224,0.9,60`; `ovseg_proposals`, OVSeg's proposals
from scratch, named by the words of a CLIP; `ovseg_pairs`, its CLIP tuned on regions and
nouns that `mine` found with them; `ovseg_prompts`, mask prompts for a CLIP tuned or not
(their `data_dir` is the folder of the pairs); `convnext`, a convolutional CLIP from
scratch on the small pictures, `convnext_photos`, the same on whole scenes, and
`fcclip`, FC-CLIP on it. `split=far` annotates fewer things: none
of certain colours and of one pattern (`maskclip_jax/miniature/words.py`), so that what
is not annotated looks different; scenes and CLIPs stay. `seed` is of all that is drawn;
`scale` multiplies the steps of a stage, 1 being what the tables show; `side` is of the
photos that CLIP sees where mask tokens learn, 96 in the tables, from a CLIP that
`convert --image_size` made larger; `mosaic`, how many pairs are along the side of a
square of `clip_mosaic`, 2 by default; `runlocal` tries a stage out.

Measured numbers: `benchmarks/miniature.md`.
"""

from configs import common

_STAGES = (
  *('clip', 'clip_anywhere', 'clip_photos', 'clip_close_ups', 'clip_mosaic'),
  *('teacher', 'student', 'longer'),
  *('masq', 'tune_all', 'rma'),
  'segclip',
  *('ovseg_proposals', 'ovseg_pairs', 'ovseg_prompts'),
  *('convnext', 'convnext_photos', 'fcclip'),
)
# Those of MaskCLIP and MasQCLIP, and the CLIP for them.
_OF_ANY_SIDE = ('clip_mosaic', 'masq', 'tune_all', 'rma')
_POINTS = {'points': 512}
# What is annotated in the scenes.
_ANNOTATED = {'near': 'miniature/base', 'far': 'miniature/far_base'}


def get_config(arg=None):
  """One stage."""
  a = common.parse(
    arg,
    stage='masq',
    split='near',
    seed=0,
    scale=1.0,
    side=0,
    mosaic=0,
    runlocal=False,
  )
  common.choose('stage', a.stage, _STAGES)
  annotated = common.choose('split', a.split, _ANNOTATED)
  config = globals()[f'_{a.stage}']() | {'seed': a.seed}
  config['data']['seed'] = a.seed
  if a.mosaic:
    _show_more(a.stage, config, a.mosaic)
  if a.side:
    _show_larger(a.stage, config, a.side)
  for dataset in config['data']['datasets']:
    if dataset['view'] == _ANNOTATED['near']:
      dataset['view'] = annotated
  config['total_steps'] = round(config['total_steps'] * a.scale)
  if config['total_steps'] < 1:
    raise ValueError(f'scale={a.scale:g} leaves the stage {a.stage} without a step')
  if a.runlocal:
    return _for_trying_out(config)
  return common.finished(config)


def _show_more(stage: str, config: dict, mosaic: int) -> None:
  """Changes how many pairs a square shows; there are as many squares a step."""
  if stage != 'clip_mosaic':
    raise ValueError(f'mosaic is for the stage clip_mosaic, not {stage}')
  before = config['settings']['mosaic']
  config['settings']['mosaic'] = mosaic
  data = config['data']
  data['canvas'] = config['model']['image_size'] // mosaic
  data['batch_size'] = data['batch_size'] // before**2 * mosaic**2


def _show_larger(stage: str, config: dict, side: int) -> None:
  """Changes the size of the photos that CLIP sees while mask tokens learn."""
  if stage not in _OF_ANY_SIDE:
    raise ValueError(f'side is for the stages {", ".join(_OF_ANY_SIDE)}, not {stage}')
  if stage == 'clip_mosaic':
    config['model'] = {'image_size': side}
    config['start']['clip']['hint'] = _larger(side)
    config['data']['canvas'] = side // config['settings']['mosaic']
    return
  config['model'] = {'clip': {'image_size': side}}
  if stage != 'rma':
    config['settings']['label_size'] = side


def _scenes(batch_size: int, **changes) -> dict:
  return {
    'datasets': [{'view': 'miniature/base', 'split': 'train'}],
    'mapper': 'miniature',
    'canvas': 128,
    'max_segments': 12,
    'batch_size': batch_size,
    **changes,
  }


def _cosine(lr: float, warmup: float = 0.05, **changes) -> dict:
  schedule = {'kind': 'cosine', 'warmup': warmup}
  return {'lr': lr, 'schedule': schedule, **changes}


def _pairs(view: str, split: str = 'pairs', *, side: int, tokens: int) -> dict:
  return {
    'datasets': [{'view': view, 'split': split}],
    'mapper': 'miniature_clip',
    'canvas': side,
    'caption_tokens': tokens,
    'batch_size': 64,
  }


def _contrastive(lr: float, **changes) -> dict:
  # Many photos of a batch show the same kind of thing.
  settings = {'equal_texts_match': True, **changes.pop('settings', {})}
  return {
    'task': 'contrastive',
    'preset': 'clip_vit_miniature',
    'settings': settings,
    'optim': _cosine(lr, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0),
    **changes,
  }


def _close_pairs() -> dict:
  # Things that fill small pictures, as large as scenes will show them: so shapes are
  # learned soonest, and sooner in one place than anywhere at once.
  return _pairs('miniature/close_captions', side=48, tokens=16)


def _clip():
  return _contrastive(
    1e-3,
    settings={'sine_positions': True, 'placement': 'centre'},
    data=_close_pairs(),
    total_steps=3_000,
  )


def _clip_anywhere():
  return _contrastive(
    5e-4,
    start={'clip': {'hint': 'the CLIP of the stage clip'}},
    data=_close_pairs(),
    total_steps=3_000,
  )


def _of_full_size(split: str, steps: int) -> dict:
  return _contrastive(
    5e-4,
    start={'clip': {'hint': 'the CLIP of the stage clip_anywhere'}},
    settings={'seen': 0.5},
    data=_pairs('miniature/captions', split, side=96, tokens=32),
    total_steps=steps,
  )


def _clip_photos():
  # As photos on the web, these show whole scenes: so the CLIP reads parts of a scene
  # where they are, and knows no crops of it.
  return _of_full_size('photos', 2_400)


def _clip_close_ups():
  return _of_full_size('pairs', 1_200)


def _larger(side: int) -> str:
  return f'the CLIP of close-ups, by convert --image_size {side}'


def _clip_mosaic():
  # Four to a square: things are as large as in a scene of its size, and are read by
  # tokens that see them alone.
  return _contrastive(
    5e-4,
    start={'clip': {'hint': _larger(144)}},
    model={'image_size': 144},
    settings={'mosaic': 2},
    data=_pairs('miniature/captions', side=72, tokens=32),
    total_steps=2_400,
  )


def _proposals(**changes):
  return {
    'preset': 'proposals_miniature',
    'settings': {'criterion': {'sampling': _POINTS}},
    **changes,
  }


def _teacher():
  return _proposals(
    task='set_prediction',
    data=_scenes(8),
    total_steps=3_000,
    # From scratch, so the backbone learns as fast as the rest.
    optim=_cosine(1e-3, clip_norm=0.1),
  )


def _student():
  return _proposals(
    task='distill',
    settings={'criterion': {'sampling': _POINTS}, 'rule': _POINTS},
    start={
      'teacher': {
        'target_prefix': 'teacher',
        'hint': 'the teacher, or the last student',
      }
    },
    data=_scenes(8),
    total_steps=800,
    optim=_cosine(2e-4, clip_norm=0.1),
  )


def _longer():
  return _proposals(
    task='set_prediction',
    start={'teacher': {'hint': 'the teacher'}},
    data=_scenes(8),
    total_steps=1_600,
    optim=_cosine(2e-4, clip_norm=0.1),
  )


def _parts(**changes) -> dict:
  return {
    'proposals': {
      'target_prefix': 'proposals',
      'hint': 'a teacher or student',
      **changes,
    },
    'clip': {'target_prefix': 'clip', 'hint': 'the miniature CLIP'},
  }


def _masq():
  return {
    'task': 'query_tuning',
    'preset': 'masqclip_miniature',
    'settings': {'label_size': 96},
    'start': _parts(),
    'data': _scenes(8),
    'total_steps': 1_500,
    'optim': _cosine(2e-3, clip_norm=0.1),
  }


def _tune_all():
  config = _masq()
  config['settings'] |= {'trainable': ['clip/visual/.*', 'new_q_proj/.*']}
  config['optim']['lr'] = 1e-3
  return config


def _rma():
  return {
    'task': 'mask_attention',
    'preset': 'maskclip_miniature',
    'settings': {'criterion': {'sampling': _POINTS}},
    'start': _parts(leave=['proposals/predictor/class_embed/.*']),
    'data': _scenes(8),
    'total_steps': 1_500,
    'optim': _cosine(1e-3, clip_norm=0.1),
  }


def _segclip():
  return {
    'task': 'segclip',
    'preset': 'segclip_miniature',
    'settings': {
      'equal_texts_match': True,
      **dict.fromkeys(('contrastive', 'superpixel', 'reconstruction'), 1.0),
    },
    'start': {'clip': {'target_prefix': 'clip', 'hint': 'the CLIP of close-ups'}},
    # Whole scenes: pairs are mostly windows around one thing, from which groups learn
    # that things are in the middle.
    'data': {
      **_pairs('miniature/captions', 'photos', side=96, tokens=32),
      'batch_size': 32,
      'superpixel_patch': 8,
    },
    'total_steps': 1_500,
    'optim': _cosine(
      1e-3,
      betas=(0.9, 0.98),
      clip_norm=1.0,
      # The first blocks learn as fast as the groups: patches of a CLIP know where they
      # are better than what they show.
      lr_factors=(('clip/(text/|logit).*', 0.1),),
    ),
  }


def _ovseg(task: str, **changes) -> dict:
  start = {
    'model': {
      'keep_random': ['clip/visual/mask_prompts'],
      'hint': 'the stage before, of OVSeg',
    }
  }
  return {'task': task, 'preset': 'ovseg_miniature', 'start': start, **changes}


def _ovseg_proposals():
  clip = {'target_prefix': 'clip', 'hint': 'the miniature CLIP'}
  return _ovseg(
    'text_proposals',
    model={'clip': {'prompt_depth': 0}},
    # From scratch and short: nothing is left out at random.
    settings={'dropout': 0.0, 'depth': 0.0},
    start={'clip': clip},
    data=_scenes(8),
    total_steps=3_000,
    optim=_cosine(1e-3, clip_norm=0.1),
  )


def _regions() -> dict:
  return {
    'datasets': [{'view': 'pairs/nouns', 'split': 'train'}],
    'mapper': 'ovseg_clip',
    'canvas': 96,
    'caption_tokens': 16,
    'regions': True,
    'batch_size': 64,
  }


def _ovseg_pairs():
  return _ovseg(
    'crop_tuning',
    model={'clip': {'prompt_depth': 0}},
    # There are fewer words than regions in two batches.
    settings={'equal_texts_match': True},
    data=_regions(),
    total_steps=1_000,
    optim=_cosine(2e-4, betas=(0.9, 0.98), weight_decay=0.1, clip_norm=1.0),
  )


def _ovseg_prompts():
  return _ovseg(
    'mask_prompts',
    settings={'equal_texts_match': True},
    data=_regions(),
    total_steps=600,
    optim=_cosine(0.02, betas=(0.9, 0.98), weight_decay=0.0, clip_norm=None),
  )


def _convnext():
  # A convolution sees a thing alike wherever it is: one stage of small pictures, whose
  # sides divide by 32.
  return _contrastive(
    1e-3,
    preset='clip_convnext_miniature',
    data=_pairs('miniature/close_captions', side=64, tokens=16),
    total_steps=3_000,
  )


def _convnext_photos():
  return _contrastive(
    5e-4,
    preset='clip_convnext_miniature',
    start={'clip': {'hint': 'the CLIP of the stage convnext'}},
    data=_pairs('miniature/captions', 'photos', side=128, tokens=32),
    total_steps=1_500,
  )


def _fcclip():
  return {
    'task': 'fcclip',
    'preset': 'fcclip_miniature',
    'settings': {'criterion': {'sampling': _POINTS}},
    'start': {'clip': {'target_prefix': 'clip', 'hint': 'the convolutional CLIP'}},
    'data': _scenes(8, canvas=192),
    'total_steps': 3_000,
    'optim': _cosine(1e-3, clip_norm=0.1, decay_factors=common.UNDECAYED_OF_FCCLIP),
  }


def _for_trying_out(config):
  """The same networks for two steps, on a few generated pictures."""
  data = {
    'generated': 8,
    'canvas': config['data']['canvas'],
    **{
      name: config['data'].get(name, 0)
      for name in ('caption_tokens', 'superpixel_patch')
    },
    'regions': config['data'].get('regions', False),
    'mapper': config['data']['mapper'],
    'batch_size': max(2, config['settings'].get('mosaic', 1) ** 2),
    'max_segments': 8,
  }
  return common.finished(
    {
      **config,
      'data': data,
      'total_steps': 2,
      'log': {'every': 1},
      'checkpoint': {'every': 1},
      'start': {},
    }
  )
