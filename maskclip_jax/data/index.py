"""A small table beside each split: which labels each photo has, without reading it.

Views that keep only photos with certain classes, loaders that group photos by shape,
and the doctor's counts all answer from it; the records themselves are gigabytes.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64

from maskclip_jax.data import labels
from maskclip_jax.data.schema import Record
from maskclip_jax.data.views import View


@dataclasses.dataclass(frozen=True)
class Ragged:
  """Rows of different lengths: row i is values[offsets[i]:offsets[i + 1]]."""

  offsets: Int64[np.ndarray, ' n+1']
  values: Int32[np.ndarray, ' m']

  @classmethod
  def of(cls, rows: Iterable[Sequence[int]]) -> 'Ragged':
    rows = [np.asarray(row, np.int32) for row in rows]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return cls(offsets, np.concatenate([*rows, np.zeros(0, np.int32)]))

  @classmethod
  def join(cls, parts: Sequence['Ragged']) -> 'Ragged':
    lengths = np.concatenate([part.lengths() for part in parts])
    values = np.concatenate([part.values for part in parts])
    return cls(np.append(0, np.cumsum(lengths)).astype(np.int64), values)

  def lengths(self) -> Int64[np.ndarray, ' n']:
    return np.diff(self.offsets)

  def rows_with(self, flags: Bool[np.ndarray, ' m']) -> Bool[np.ndarray, ' n']:
    """Which rows have a value that is flagged."""
    total = np.append(0, np.cumsum(flags))
    return total[self.offsets[1:]] > total[self.offsets[:-1]]


@dataclasses.dataclass(frozen=True)
class Row:
  """What one record has; the columns of `Index`."""

  image_id: str
  height: int
  width: int
  segments: np.ndarray
  segments_crowd: np.ndarray
  instances: np.ndarray
  instances_crowd: np.ndarray
  semantic: np.ndarray
  captions: int
  subsets: str

  @classmethod
  def of(cls, record: Record) -> 'Row':
    """Reads a record.

    Raises:
      ValueError: its semantic map cannot be decoded; names the photo.
    """
    return cls(
      record['image_id'],
      record['height'],
      record['width'],
      record['segments_info']['category_id'],
      record['segments_info']['crowd'],
      record['instances']['category_id'],
      record['instances']['crowd'],
      _distinct(record),
      len(record['captions']),
      ' '.join(record['subsets']),
    )


def _distinct(record: Record) -> np.ndarray:
  if not record['semantic']:
    return np.zeros(0, np.int32)
  try:
    values = labels.read_label_map(record['semantic'])
  except ValueError as error:
    raise ValueError(
      f'the semantic map of {record["image_id"]}: {error}; build the dataset again'
    ) from error
  return np.flatnonzero(np.bincount(values.reshape(-1)))


@dataclasses.dataclass(frozen=True)
class Index:
  """What is in each example of a split, in file order.

  Attributes:
    image_id: names of the photos.
    height, width: in pixels, before EXIF rotation.
    segments, instances: original category ids of the rows of the tables.
    segments_crowd, instances_crowd: 1 where the row is a crowd.
    semantic: the distinct values in the semantic map.
    captions: how many there are.
    subsets: names, joined by blanks.
  """

  image_id: np.ndarray
  height: Int32[np.ndarray, ' n']
  width: Int32[np.ndarray, ' n']
  segments: Ragged
  segments_crowd: Ragged
  instances: Ragged
  instances_crowd: Ragged
  semantic: Ragged
  captions: Int32[np.ndarray, ' n']
  subsets: np.ndarray

  def __len__(self) -> int:
    return len(self.image_id)

  @classmethod
  def of(cls, rows: Sequence[Row]) -> 'Index':
    """Turns rows into columns."""
    return cls(
      image_id=np.array([row.image_id for row in rows], np.str_),
      height=np.array([row.height for row in rows], np.int32),
      width=np.array([row.width for row in rows], np.int32),
      segments=Ragged.of(row.segments for row in rows),
      segments_crowd=Ragged.of(row.segments_crowd for row in rows),
      instances=Ragged.of(row.instances for row in rows),
      instances_crowd=Ragged.of(row.instances_crowd for row in rows),
      semantic=Ragged.of(row.semantic for row in rows),
      captions=np.array([row.captions for row in rows], np.int32),
      subsets=np.array([row.subsets for row in rows], np.str_),
    )

  @classmethod
  def join(cls, parts: Sequence['Index']) -> 'Index':
    """One index of consecutive shards."""
    columns = {}
    for field in dataclasses.fields(cls):
      values = [getattr(part, field.name) for part in parts]
      ragged = isinstance(values[0], Ragged)
      columns[field.name] = Ragged.join(values) if ragged else np.concatenate(values)
    return cls(**columns)

  def save(self, path: pathlib.Path) -> None:
    """Writes an .npz file."""
    arrays = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, Ragged):
        arrays[f'{field.name}/offsets'] = value.offsets
        arrays[f'{field.name}/values'] = value.values
      else:
        arrays[field.name] = value
    with path.open('wb') as file:
      np.savez_compressed(file, **arrays)

  @classmethod
  def load(cls, path: pathlib.Path) -> 'Index':
    """Reads what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
      columns = {
        field.name: Ragged(file[f'{field.name}/offsets'], file[f'{field.name}/values'])
        if f'{field.name}/offsets' in file
        else file[field.name]
        for field in dataclasses.fields(cls)
      }
    return cls(**columns)

  def select(self, view: View, *, trainable: bool = False) -> Int64[np.ndarray, ' k']:
    """Positions of the examples that belong to a view.

    Args:
      view: how the dataset is read.
      trainable: leave out photos that could teach nothing: no object but crowds, no
        label, no caption [masqclip 7.1].

    Raises:
      ValueError: the dataset was built without what the view reads.
    """
    has = self._has(view)
    if not has.any():
      raise ValueError(
        f'no photo has {view.field} for the view {view.name!r}: the dataset was built '
        'without that part, or only with other classes; build it again with the files '
        'that "data list" names'
      )
    if view.only == 'labelled':
      keep = has
    elif view.only == 'all':
      keep = np.ones(len(self), bool)
    else:
      keep = np.array([view.only in row.split() for row in self.subsets.tolist()])
      if not keep.any():
        raise ValueError(
          f'no photo is on the list {view.only!r} that {view.name!r} reads: build the '
          'dataset again with the file that holds it ("data list" names it)'
        )
    if trainable:
      keep = keep & self._has(view, crowds=False)
    return np.flatnonzero(keep)

  def _has(self, view: View, *, crowds: bool = True) -> Bool[np.ndarray, ' n']:
    if view.field == 'captions':
      return self.captions > 0
    column: Ragged = getattr(self, view.field)
    flags = view.lookup[column.values] >= 0
    if not crowds and view.field == 'instances':
      flags &= self.instances_crowd.values == 0
    return column.rows_with(flags)
