"""Bundles: the form in which models are kept and passed on.

A bundle is a directory of three files: `model.safetensors` (flat parameters),
`config.json` (everything but the weights) and `MODEL_CARD.md` (for people); and
`tokenizer.json` where its CLIP has a tokenizer of its own. It is written beside its
place and moved there whole, and reading it takes numpy alone.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskclip_jax import atomic, plain
from maskclip_jax._version import __version__
from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.names import shown

FORMAT_VERSION = 1
CONFIG, TENSORS, CARD = 'config.json', 'model.safetensors', 'MODEL_CARD.md'
# The tokenizer of a CLIP that does not have CLIP's own.
TOKENIZER = 'tokenizer.json'

# The bundle that a training run ends with, in its workdir.
OF_RUN = 'bundle'

# What its config has to hold, and what it may hold besides.
_FIELDS = {
  'format_version': int,
  'library_version': str,
  'preset': dict,
  'fingerprint': str,
}
_OPTIONAL = {'text_fingerprint': str | None, 'source': dict}

_TEXT_TOWER = 'text/'
# In the header of the tensors: ties them to their config.
_SUM = 'fingerprint'


@dataclasses.dataclass(frozen=True)
class Bundle:
  """An opened bundle; tensors are read when they are looked up.

  Attributes:
    directory: where it lies.
    config: the preset as plain values: system, sizes, pre- and post-processing.
    parameters: path -> array.
    fingerprint: sha256 of all parameters.
    text_fingerprint: sha256 of CLIP's text tower, the same in every bundle that holds
      the same tower; None without one.
    source: where the weights come from: file names, sha256 sums, layout.
    library_version: the version that wrote it.
  """

  directory: pathlib.Path
  config: dict[str, Any]
  parameters: Mapping[str, np.ndarray]
  fingerprint: str
  text_fingerprint: str | None
  source: dict[str, Any]
  library_version: str

  @property
  def tokenizer(self) -> pathlib.Path | None:
    """The file of its tokenizer, if it has one."""
    path = self.directory / TOKENIZER
    return path if path.is_file() else None


def fingerprints(parameters: Mapping[str, np.ndarray]) -> tuple[str, str | None]:
  """sha256 of names, shapes, types and bytes: of everything, and of the text tower."""
  whole, text, has_text = hashlib.sha256(), hashlib.sha256(), False
  for path in sorted(parameters):
    array = np.asarray(parameters[path])
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    described = f'{array.dtype.name} {array.shape}\n'.encode()
    _update(whole, path, described, content)
    if (start := f'/{path}'.find(f'/{_TEXT_TOWER}')) >= 0:
      has_text = True
      _update(text, path[start:], described, content)
  return whole.hexdigest(), text.hexdigest() if has_text else None


def _update(digest, path: str, described: bytes, content: np.ndarray) -> None:
  digest.update(path.encode() + b' ' + described)
  digest.update(content.data)


def is_bundle(directory: str | os.PathLike) -> bool:
  """True where a directory holds what `save` writes."""
  path = pathlib.Path(directory)
  if not (path / CONFIG).is_file() or not (path / TENSORS).is_file():
    return False
  try:
    content = plain.read_json(path / CONFIG)
  except (OSError, ValueError):
    return False
  # Repositories of Hugging Face have files of the same names.
  return isinstance(content, dict) and set(_FIELDS) <= set(content)


def holds(tensors: Mapping[str, np.ndarray]) -> bool:
  """Whether tensors of a file are those of a bundle."""
  return isinstance(tensors, TensorFile) and _SUM in tensors.metadata


def locate(directory: str | os.PathLike) -> pathlib.Path:
  """The bundle that a directory is, or that the training run in it ended with."""
  path = pathlib.Path(directory)
  if not is_bundle(path) and is_bundle(path / OF_RUN):
    return path / OF_RUN
  return path


def check_target(directory: str | os.PathLike) -> None:
  """Fails early where `save` could not put a bundle.

  Raises:
    ValueError: something else is there.
    OSError: the place is not writable.
  """
  atomic.check_folder(directory, 'bundle', is_bundle)


def save(
  directory: str | os.PathLike,
  config: Mapping[str, Any],
  parameters: Mapping[str, np.ndarray],
  *,
  source: Mapping[str, Any] | None = None,
  card: str = '',
  tokenizer: pathlib.Path | None = None,
) -> None:
  """Writes a bundle; an existing bundle is replaced only once the new one is whole.

  Args:
    directory: the bundle; parents are made.
    config: the preset as plain JSON values.
    parameters: path -> array, read one at a time.
    source: where the weights come from.
    card: the text of MODEL_CARD.md.
    tokenizer: a tokenizer's file, which is copied.

  Raises:
    ValueError: the directory holds something else.
    OSError: it cannot be written (no permission, disk full); nothing is left behind.
  """
  check_target(directory)
  path = pathlib.Path(directory).absolute()
  whole, text = fingerprints(parameters)
  content = {
    'format_version': FORMAT_VERSION,
    'library_version': __version__,
    'preset': dict(config),
    'fingerprint': whole,
    'text_fingerprint': text,
    'source': dict(source or {}),
  }
  with atomic.directory(path) as partial:
    write_tensors(partial / TENSORS, parameters, {_SUM: whole})
    (partial / CONFIG).write_text(json.dumps(content, indent=2) + '\n')
    (partial / CARD).write_text(card)
    if tokenizer is not None:
      shutil.copyfile(tokenizer, partial / TOKENIZER)


def load(directory: str | os.PathLike) -> Bundle:
  """Opens a bundle. No tensor is read yet.

  Raises:
    FileNotFoundError: the directory or one of its files is missing.
    ValueError: not a directory, a damaged file, another format version, or a config
      that belongs to other tensors.
  """
  path = pathlib.Path(directory)
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist')
  if not path.is_dir():
    raise ValueError(f'{path} is a file: give the directory of a bundle')
  for name in (CONFIG, TENSORS):
    if not (path / name).is_file():
      raise FileNotFoundError(f'{path} is not a bundle: it has no {name}')
  content = _read_config(path / CONFIG)
  parameters = TensorFile(path / TENSORS)
  if parameters.metadata.get(_SUM) != content['fingerprint']:
    raise ValueError(
      f'{path}: {CONFIG} and {TENSORS} do not belong together; convert the model again'
    )
  return Bundle(
    path,
    content['preset'],
    parameters,
    content['fingerprint'],
    content.get('text_fingerprint'),
    content.get('source', {}),
    content['library_version'],
  )


def _read_config(path: pathlib.Path) -> dict[str, Any]:
  content = plain.read_json(path)
  if not isinstance(content, dict) or not set(_FIELDS) <= set(content):
    raise ValueError(
      f'{path} is not the config of a bundle: a checkpoint must be converted first'
    )
  for name, kind in (_FIELDS | _OPTIONAL).items():
    if name in content and not isinstance(content[name], kind):
      raise ValueError(f'{path}: {name} cannot be {shown(content[name])}')
  if content['format_version'] != FORMAT_VERSION:
    raise ValueError(
      f'{path} has format version {content["format_version"]}; maskclip_jax '
      f'{__version__} reads version {FORMAT_VERSION}'
    )
  return content
