"""The ledger: every evaluation's numbers with all that decided them.

`results.json` holds one evaluation: numbers named by protocol, the protocol itself,
fingerprints of model, words and data, versions, device, seed and time. A directory of
such files is the ledger of a project; `compare.py` prints it.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import math
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax

from maskclip_jax import atomic, plain
from maskclip_jax._version import __version__
from maskclip_jax.eval.runner import Evaluation
from maskclip_jax.names import shown
from maskclip_jax.results import files as result_files

FORMAT = 1
RESULTS = 'results.json'
# What can move a number.
_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'numpy',
  'pillow',
  'opencv-python-headless',
  'pycocotools',
)


@dataclasses.dataclass(frozen=True)
class Subject:
  """What was evaluated, as a person names it.

  Attributes:
    name: the model's directory, or its name in the zoo.
    preset: its name in the zoo, if it has one.
    dtype: compute type.
    seed: the seed of random weights; None for a trained model.
  """

  name: str
  preset: str | None = None
  dtype: str = 'float32'
  seed: int | None = None


def entry(
  evaluation: Evaluation, subject: Subject, wall_seconds: float
) -> dict[str, Any]:
  """An evaluation as plain JSON values; undefined numbers are null."""
  protocol = evaluation.run.protocol
  metrics = evaluation.metrics
  numbers = {
    f'{evaluation.name}/{name}': _number(value)
    for name, value in metrics.values.items()
  }
  return {
    'format': FORMAT,
    'evaluation': evaluation.name,
    'about': protocol.about,
    'headline': [f'{evaluation.name}/{name}' for name in protocol.headline],
    'numbers': numbers,
    'model': {**dataclasses.asdict(subject), 'fingerprint': evaluation.key['model']},
    'examples': evaluation.examples,
    'settings': dict(evaluation.key),
    'options': dict(evaluation.run.settings.options),
    'versions': versions(),
    'device': evaluation.devices,
    'seconds': {k: round(v, 3) for k, v in evaluation.seconds.items()},
    'wall_seconds': round(wall_seconds, 3),
    'finished': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'per_class': {
      'class': list(evaluation.class_names),
      **{
        name: [_number(value) for value in column.tolist()]
        for name, column in metrics.per_class.items()
      },
    },
  }


def _number(value: float) -> float | None:
  return None if math.isnan(value) else float(value)


def versions() -> dict[str, str]:
  """Versions of what can move a number."""
  found = {'maskclip_jax': __version__, 'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return {**found, 'backend': jax.default_backend()}


# What tables are made of.
_READ = {
  'evaluation': str,
  'headline': list,
  'numbers': dict,
  'model': dict,
  'model.name': str,
  'model.fingerprint': str | None,
  'model.seed': int | None,
  'examples': int,
  'settings': dict,
  'settings.data': dict | None,
  'settings.data.photos': int | None,
  'settings.data.published_photos': int | None,
  'finished': str,
}
_MAY_LACK = {name for name in _READ if name.startswith('settings.')}


def write(directory: str | os.PathLike, content: Mapping[str, Any]) -> pathlib.Path:
  """Writes `results.json` into a directory, whole or not at all.

  Raises:
    OSError: the directory cannot be written to, or the disk is full.
  """
  files = {RESULTS: result_files.json_bytes(dict(content))}
  return atomic.write_together(directory, files)[0]


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Reads an entry.

  Args:
    path: the file, or the directory of an evaluation.

  Raises:
    FileNotFoundError: there is none.
    ValueError: the file is not an entry.
  """
  path = pathlib.Path(path)
  path = path / RESULTS if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(f'{path} does not exist: evaluate first')
  content = plain.read_json(path)
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise ValueError(f'{path} is not a result of an evaluation of format {FORMAT}')
  for name, kind in _READ.items():
    *inside, last = name.split('.')
    holder = functools.reduce(lambda table, key: table.get(key) or {}, inside, content)
    if last not in holder and name not in _MAY_LACK:
      raise ValueError(f'{path} has no {name!r}: evaluate again')
    if not isinstance(value := holder.get(last), kind):
      raise ValueError(f'{path}: {name!r} cannot be {shown(value)}: evaluate again')
  numbers = content['numbers'].values()
  if not all(value is None or isinstance(value, int | float) for value in numbers):
    raise ValueError(f"{path}: 'numbers' are not all numbers: evaluate again")
  if not all(isinstance(name, str) for name in content['headline']):
    raise ValueError(f"{path}: 'headline' is not names: evaluate again")
  return content


def read_all(place: str | os.PathLike) -> list[dict[str, Any]]:
  """The entry in a file, or all entries below a directory, oldest first.

  Raises:
    FileNotFoundError: there is none.
    ValueError: a file is not an entry.
  """
  place = pathlib.Path(place)
  if not place.is_dir():
    return [read(place)]
  paths = sorted(place.rglob(RESULTS))
  if not paths:
    raise FileNotFoundError(f'there is no {RESULTS} below {place}: evaluate first')
  return sorted((read(path) for path in paths), key=lambda e: e['finished'])


def collect(
  source: str | os.PathLike,
  ledger: str | os.PathLike,
  *,
  name: str | None = None,
) -> list[pathlib.Path]:
  """Copies the entries below a directory into a ledger: `<model>/<evaluation>/`.

  An entry takes the place of an earlier one of the same model and evaluation.

  Args:
    source: where evaluations lie.
    ledger: made if need be.
    name: what the model is called there; the last part of its path by default.

  Returns:
    The files that were written.

  Raises:
    FileNotFoundError: there are no evaluations.
    ValueError: a file is not an entry, or the ledger has another model of the name.
    OSError: the ledger cannot be written to.
  """
  ledger = pathlib.Path(ledger)
  planned: dict[pathlib.Path, dict[str, Any]] = {}
  for found in read_all(source):
    model = found['model']
    called = name or pathlib.PurePath(model['name']).name
    found = {**found, 'model': {**model, 'name': called}}
    for other in _entries_of(ledger / called, planned):
      if other['model']['fingerprint'] != model['fingerprint']:
        raise ValueError(
          f'{ledger} has another model called {called!r}: give this one another name'
        )
    planned[ledger / called / folder_name(found['evaluation'])] = found
  return [write(directory, content) for directory, content in planned.items()]


def _entries_of(folder: pathlib.Path, planned) -> list[dict[str, Any]]:
  """Entries of a model in the ledger, and those that are about to be."""
  new = [entry for place, entry in planned.items() if place.parent == folder]
  return [*(read(path) for path in folder.glob(f'*/{RESULTS}')), *new]


def folder_name(evaluation: str) -> str:
  """A folder for an evaluation: its name without what file systems or shells refuse."""
  return evaluation.replace(':', '=').replace('/', '_').replace(' ', '_')
