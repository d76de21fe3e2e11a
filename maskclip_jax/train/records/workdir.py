"""The directory of a run: what it was told, where it ran, and that it is one run.

`config.json`, `command.sh` and `environment.json` say how to make the run again;
`start.json` says which files it started from. A run resumes in its own directory only,
with the same configuration; what changes no result may change.
"""

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from maskclip_jax import atomic, locks, plain
from maskclip_jax._version import __version__
from maskclip_jax.train.checkpoint import DIRECTORY
from maskclip_jax.train.config import TrainConfig, read
from maskclip_jax.train.records.log import METRICS

CONFIG, START = 'config.json', 'start.json'
_LOCK = '.lock'
# Fields that change speed, or what is shown and kept, and no result.
_FREE = ('mesh', 'log', 'checkpoint', 'remat', 'data.workers', 'data.threads')
_FREE += ('data.prefetch', 'data.data_dir')
_FREE += ('eval.data_dir', 'eval.batch_size', 'eval.save_every')
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other processes out of a directory; made if need be, and removed if empty.

  Raises:
    ValueError: another process trains there.
  """
  if jax.process_index() != 0:
    yield
    return
  made = [place for place in (workdir, *workdir.parents) if not place.exists()]
  workdir.mkdir(parents=True, exist_ok=True)
  try:
    with locks.exclusive(workdir / _LOCK):
      yield
  except locks.Locked as error:
    raise ValueError(
      f'{error} trains in {workdir}: wait for it, stop it, or choose another --workdir'
    ) from error
  finally:
    for place in made:
      with contextlib.suppress(OSError):
        place.rmdir()


def check(workdir: pathlib.Path, config: TrainConfig) -> None:
  """Finds that a directory is free, or this run's already.

  Raises:
    ValueError: it belongs to a run of another configuration, or to something else.
  """
  path = workdir / CONFIG
  if path.exists():
    if _begun(workdir):
      _compare(path, _todays(plain.read_json(path)), _values(config))
  elif workdir.exists() and (not workdir.is_dir() or _holds_files(workdir)):
    raise ValueError(
      f'{workdir} exists and holds no run: choose an empty or a new --workdir'
    )


def _holds_files(workdir: pathlib.Path) -> bool:
  return any(entry.name != _LOCK for entry in workdir.iterdir())


def _begun(workdir: pathlib.Path) -> bool:
  """Whether a run has made a step: a start that failed claims no directory."""
  metrics = workdir / METRICS
  logged = metrics.is_file() and metrics.stat().st_size > 0
  return logged or any(workdir.glob(f'{DIRECTORY}/step_*'))


def claim(
  workdir: pathlib.Path,
  config: TrainConfig,
  command: Sequence[str],
  record: Sequence[Mapping[str, str]],
) -> None:
  """Makes a directory this run's, if it is not already.

  Args:
    workdir: a directory that `check` has found to be free or this run's.
    config: the run's configuration.
    command: what was typed, for the records.
    record: what the run starts from.

  Raises:
    OSError: it cannot be written.
    ValueError: a file that the run started from is another one now.
  """
  path = workdir / CONFIG
  if path.exists() and _begun(workdir):
    _check_start(workdir, record)
    return
  if jax.process_index() != 0:
    return
  environment = {
    'maskclip_jax': __version__,
    'python': platform.python_version(),
    'machine': platform.platform(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
    'processes': jax.process_count(),
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
  }
  _write_json(workdir / 'environment.json', environment)
  atomic.write(workdir / 'command.sh', f'#!/bin/sh\n{shlex.join(command)}\n')
  _write_json(workdir / START, [dict(row) for row in record])
  _write_json(path, plain.to_dict(config))


def _check_start(workdir: pathlib.Path, record: Sequence[Mapping[str, str]]) -> None:
  recorded = plain.read_json(workdir / START)
  try:
    fingerprints = [before['fingerprint'] for before in recorded]
  except (KeyError, TypeError):
    raise ValueError(
      f'{workdir / START} was changed: choose another --workdir'
    ) from None
  for before, now in zip(fingerprints, record, strict=False):
    if before != now['fingerprint']:
      raise ValueError(
        f'{now["source"]} has changed since the run in {workdir} started from it: put '
        'the old one back, or choose another --workdir'
      )


def _values(config: TrainConfig) -> Any:
  """A configuration as JSON brings it back."""
  return json.loads(json.dumps(plain.to_dict(config)))


def _todays(values: Any) -> Any:
  """A recorded configuration by today's names of its fields.

  One that is refused today stays as it is, so that what differs can be named.
  """
  try:
    return _values(read(values))
  except ValueError:
    return values


def _write_json(path: pathlib.Path, value: Any) -> None:
  atomic.write(path, json.dumps(value, indent=2) + '\n')


def _compare(path: pathlib.Path, old: Any, new: Any) -> None:
  changed = [
    f'{name} is {_short(a)} there and {_short(b)} here'
    for name, a, b in _differences(old, new)
    if not any(name == free or name.startswith(f'{free}.') for free in _FREE)
  ]
  if changed:
    more = f' and {len(changed) - 3} more' if len(changed) > 3 else ''
    raise ValueError(
      f'{path.parent} belongs to a run of another configuration: '
      f'{"; ".join(changed[:3])}{more}: choose another --workdir'
    )


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else text[:57] + '...'


def _differences(old: Any, new: Any, where: str = '') -> Iterator[tuple[str, Any, Any]]:
  if isinstance(old, dict) and isinstance(new, dict):
    for name in sorted(set(old) | set(new)):
      inner = f'{where}.{name}' if where else name
      yield from _differences(old.get(name), new.get(name), inner)
  elif old != new:
    yield where, old, new
