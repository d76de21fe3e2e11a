"""Opens official checkpoints: safetensors, PyTorch files, and flat JAX trees.

Nothing in a file is ever executed. PyTorch files are opened by PyTorch itself, in its
weights-only mode; archives that carry code and pickles that need some are refused with
a line that says what to do instead.
"""

import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from maskclip_jax.checkpoints.tensor_file import TensorFile

# Where OpenAI's weights are published as safetensors [masqclip 1.6].
OPENAI_CLIP_REPOSITORIES = {
  'ViT-B/32': 'timm/vit_base_patch32_clip_224.openai',
  'ViT-B/16': 'timm/vit_base_patch16_clip_224.openai',
  'ViT-L/14': 'timm/vit_large_patch14_clip_224.openai',
  'ViT-L/14@336px': 'timm/vit_large_patch14_clip_336.openai',
}
OPENAI_CLIP_FILE = 'open_clip_model.safetensors'

# Entries of a training checkpoint that hold the state dict, and the prefix that
# data-parallel training puts before every key.
_WRAPPERS = ('model', 'state_dict')
_PARALLEL = 'module.'

_PICKLE_START = b'\x80'
_SAFETENSORS_HEADER = b'{'


def read_checkpoint(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
  """Official key -> array of a checkpoint file, told by its bytes and not its name.

  `model` and `state_dict` entries are unwrapped and `module.` prefixes removed.
  Safetensors are read lazily, tensor by tensor. PyTorch files need the `torch` extra.

  Args:
    path: `.safetensors`, `.pth`, `.pt`, `.bin`, `.npz` or `.msgpack`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a directory, an empty, truncated or foreign file, one that would have to
      execute code, or PyTorch is not installed.
  """
  path = pathlib.Path(path)
  try:
    with path.open('rb') as file:
      start = file.read(512)
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path} does not exist') from error
  except IsADirectoryError as error:
    raise ValueError(f'{path} is a directory: {_suggest(path)}') from error
  except OSError as error:
    raise ValueError(f'cannot read {path}: {error.strerror}') from error
  return _without_parallel_prefix(_reader(path, start)(path))


def _suggest(directory: pathlib.Path) -> str:
  files = sorted(
    p.name
    for p in directory.iterdir()
    if p.suffix in ('.safetensors', '.pth', '.pt', '.bin', '.npz', '.msgpack')
  )
  if not files:
    return 'give the checkpoint file itself'
  return f'give a file in it, such as {directory / files[0]}'


def _reader(path: pathlib.Path, start: bytes) -> Callable:
  """The function that opens a file whose first bytes are `start`."""
  if not start:
    raise ValueError(f'{path} is empty: the download or copy did not finish')
  if start.startswith(b'version https://git-lfs'):
    raise ValueError(
      f'{path} is a Git LFS pointer, not the checkpoint: run git lfs pull'
    )
  if start.lstrip()[:15].lower().startswith((b'<!doctype html', b'<html')):
    raise ValueError(
      f'{path} is a web page, not a checkpoint: the download stopped at a confirmation '
      'page; download it in a browser'
    )
  if start.startswith(b'PK\x03\x04'):
    return _read_zip
  if start.startswith(_PICKLE_START):
    return _read_pickle
  if start[8:9] == _SAFETENSORS_HEADER:
    return TensorFile
  if path.suffix == '.msgpack':
    return _read_msgpack
  raise ValueError(
    f'{path} is not a checkpoint we know: expected safetensors, a PyTorch file, .npz '
    'or .msgpack'
  )


def _read_zip(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  except zipfile.BadZipFile as error:
    raise ValueError(
      f'{path} is damaged or cut short: download or copy it again'
    ) from error
  if names and all(name.endswith('.npy') for name in names):
    return _read_npz(path)
  if any('/code/' in name for name in names):
    where = ', '.join(f'{size}: {r}' for size, r in OPENAI_CLIP_REPOSITORIES.items())
    raise ValueError(
      f'{path} is a TorchScript archive, which carries code and is not opened; '
      f"OpenAI's CLIP weights are published as {OPENAI_CLIP_FILE} in the repositories "
      f'{where}'
    )
  if not any(name.endswith('data.pkl') for name in names):
    raise ValueError(f'{path} is a zip archive, but not a PyTorch checkpoint')
  return _read_torch(path)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{path} cannot be read as plain arrays: {error}') from error


def _read_msgpack(path: pathlib.Path) -> dict[str, np.ndarray]:
  """A tree saved by flax, flattened with '/'."""
  from flax import serialization, traverse_util

  try:
    tree = serialization.msgpack_restore(path.read_bytes())
  except (ValueError, TypeError) as error:
    raise ValueError(f'{path} is not a msgpack tree of arrays: {error}') from error
  if not isinstance(tree, dict):
    raise ValueError(f'{path} is not a msgpack tree of arrays')
  return traverse_util.flatten_dict(tree, sep='/')


def _read_pickle(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """A bare pickle: PyTorch's format before 1.6, or detectron2's arrays."""
  if not _is_legacy_torch(path):
    raise ValueError(
      f'{path} is a plain pickle, which can execute code and is not opened; where you '
      "trust it (detectron2's model zoo), read it with pickle once and save the arrays "
      "of its 'model' entry with safetensors.numpy.save_file"
    )
  return _read_torch(path)


def _is_legacy_torch(path: pathlib.Path) -> bool:
  """True where the file begins with the magic number of PyTorch's old format.

  The number stands in a pickle of its own: protocol, a ten-byte integer, stop.
  """
  magic = 0x1950A86A20F9469CFC6C
  with path.open('rb') as file:
    start = file.read(15)
  return start[2:4] == b'\x8a\x0a' and start[4:14] == magic.to_bytes(10, 'little')


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      f'{path} is a PyTorch file, and PyTorch is not installed: pip install '
      'maskclip_jax[torch], or convert it to safetensors'
    ) from error
  mapped = zipfile.is_zipfile(path)
  try:
    content = torch.load(path, map_location='cpu', weights_only=True, mmap=mapped)
  except pickle.UnpicklingError as error:
    raise ValueError(
      f'{path} holds Python objects besides tensors, which could execute code, and is '
      'not opened; where you trust it, load it with torch once and save its state dict '
      'alone with torch.save'
    ) from error
  except (RuntimeError, EOFError, OSError, ValueError) as error:
    raise ValueError(
      f'{path} is damaged or cut short: download or copy it again'
    ) from error
  return {
    key: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    for key, tensor in _state_dict(content, path, torch.Tensor).items()
  }


def _state_dict(content, path: pathlib.Path, tensor_type: type) -> dict:
  """The entry of a training checkpoint that holds the tensors."""
  for name in _WRAPPERS:
    if isinstance(content, dict) and isinstance(content.get(name), dict):
      content = content[name]
  if not isinstance(content, dict) or not content:
    raise ValueError(f'{path} holds a {type(content).__name__}, not a state dict')
  if others := [k for k, v in content.items() if not isinstance(v, tensor_type)]:
    raise ValueError(
      f'{path} holds no state dict: {others[0]!r} is not a tensor; the tensors are '
      f'expected at the top or below {" or ".join(map(repr, _WRAPPERS))}'
    )
  return content


def _without_parallel_prefix(arrays: Mapping) -> Mapping[str, np.ndarray]:
  if not arrays or not all(key.startswith(_PARALLEL) for key in arrays):
    return arrays
  return {key.removeprefix(_PARALLEL): arrays[key] for key in arrays}
