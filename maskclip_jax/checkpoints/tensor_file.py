"""Safetensors files, one tensor at a time.

The format is eight bytes of header length, a JSON header, and raw little-endian
arrays. Reading with plain file reads instead of a memory map, and writing without first
gathering all bytes, keeps memory at one copy of the model.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from maskclip_jax import plain
from maskclip_jax.names import shown

DTYPES = {
  'F64': np.dtype('<f8'),
  'F32': np.dtype('<f4'),
  'F16': np.dtype('<f2'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
  'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
  'I64': np.dtype('<i8'),
  'I32': np.dtype('<i4'),
  'I16': np.dtype('<i2'),
  'I8': np.dtype('i1'),
  'U64': np.dtype('<u8'),
  'U32': np.dtype('<u4'),
  'U16': np.dtype('<u2'),
  'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The longest header the reference implementation accepts.
_MAX_HEADER = 100_000_000


class TensorFile(Mapping[str, np.ndarray]):
  """Name -> array of a safetensors file; every look-up reads the tensor anew.

  Attributes:
    path: the file.
    metadata: the header's free text.

  Raises:
    ValueError: the file is not safetensors, or cut short; found on opening.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    size = self.path.stat().st_size
    with self.path.open('rb') as file:
      header, self._start = _read_header(file, self.path, size)
    # Some writers put null there for none.
    self.metadata: dict[str, str] = header.pop('__metadata__', None) or {}
    if not isinstance(self.metadata, dict):
      raise ValueError(f'{self.path}: __metadata__ of the header is not a table')
    self._entries = {name: _parse(entry) for name, entry in header.items()}
    if bad := [name for name, entry in self._entries.items() if entry is None]:
      raise ValueError(
        f'{self.path}: the header describes {shown(bad[0])} in a wrong way'
      )
    needed = self._start + max((e[2] for e in self._entries.values()), default=0)
    if size < needed:
      raise ValueError(
        f'{self.path} is cut short: {size} of {needed} bytes; download or copy it again'
      )

  def __getitem__(self, name: str) -> np.ndarray:
    dtype, shape, end = self._entries[name]
    length = math.prod(shape)
    array = np.fromfile(
      self.path, dtype, length, offset=self._start + end - length * dtype.itemsize
    )
    return array.reshape(shape)

  def __iter__(self) -> Iterator[str]:
    return iter(self._entries)

  def __len__(self) -> int:
    return len(self._entries)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Name -> shape, from the header alone."""
    return {name: shape for name, (_, shape, _) in self._entries.items()}

  def places(self) -> dict[str, tuple[int, int]]:
    """Name -> where its bytes begin in the file, and how many they are."""
    lengths = {
      name: math.prod(shape) * dtype.itemsize
      for name, (dtype, shape, _) in self._entries.items()
    }
    return {
      name: (self._start + self._entries[name][2] - length, length)
      for name, length in lengths.items()
    }


class Tensors(Mapping[str, np.ndarray]):
  """Tensors of several files, or under other names; a look-up reads the tensor anew.

  Args:
    places: name -> where it is, and its name there.
  """

  def __init__(self, places: Mapping[str, tuple[Mapping[str, np.ndarray], str]]):
    self._places = dict(places)

  def __getitem__(self, name: str) -> np.ndarray:
    tensors, there = self._places[name]
    return tensors[there]

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __len__(self) -> int:
    return len(self._places)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Name -> shape, where possible without reading a tensor."""
    sources = {id(tensors): tensors for tensors, _ in self._places.values()}
    known = {key: shapes_of(tensors) for key, tensors in sources.items()}
    return {
      name: known[id(tensors)][there] for name, (tensors, there) in self._places.items()
    }


def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
  """Name -> shape, where possible without reading a tensor."""
  if isinstance(tensors, TensorFile | Tensors):
    return tensors.shapes()
  return {name: array.shape for name, array in tensors.items()}


def without_prefix(
  tensors: Mapping[str, np.ndarray], prefix: str
) -> Mapping[str, np.ndarray]:
  """The tensors below a prefix, their names without it."""
  return Tensors(
    {
      name.removeprefix(prefix): (tensors, name)
      for name in tensors
      if name.startswith(prefix)
    }
  )


def is_header_length(start: bytes) -> bool:
  """Whether the first eight bytes of a file can be the length of a header."""
  return 2 <= int.from_bytes(start, 'little') <= _MAX_HEADER


def _read_header(file, path: pathlib.Path, size: int) -> tuple[dict, int]:
  start = file.read(8)
  length = int.from_bytes(start, 'little')
  if not is_header_length(start):
    raise ValueError(f'{path} is not a safetensors file')
  if size < 8 + length:
    raise ValueError(
      f'{path} is cut short inside its header; download or copy it again'
    )
  try:
    header = plain.parse_json(file.read(length), path)
  except ValueError as error:
    raise ValueError(f'{path} is not a safetensors file: no JSON header') from error
  if not isinstance(header, dict):
    raise ValueError(f'{path} is not a safetensors file: no JSON header')
  return header, 8 + length


def _parse(entry) -> tuple[np.dtype, tuple[int, ...], int] | None:
  """(dtype, shape, end offset) of a header entry, None where it contradicts itself."""
  match entry:
    case {
      'dtype': str(name),
      'shape': [*shape],
      'data_offsets': [int(start), int(end)],
    }:
      if name not in DTYPES or not all(type(n) is int and n >= 0 for n in shape):
        return None
      if start >= 0 and end - start == math.prod(shape) * DTYPES[name].itemsize:
        return DTYPES[name], tuple(shape), end
  return None


def write_tensors(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a safetensors file and waits until it is on the disk.

  Args:
    path: the file, replaced if it exists.
    tensors: name -> array; read twice, one at a time.
    metadata: free text for the header.

  Raises:
    ValueError: a dtype the format does not have.
    OSError: the file cannot be written.
  """
  header, offset = {'__metadata__': dict(metadata or {})}, 0
  for name in sorted(tensors):
    array = tensors[name]
    if (kind := _NAMES.get(np.dtype(array.dtype).newbyteorder('<'))) is None:
      raise ValueError(f'{name}: {array.dtype} cannot be stored in a safetensors file')
    end = offset + array.size * array.dtype.itemsize
    header[name] = {
      'dtype': kind,
      'shape': list(array.shape),
      'data_offsets': [offset, end],
    }
    offset = end
  text = json.dumps(header, separators=(',', ':')).encode()
  # Padding with blanks starts the arrays on a multiple of eight bytes.
  text += b' ' * (-len(text) % 8)
  with open(path, 'wb') as file:
    file.write(len(text).to_bytes(8, 'little'))
    file.write(text)
    for name in sorted(tensors):
      array = np.asarray(tensors[name])
      dtype = array.dtype.newbyteorder('<')
      file.write(np.ascontiguousarray(array, dtype).reshape(-1).view(np.uint8).data)
    file.flush()
    os.fsync(file.fileno())
