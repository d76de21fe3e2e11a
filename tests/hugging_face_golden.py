"""The small networks of transformers whose outputs are recorded, as folders."""

import functools
import json
import pathlib
from typing import Any

import golden
import numpy as np
import seeded

from maskclip_jax.checkpoints.tensor_file import write_tensors


@functools.cache
def _records() -> dict[str, Any]:
  return json.loads((golden.ROOT / 'hugging_face.json').read_text())


def record(name: str) -> dict[str, Any]:
  """The content of the files beside the weights, and the shapes of these."""
  return json.loads(json.dumps(_records()[name]))


def outputs(name: str) -> dict[str, np.ndarray]:
  """The photo, and the mask and class logits of the library."""
  found = golden.load('hugging_face')
  keys = ('photo', 'masks', 'classes')
  return {key: found[f'{name}/{key}'] for key in keys}


def weights(name: str) -> dict[str, np.ndarray]:
  """The tensors that the library saved."""
  return seeded.seeded_state_dict(_records()[name]['shapes'])


def write(
  folder: pathlib.Path, name: str, *, config=None, preprocessor=None
) -> pathlib.Path:
  """A folder as `save_pretrained` leaves it, some fields of its files changed."""
  known = record(name)
  folder.mkdir(parents=True)
  write_tensors(folder / 'model.safetensors', weights(name), {'format': 'pt'})
  for file, content, changes in (
    ('config.json', known['config'], config),
    ('preprocessor_config.json', known['preprocessor'], preprocessor),
  ):
    (folder / file).write_text(json.dumps(content | (changes or {})))
  return folder
