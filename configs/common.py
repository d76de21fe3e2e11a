"""What the configurations share: arguments, and the tables they are made of.

Every function returns plain values; `maskclip_jax.train.config` says what each field
means and refuses unknown ones. A configuration is a file with
`get_config(arg) -> ConfigDict`; `arg` is what stands behind the colon of
`--config masqclip:stage=masq,runlocal`.
"""

import re

import ml_collections

from maskclip_jax.train.optim import NO_DECAY

# All stages of both papers: AdamW at 1e-4 with a decay of 0.05, gradients clipped to a
# norm of 0.01 (the defaults), and the backbone at a tenth of the learning rate.
BACKBONE = (('(proposals/)?backbone/.*', 0.1),)
# FC-CLIP's void vector decays as little as the queries.
UNDECAYED_OF_FCCLIP = tuple((p, 0.0) for p in (*NO_DECAY, 'void_embedding/embedding'))
TINY_POINTS = {'points': 128}


def parse(arg: str | None, **defaults) -> ml_collections.ConfigDict:
  """Reads 'a=1,b' as values of the defaults' types; `b` alone means True.

  Raises:
    ValueError: an unknown name, or a value of another type.
  """
  values = dict(defaults)
  for part in filter(None, (arg or '').split(',')):
    name, equals, text = part.partition('=')
    if name not in defaults:
      raise ValueError(
        f'unknown argument {name!r} of the configuration: there are '
        f'{", ".join(defaults)}'
      )
    values[name] = _value(name, text if equals else 'true', defaults[name])
  return ml_collections.ConfigDict(values)


def _value(name: str, text: str, default):
  if isinstance(default, bool):
    if text.lower() not in ('true', 'false'):
      raise ValueError(f'{name} is true or false, not {text!r}')
    return text.lower() == 'true'
  if isinstance(default, int):
    if not text.lstrip('-').isdigit():
      raise ValueError(f'{name} is a whole number, not {text!r}')
    return int(text)
  if isinstance(default, float):
    if not re.fullmatch(r'-?(\d+\.?\d*|\.\d+)', text):
      raise ValueError(f'{name} is a number, not {text!r}')
    return float(text)
  return text


def choose(name: str, value: str, choices):
  """One of some choices.

  Raises:
    ValueError: it is none of them.
  """
  if value not in choices:
    raise ValueError(f'{name} must be one of {", ".join(choices)}, not {value!r}')
  return choices[value] if isinstance(choices, dict) else value


def coco(view: str, *, batch_size: int, profile: str, **changes) -> dict:
  """COCO train2017, in crops of 1024 x 1024."""
  instances = view != 'coco/panoptic'
  return {
    'datasets': [{'view': view, 'split': 'train'}],
    'mapper': 'coco_instance' if instances else 'coco_panoptic',
    'profile': profile,
    'overlapping': instances,
    'batch_size': batch_size,
    'workers': 8,
    **changes,
  }


def criterion(images_per_mean: int, **changes) -> dict:
  """Set-prediction losses whose class mean is over the images of one official GPU."""
  return {'images_per_mean': images_per_mean, **changes}


def from_cross(source: str, *, keep_random: tuple[str, ...] = ()) -> dict:
  """What makes a stage tune a cross of `convert --proposals X --classifier Y`.

  Args:
    source: its bundle, which is the model that is trained and what it starts from.
    keep_random: parameters that start at random, as regular expressions.
  """
  start = {'source': source, 'keep_random': keep_random, 'hint': 'a cross'}
  return {'preset': source, 'start': {'cross': start}}


def for_trying_out(
  config: dict, data: dict | None = None, **changes
) -> ml_collections.ConfigDict:
  """`runlocal`: the same stage with a tiny model on a few generated pictures.

  Args:
    config: the stage's configuration.
    data: what is read besides photos with segments, or in their place.
    **changes: the tiny preset, and settings that keep the losses small.
  """
  tiny = {
    'generated': 8,
    'canvas': 64,
    'batch_size': 2,
    'max_segments': 8,
    'profile': config['data'].get('profile', 'released'),
  }
  return finished(
    {
      **config,
      'data': tiny | (data or {}),
      'total_steps': 2,
      'dtype': 'float32',
      'log': {'every': 1},
      'checkpoint': {'every': 1},
      'start': {},
      **changes,
    }
  )


def finished(config: dict) -> ml_collections.ConfigDict:
  """The configuration, locked: a misspelt override is an error."""

  # A `ConfigDict` keeps a dict that stands at two places as one, and an override at one
  # of them would change the other.
  def apart(node):
    return {k: apart(v) for k, v in node.items()} if isinstance(node, dict) else node

  return ml_collections.ConfigDict(apart(config)).lock()
