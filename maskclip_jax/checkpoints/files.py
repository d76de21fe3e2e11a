"""Opens official checkpoints: safetensors, PyTorch files, and flat JAX trees.

Nothing in a file is ever executed. PyTorch files are opened by PyTorch itself, in its
weights-only mode; archives that carry code and pickles that need some are refused with
a line that says what to do instead.
"""

import os
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from maskclip_jax.checkpoints.tensor_file import (
  TensorFile,
  Tensors,
  is_header_length,
  without_prefix,
)
from maskclip_jax.names import shown

# Where OpenAI's weights are published as safetensors [masqclip 1.6].
OPENAI_CLIP_REPOSITORIES = {
  'ViT-B/32': 'timm/vit_base_patch32_clip_224.openai',
  'ViT-B/16': 'timm/vit_base_patch16_clip_224.openai',
  'ViT-L/14': 'timm/vit_large_patch14_clip_224.openai',
  'ViT-L/14@336px': 'timm/vit_large_patch14_clip_336.openai',
  'RN50': 'timm/resnet50_clip.openai',
  'RN101': 'timm/resnet101_clip.openai',
  'RN50x4': 'timm/resnet50x4_clip.openai',
  'RN50x16': 'timm/resnet50x16_clip.openai',
  'RN50x64': 'timm/resnet50x64_clip.openai',
}
OPENAI_CLIP_FILE = 'open_clip_model.safetensors'

# Entries of a training checkpoint that hold the state dict; the first that is there.
_WRAPPERS = ('model', 'state_dict', 'module', 'model_state_dict')
# Averages over the training, used where there is nothing else.
_AVERAGES = ('model_ema', 'state_dict_ema', 'ema_state_dict', 'ema')
# What data-parallel training and torch.compile put before every key.
_PREFIXES = ('module.', '_orig_mod.')

_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin', '.npz', '.msgpack')
# What libraries call the weights of a whole model; a folder may hold them by several of
# these names.
_STEMS = ('open_clip_model', 'model', 'open_clip_pytorch_model', 'pytorch_model')
# One file of several: name, number, how many.
_SHARD = re.compile(r'(.+)-(\d{5})-of-(\d{5})(\.\w+)')

# Values that may stand beside the tensors of a state dict.
_BESIDE = (int, float, str, type(None))

_PICKLE_START = b'\x80'
_SAFETENSORS_HEADER = b'{'


def find_weights(path: str | os.PathLike) -> pathlib.Path:
  """The weights file that a path is, or the one in a directory, such as a repository.

  Raises:
    ValueError: the directory holds none, or several of which none goes first.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return path
  files = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file())
  if not files:
    raise ValueError(f'{path} is a directory without weights: give the checkpoint file')
  # Repositories hold the same weights in several forms.
  best = min(files, key=lambda file: _SUFFIXES.index(file.suffix)).suffix
  files = [file for file in files if file.suffix == best]
  names = {file: _SHARD.sub(r'\1\4', file.name) for file in files}
  known = [name for stem in _STEMS if (name := f'{stem}{best}') in names.values()]
  if len({*names.values()} - {*known}) + bool(known) > 1 and known[:1] != [
    OPENAI_CLIP_FILE
  ]:
    listed = ', '.join(file.name for file in files)
    raise ValueError(f'{path} is a directory of several weights, give one: {listed}')
  return next(file for file in files if not known or names[file] == known[0])


def shards(path: pathlib.Path) -> list[pathlib.Path]:
  """All files of the checkpoint that a file belongs to, mostly itself alone.

  Raises:
    ValueError: it is one of several, and others are missing.
  """
  match = _SHARD.fullmatch(path.name)
  if match is None:
    return [path]
  stem, _, count, suffix = match.groups()
  files = [
    path.with_name(f'{stem}-{i:05d}-of-{count}{suffix}')
    for i in range(1, int(count) + 1)
  ]
  if missing := [file.name for file in files if not file.is_file()]:
    raise ValueError(
      f'{path} is one of {len(files)} parts of a checkpoint, and {missing[0]} is not '
      'beside it: fetch all of them'
    )
  return files


def read_checkpoint(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
  """Official key -> array of a checkpoint file, told by its bytes and not its name.

  `model`, `state_dict` and such entries are unwrapped, `module.` and `_orig_mod.`
  prefixes removed, and the parts of a checkpoint in several files put together.
  Safetensors are read lazily, tensor by tensor. PyTorch files need the `torch` extra.

  Args:
    path: `.safetensors`, `.pth`, `.pt`, `.bin`, `.npz` or `.msgpack`, or a directory of
      one of these.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: an empty, truncated or foreign file, one that would have to execute
      code, or PyTorch is not installed.
  """
  path = find_weights(path)
  parts = [_read(part) for part in shards(path)]
  if len(parts) == 1:
    return parts[0]
  places = {name: (tensors, name) for tensors in parts for name in tensors}
  if len(places) < sum(map(len, parts)):
    raise ValueError(
      f'the parts of {path} hold a tensor twice: fetch all of them again'
    )
  return Tensors(places)


def _read(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """The tensors of one file."""
  try:
    with path.open('rb') as file:
      start = file.read(512)
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path} does not exist') from error
  except OSError as error:
    raise ValueError(f'cannot read {path}: {error.strerror}') from error
  tensors = _reader(path, start)(path)
  while prefix := next((p for p in _PREFIXES if _all_start(tensors, p)), None):
    tensors = without_prefix(tensors, prefix)
  return tensors


def _all_start(names: Collection[str], prefix: str) -> bool:
  rest = [name[len(prefix) :] for name in names if name.startswith(prefix)]
  return bool(rest) and all(rest) and len(rest) == len(names)


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
  # Before the others: the length of a header may begin with the byte of a pickle.
  if start[8:9] == _SAFETENSORS_HEADER and is_header_length(start[:8]):
    return TensorFile
  if start.startswith(b'PK\x03\x04'):
    return _read_zip
  if start.startswith(_PICKLE_START):
    return _read_pickle
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
  state = _state_dict(content, path, torch.Tensor)
  return {key: _array(key, tensor, path) for key, tensor in state.items()}


def _array(key: str, tensor: Any, path: pathlib.Path) -> np.ndarray:
  """A tensor of PyTorch as an array; what numpy lacks (bfloat16, float8) as float32."""
  tensor = tensor.detach()
  if tensor.is_floating_point() and tensor.element_size() < 4:
    tensor = tensor if str(tensor.dtype) == 'torch.float16' else tensor.float()
  try:
    return tensor.numpy()
  except (TypeError, RuntimeError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(f'{path}: {shown(key)} is not a plain tensor: {reason}') from None


def _state_dict(content: Any, path: pathlib.Path, tensor_type: type) -> dict:
  """The entry of a training checkpoint that holds the tensors."""
  while isinstance(content, dict):
    entries = (content.get(name) for name in (*_WRAPPERS, *_AVERAGES))
    inner = next((entry for entry in entries if isinstance(entry, dict)), None)
    if inner is None:
      break
    content = inner
  if not isinstance(content, dict) or not content:
    raise ValueError(f'{path} holds a {type(content).__name__}, not a state dict')
  # Counters and names among the tensors are not weights.
  state = {k: v for k, v in content.items() if not isinstance(v, _BESIDE)}
  others = [k for k, v in state.items() if not isinstance(v, tensor_type)]
  if others := others or [k for k in state if not isinstance(k, str)]:
    raise ValueError(
      f'{path} holds no state dict: {shown(others[0])} is not a tensor with a name; '
      'the tensors are expected at the top or below '
      + ' or '.join(map(repr, _WRAPPERS))
    )
  if not state:
    raise ValueError(f'{path} holds no tensors, only {", ".join(map(str, content))}')
  return state
