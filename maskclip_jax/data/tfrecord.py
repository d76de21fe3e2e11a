"""Random access to TFRecord files without TensorFlow.

TFDS writes this format by default. A record is its length (8 bytes), a checksum of that
(4), the data, and a checksum of the data (4); skipping from length to length finds all.
"""

import pathlib
import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

_HEAD, _TAIL = 12, 4


class TFRecordSource(Sequence[bytes]):
  """The records of several files, one after another. May be pickled."""

  def __init__(self, paths: Sequence[pathlib.Path]):
    """Finds the records.

    Raises:
      ValueError: a file is cut off.
    """
    self._paths = tuple(paths)
    tables = [_positions(path) for path in self._paths]
    self._file = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    self._table = np.concatenate([*tables, np.zeros((0, 2), np.int64)])

  def __len__(self) -> int:
    return len(self._table)

  def __getitem__(self, index: int) -> bytes:
    start, length = self._table[index].tolist()
    with self._paths[self._file[index]].open('rb') as file:
      file.seek(start)
      return file.read(length)


def _positions(path: pathlib.Path) -> Int64[np.ndarray, 'n 2']:
  """Start and length of every record's data."""
  size = path.stat().st_size
  rows, position = [], 0
  with path.open('rb') as file:
    while position < size:
      file.seek(position)
      head = file.read(_HEAD)
      length = struct.unpack('<Q', head[:8])[0] if len(head) == _HEAD else size
      if position + _HEAD + length + _TAIL > size:
        raise ValueError(f'{path} is cut off after {len(rows)} records: copy it again')
      rows.append((position + _HEAD, length))
      position += _HEAD + length + _TAIL
  return np.array(rows, np.int64).reshape(-1, 2)
