"""OVSeg (CVPR 2023): proposals named by words, a CLIP tuned on masked regions, prompts.

    T="python -m maskclip_jax train --workdir"
    $T runs/proposals --config ovseg:stage=proposals --config.data.data_dir=DATA \\
      --config.start.backbone.source=swin_base_patch4_window12_384_22k.pth \\
      --config.start.clip.source=CLIP_BUNDLE
    $T runs/pairs --config ovseg:stage=pairs --config.data.data_dir=MINED \\
      --config.start.model.source=runs/proposals
    $T runs/ovseg --config ovseg:stage=prompts --config.data.data_dir=MINED \\
      --config.start.model.source=runs/pairs

MINED is a folder of masked regions and nouns that `mine` made of captioned photos and
the first stage's model (`docs/mining.md`). Prompts alone, for a CLIP that is not tuned:
give `runs/proposals` to the last stage. Or all in one go, mining included:

    $T runs/ovseg --config ovseg:stage=pipeline \\
      --config.stages.proposals.start.backbone.source=... \\
      --config.stages.proposals.start.clip.source=CLIP_BUNDLE \\
      --config.stages.proposals.data.data_dir=DATA \\
      --config.stages.mine.data_dir=DATA

The nouns are those that spaCy tags: `pip install '.[spacy]'` and `python -m spacy
download en_core_web_sm`, or `--config.stages.mine.config.nouns.source=VOCABULARY`. All
choices of `mine` are fields of `stages.mine`. With `mine=false` the pairs are there
already, in `--config.stages.pairs.data.data_dir` and that of `prompts`.

Arguments: `model=swin_b` (with ViT-L/14) or `r101c` (with ViT-B/16); `profile=released`
or `paper`, where they differ: batches and the learning rate of the prompts, and for the
R101c the sizes of photos and what of the backbone is frozen; `pairs`, how many there
are, of which 5 epochs are made (by default as many as the authors mined; `mine` says
how many it found, and stages that have not begun take another number when the pipeline
is stopped and started again with it); `mine`; `runlocal`.

Expected with Swin-B and ViT-L/14, from Table 2 and 4 of the paper, mIoU of ADE20K-150:
21.8 without tuning, 26.5 with prompts only, 28.8 with a tuned CLIP, 29.6 with both. Not
yet reproduced with this code.

Sizes, lengths and rates: [ovseg 4.4, 4.5, 5.6].
"""

from configs import common

_PRESETS = {'swin_b': 'ovseg_swin_b_vit_l14', 'r101c': 'ovseg_r101c_vit_b16'}
_STAGES = ('proposals', 'pairs', 'prompts', 'pipeline')
# Masked regions in one batch [ovseg 5.6].
_BATCH = {
  ('swin_b', 'released'): 128,
  ('swin_b', 'paper'): 256,
  ('r101c', 'released'): 512,
  ('r101c', 'paper'): 1024,
}
_EPOCHS = 5
# What one caption a photo of COCO gave the authors.
_PAIRS = 442_117
# Where the pipeline's own pairs are.
_MINED = '{workdir}/mine'
# 1-D arrays, as in open_clip: norms, biases, the class token, the logit scale.
_NO_DECAY = (
  ('.*/(scale|bias)', 0.0),
  ('clip/visual/class_embedding', 0.0),
  ('clip/logit_scale', 0.0),
)


def get_config(arg=None):
  """A stage, or the pipeline of all of them."""
  a = common.parse(
    arg,
    stage='proposals',
    model='swin_b',
    profile='released',
    pairs=_PAIRS,
    mine=True,
    runlocal=False,
  )
  common.choose('stage', a.stage, _STAGES)
  common.choose('model', a.model, _PRESETS)
  common.choose('profile', a.profile, ('released', 'paper'))
  if a.stage == 'pipeline':
    return _pipeline(a)
  stage = {'proposals': _proposals, 'pairs': _pairs, 'prompts': _prompts}[a.stage]
  return stage(a)


def _proposals(a):
  swin = a.model == 'swin_b'
  steps = 120_000
  optim = {
    'lr': 6e-5 if swin else 2e-4,
    'weight_decay': 0.01 if swin else 1e-4,
    'lr_factors': () if swin else common.BACKBONE,
    'schedule': {
      'kind': 'poly',
      'power': 0.9,
      'warmup': 1_500 / steps,
      'warmup_from': 1e-6,
    },
  }
  # Four photos per GPU, all landscape or all portrait.
  settings = {'criterion': {'images_per_mean': 4}}
  if not swin and a.profile == 'released':
    # The released file leaves detectron2's default: the first stages are frozen.
    own = 'proposals/(?!backbone/(stem|res2)/).*'
    settings['trainable'] = [own, 'non_object_embedding']
  config = {
    'task': 'text_proposals',
    'profile': a.profile,
    'preset': _PRESETS[a.model],
    # The prompts come last.
    'model': {'clip': {'prompt_depth': 0}},
    'settings': settings,
    'start': {
      'backbone': {
        'target_prefix': 'proposals/backbone',
        'source_prefix': 'backbone',
        # The norms of the four stages are new [ovseg 1.7].
        'keep_random': [r'proposals/backbone/norm\d/.*'] if swin else [],
        'hint': "Swin-B's ImageNet-22k weights of 384 pixels"
        if swin
        else 'the weights R-103 of DeepLab',
      },
      'clip': {
        'target_prefix': 'clip',
        'hint': 'a bundle of the CLIP (`convert --system clip`)',
      },
    },
    'data': {
      'datasets': [{'view': 'coco/stuff171', 'split': 'train'}],
      'mapper': f'ovseg_{a.model}',
      'profile': a.profile,
      'canvas': 640 if swin else 512,
      'batch_size': 32,
      'same_orientation': 4,
      'workers': 8,
    },
    'total_steps': steps,
    'optim': optim,
    'dtype': 'bfloat16',
    'remat': True,
  }
  if a.runlocal:
    settings = {'criterion': {'images_per_mean': 2}}
    return common.for_trying_out(config, preset='ovseg_tiny', settings=settings)
  return common.finished(config)


def _tuned(a, task: str, source: str, optim: dict, mined: bool = False, **changes):
  """Either stage that shows masked regions and nouns to CLIP.

  Args:
    a: the arguments.
    task: of the stage.
    source: what it starts from.
    optim: the optimiser's settings.
    mined: the pairs are those of the pipeline's own mining.
    **changes: further fields.
  """
  batch = _BATCH[a.model, a.profile]
  steps = max(_EPOCHS * (a.pairs // batch), 1)
  config = {
    'task': task,
    'profile': a.profile,
    'preset': _PRESETS[a.model],
    'start': {
      'model': {
        'source': source,
        'keep_random': ['clip/visual/mask_prompts'],
        'hint': 'a run of the stage before, or a bundle of OVSeg',
      }
    },
    'data': {
      'datasets': [{'view': 'pairs/nouns', 'split': 'train'}],
      'mapper': 'ovseg_clip',
      'canvas': 224,
      'caption_tokens': 77,
      'regions': True,
      'batch_size': batch,
      'workers': 8,
      'data_dir': _MINED if mined else None,
    },
    'total_steps': steps,
    'optim': {
      'betas': (0.9, 0.98),
      'eps': 1e-6,
      'clip_norm': None,
      # From lr / 100 at the first step to lr at the hundredth.
      'schedule': {
        'kind': 'cosine',
        'warmup': min(99 / steps, 0.5),
        'warmup_from': 0.01,
      },
      **optim,
    },
    'dtype': 'bfloat16',
    **changes,
  }
  if a.runlocal:
    start = {'model': config['start']['model']} if source else {}
    pictures = {name: config['data'][name] for name in ('datasets', 'data_dir')}
    tiny = {
      **(pictures | {'generated': 0} if mined else {'generated': 8}),
      'mapper': 'ovseg_clip',
      'canvas': 64,
      'caption_tokens': 16,
      'regions': True,
      'batch_size': 2,
    }
    return common.for_trying_out(config, preset='ovseg_tiny', data=tiny, start=start)
  return common.finished(config)


def _pairs(a, source: str = '', mined: bool = False):
  optim = {'lr': 5e-6, 'weight_decay': 0.2, 'decay_factors': _NO_DECAY}
  model = {'clip': {'prompt_depth': 0}}
  return _tuned(a, 'crop_tuning', source, optim, mined, model=model)


def _prompts(a, source: str = '', mined: bool = False):
  lr = 0.05 if a.profile == 'released' else 0.02
  optim = {'lr': lr, 'weight_decay': 0.0}
  return _tuned(a, 'mask_prompts', source, optim, mined)


def _mine(a):
  """Pairs of the first stage's masks and the nouns of captions [ovseg 5.8]."""
  tiny = a.runlocal
  return {
    'config': {
      'model': '{workdir}/proposals',
      'nouns': {'source': 'square; disc' if tiny else 'spacy:en_core_web_sm'},
      'batch_size': 2 if tiny else 8,
      'dtype': 'float32' if tiny else 'bfloat16',
    },
    'source': 'generated:8' if tiny else 'coco/captions',
    'out': _MINED,
  }


def _pipeline(a):
  """Every stage starts from the one before; '{workdir}' is the pipeline's own."""
  stages = {
    'proposals': _proposals(a),
    **({'mine': _mine(a)} if a.mine else {}),
    'pairs': _pairs(a, '{workdir}/proposals', a.mine),
    'prompts': _prompts(a, '{workdir}/pairs', a.mine),
  }
  # The order of a ConfigDict is alphabetical.
  return common.finished({'order': list(stages), 'stages': stages})
