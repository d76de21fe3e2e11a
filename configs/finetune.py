"""Fine-tuning: a model that is there, on photos that you labelled.

    python -m maskclip_jax train --workdir RUN \\
      --config finetune:data=mine/panoptic,from=MODEL,what=masq,data_dir=DATA

Arguments: `data`, a view ('mine/panoptic', 'coco/panoptic'); `from`, a bundle, a run or
a name that `models list` shows; `data_dir`, where the data are built; `what` learns:

* `masq`: the queries of MasQCLIP's mask tokens, which name masks. Of a CLIP baseline,
  which has none, they start as CLIP's own.
* `rma`: MaskCLIP's relative mask attention, which names and refines masks.
* `proposals`: the network that finds masks, inside of any of these models; of a network
  with classes (Mask2Former) the class head becomes object or not, and starts anew.
* `linear`: one matrix, from CLIP's image vectors into the space of its words. The least
  there is, for a handful of photos; not of a paper.

All of them leave CLIP's text tower and what it was trained for as they are, so other
words can still be asked for.

The run visits each photo `epochs` times (20), in 100 to 5,000 steps, with small rates
that fall to nothing; `photos` says how many there are, else they are counted. Ten times
on the way it is evaluated on the data's own validation split (`evals` names another
protocol, 'none' does without); it ends early after four evaluations without gain, and
exports the best step, which may be the start. A single GPU or two CPU cores do:
a batch is 4 photos, of small networks 8. `runlocal` tries it out.
"""

import math

from configs import common
from maskclip_jax import plain, zoo
from maskclip_jax.checkpoints import restore
from maskclip_jax.data.sources import open_source
from maskclip_jax.eval.protocols import PROTOCOLS
from maskclip_jax.systems.system import system_of

_TASKS = {
  'masq': 'query_tuning',
  'rma': 'mask_attention',
  'proposals': 'proposal_tuning',
  'linear': 'projection_tuning',
}
_TINY = {'masq': 'masqclip_tiny', 'rma': 'maskclip_tiny'}
# What is new in a model may move; what is there moves little.
_RATES = {'masq': 5e-5, 'rma': 5e-5, 'proposals': 2e-5, 'linear': 2e-5}
_WHOLE = ('clip_baseline', 'maskclip', 'masqclip')
# What tunes other proposals than a Mask2Former's.
_INSTEAD = {
  'masq': ': make a cross of the rule masq of it',
  'rma': ': make a cross of the rule rma of it, for maskclip:stage=rma,from=CROSS',
}
_HEAD = 'predictor/class_embed/.*'
# Below it, networks are small, and learn at rates that are larger.
_SMALL_SIDE, _SMALL_RATE = 512, 10
_EVALUATIONS = 10
_BEST = {
  'panoptic': ('panoptic', 'PQ'),
  'instance': ('instance', 'AP'),
  'semantic': ('semantic', 'mIoU_gt'),
}


def get_config(arg=None):
  """The one stage."""
  a = common.parse(
    arg,
    **{'data': '', 'from': '', 'what': 'masq', 'data_dir': '', 'photos': 0},
    **{'epochs': 20.0, 'evals': 'auto', 'seed': 0, 'runlocal': False},
  )
  common.choose('what', a.what, _TASKS)
  if a.runlocal:
    return _for_trying_out(a)
  for name in ('data', 'from'):
    if not a[name]:
      raise ValueError(f'{name} is missing: finetune:data=mine/panoptic,from=MODEL')
  if a.photos < 0 or a.epochs <= 0:
    raise ValueError(
      f'photos={a.photos} and epochs={a.epochs:g} are counts: leave photos out to have '
      'them counted'
    )
  if _view(a).kind not in _BEST:
    raise ValueError(f'data={a.data} has no masks to learn from: name another view')
  opened, preset = restore.open_bundle(restore.find_bundle(a['from']))
  small = preset.preprocessing.short_edge < _SMALL_SIDE
  batch = 8 if small else 4
  photos = a.photos or _photos(a)
  steps = min(max(math.ceil(a.epochs * photos / batch), 100), 5_000)
  config = {
    **_model(a.what, str(opened.directory.resolve()), preset),
    'data': _data(a, preset, batch, small),
    'total_steps': steps,
    'optim': _optim(a.what, small),
    'seed': a.seed,
    'dtype': 'float32' if small else 'bfloat16',
    'remat': a.what == 'proposals' and not small,
    'checkpoint': {'every': max(steps // _EVALUATIONS, 1), 'keep': 1},
  }
  config['data']['seed'] = a.seed
  if a.evals != 'none' and config['task'] != 'set_prediction':
    _evaluate(config, a)
  return common.finished(config)


def _view(a):
  """How the data are read; a `View`."""
  from maskclip_jax.data.views import find_view

  return find_view(a.data, a.data_dir or None)


def _photos(a) -> int:
  return len(open_source(_view(a), 'train', a.data_dir or None, trainable=True))


def _optim(what: str, small: bool) -> dict:
  optim = {
    'lr': _RATES[what] * (_SMALL_RATE if small else 1),
    'clip_norm': 0.1 if small else 0.01,
    'schedule': {'kind': 'cosine', 'warmup': 0.05},
  }
  if what == 'proposals':
    optim['lr_factors'] = common.BACKBONE
  if what == 'linear':
    # It is to stay near what CLIP had.
    optim['weight_decay'] = 0.0
  return optim


def _data(a, preset, batch: int, small: bool) -> dict:
  """The photos, on a canvas of the size that the model is used at."""
  instances = _view(a).kind == 'instance'
  side = 32 * math.ceil(preset.preprocessing.short_edge / 32) if small else 1024
  mapper = 'miniature' if small else 'coco_instance' if instances else 'coco_panoptic'
  return {
    'datasets': [{'view': a.data, 'split': 'train'}],
    'data_dir': a.data_dir or None,
    'mapper': mapper,
    # Masks are learned at many scales.
    'profile': 'paper' if a.what == 'proposals' else 'released',
    'canvas': side,
    'overlapping': instances,
    'batch_size': batch,
    'workers': 0 if small else 4,
  }


def _evaluate(config: dict, a) -> None:
  """Evaluates on the way, and keeps the best."""
  dataset = a.data.partition('/')[0]
  own = [
    name
    for name, protocol in PROTOCOLS.items()
    if any(view.partition('/')[0] == dataset for view in protocol.truth.values())
  ]
  name = a.evals if a.evals != 'auto' else (own or [dataset])[0]
  task, metric = _BEST[_view(a).kind]
  config['eval'] = {
    'evals': name,
    'tasks': task,
    'every': config['checkpoint']['every'],
    'at_start': True,
    'patience': 4,
    'images': 500,
  }
  config['checkpoint']['best'] = f'{name}/{metric}'


def _model(what: str, source: str, preset) -> dict:
  """Task, preset and starting values."""
  system, task = preset.system, _TASKS[what]
  whole = {'preset': source, 'start': {'model': {'source': source}}}
  if system == 'mask2former' and what == 'proposals':
    task = 'set_prediction'
    if preset.vocabulary != 'object':
      whole = {
        'preset': _named('mask2former', preset, vocabulary='object'),
        'model': {**plain.to_dict(preset.config), 'num_classes': 1},
        'start': {'model': {'source': source, 'keep_random': [_HEAD]}},
      }
    return {'task': task, **whole}
  if system not in _WHOLE:
    raise ValueError(
      f'from={source} is a {system}, and what={what} tunes {", ".join(_WHOLE)}'
    )
  if (
    what in ('proposals', 'linear')
    or (what, system) == ('masq', 'masqclip')
    or (what == 'rma' and getattr(preset.config, 'rma_blocks', ()))
  ):
    if what == 'proposals':
      _check_proposals(what, source, preset)
    return {'task': task, **whole}
  _check_proposals(what, source, preset)
  if what == 'masq' and preset.config.proposals.num_classes != 1:
    raise ValueError(
      f'from={source} is a {system}, whose proposals have no object score, which masq '
      'needs: what=rma, proposals or linear'
    )
  return {'task': task, **_of_parts(what, source, preset)}


def _check_proposals(what: str, source: str, preset) -> None:
  """Fails where other proposals than a Mask2Former's would be taken apart."""
  found = system_of(preset.config.proposals)
  if found.name != 'mask2former':
    raise ValueError(
      f'from={source} has the proposals of {found.title}, and what={what} needs those '
      f'of a Mask2Former{_INSTEAD.get(what, "")}'
    )


def _of_parts(what: str, source: str, preset) -> dict:
  """A MasQCLIP or MaskCLIP of the proposals and the CLIP of another model."""
  parts = ('proposals', 'clip')
  start = {
    part: {'source': source, 'source_prefix': part, 'target_prefix': part}
    for part in parts
  }
  model = {part: plain.to_dict(getattr(preset.config, part)) for part in parts}
  if what == 'rma':
    model['proposals']['num_classes'] = None
    start['proposals']['keep_random'] = [f'proposals/{_HEAD}']
  return {
    'preset': _named('masqclip' if what == 'masq' else 'maskclip', preset),
    'model': model,
    'settings': {'start': 'clip'} if what == 'masq' else {},
    'start': start,
  }


def _named(system: str, preset, **wanted) -> str:
  """The preset of a system that reads photos as this one does, the nearest in size.

  Raises:
    ValueError: there is none.
  """
  wanted['preprocessing'] = preset.preprocessing
  found = {
    name: one.config
    for name, one in zoo.presets().items()
    if one.system == system
    and all(getattr(one, field) == value for field, value in wanted.items())
  }
  if not found:
    photos = preset.preprocessing
    raise ValueError(
      f'no preset of {system} reads photos at {photos.short_edge} x '
      f'{photos.long_edge}, as this model does: write a configuration of your own'
    )
  own = plain.to_dict(preset.config)

  def differences(name: str) -> int:
    sizes = plain.to_dict(found[name])
    return sum(sizes.get(field) != size for field, size in own.items())

  return min(found, key=differences)


def _for_trying_out(a):
  config = {
    'task': _TASKS[a.what],
    'data': {},
    'optim': _optim(a.what, True),
  }
  points = {'settings': {'criterion': {'sampling': common.TINY_POINTS}}}
  settings = points if a.what in ('rma', 'proposals') else {}
  preset = _TINY.get(a.what, 'clip_baseline_tiny')
  return common.for_trying_out(config, preset=preset, **settings)
