"""The state of an unfinished evaluation: saved whole or not at all, and merged.

A state is a dictionary of plain arrays. It names what it is a state of, so that a run
never continues from another model, protocol or dataset.
"""

import io
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from maskclip_jax import atomic, plain
from maskclip_jax.eval.metrics.metric import State

_KEY = 'key'
# What reading raises where a file was cut or changed.
_ERRORS = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile)


def save(path: pathlib.Path, key: Mapping[str, Any], state: State) -> None:
  """Writes a state; a reader meets the old one or the new one, never half of it.

  Raises:
    OSError: the place cannot be written to, or the disk is full.
  """
  with atomic.file(path) as part, part.open('wb') as file:
    np.savez(file, **state, **{_KEY: np.array(json.dumps(key, sort_keys=True))})


def load(path: pathlib.Path, key: Mapping[str, Any]) -> State | None:
  """Reads the state of an earlier run; None where there is none.

  Raises:
    ValueError: it is damaged, or it is of another evaluation; says what differs.
  """
  if not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as file:
      state = {name: file[name] for name in file.files}
    found = dict(plain.parse_json(str(state.pop(_KEY)), 'its key'))
  except _ERRORS as error:
    raise ValueError(f'{path} is damaged ({error}): delete it') from None
  wanted = json.loads(json.dumps(key))
  if differ := sorted(
    name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
  ):
    raise ValueError(
      f'{path} is of an evaluation with another {", ".join(differ)}: give another '
      'directory, or delete it'
    )
  return state


def gather(state: State) -> list[State]:
  """The states of all hosts, on every host.

  Their arrays differ in length from host to host, so they travel as bytes.
  """
  if jax.process_count() == 1:
    return [state]
  file = io.BytesIO()
  np.savez(file, **state)
  content = np.frombuffer(file.getvalue(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(len(content), np.int32))
  padded = np.zeros(int(np.max(lengths)), np.uint8)
  padded[: len(content)] = content
  rows = multihost_utils.process_allgather(padded)
  states = []
  for row, length in zip(rows, lengths, strict=True):
    with np.load(io.BytesIO(row[: int(length)].tobytes())) as found:
      states.append({name: found[name] for name in found.files})
  return states
