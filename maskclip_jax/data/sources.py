"""Opening a built dataset: random access to its stored records.

  source = open_source('coco/base48', 'train', data_dir)
  record = source[0]            # see records.py

A view leaves out the photos that do not count for it; the records themselves are whole.
Which those are is told by a small table beside each split (`Index`), without reading
the records, which are gigabytes; loaders that group photos by shape and the doctor's
counts answer from it too.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Bool, Int32, Int64

from maskclip_jax import places
from maskclip_jax.data import catalogue, pairs, registry
from maskclip_jax.data.records import Record, parse, read_label_map
from maskclip_jax.data.views import View, find_view
from maskclip_jax.places import building_path, dataset_path


class Source(Protocol):
  """Random access to stored records; must survive pickling to worker processes."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


class RecordSource(Sequence[Record]):
  """The records of a split that belong to a view, in the official order.

  Usable as a grain source; may be pickled to worker processes.
  """

  def __init__(
    self,
    data: ArrayRecordDataSource,
    positions: Int64[np.ndarray, ' n'],
    sizes: Int32[np.ndarray, 'n 2'],
  ):
    self._data, self._positions = data, positions
    self.sizes = sizes

  def __len__(self) -> int:
    return len(self._positions)

  def __getitem__(self, index: int) -> Record:
    """Reads a record.

    Raises:
      IndexError: there is no such record.
      ValueError: it is damaged.
    """
    position = int(self._positions[index])
    try:
      return parse(self._data[position])
    except RuntimeError as error:
      raise ValueError(
        f'record {position} cannot be read ({error}): the dataset is damaged, build it '
        'again'
      ) from error


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
    values = read_label_map(record['semantic'])
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


def index_path(folder: pathlib.Path, split: str) -> pathlib.Path:
  """The index of a split in a dataset's folder."""
  return folder / f'{split}.index.npz'


def built_path(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Where a built dataset lies.

  Raises:
    FileNotFoundError: it is not built, or not to the end.
    ValueError: there is no such dataset.
  """
  path = dataset_path(name, data_dir)
  if path.is_dir():
    return path
  started = building_path(name, data_dir).exists()
  state = 'was not built to the end' if started else 'is not built'
  if name in {card.name for card in registry.list_datasets()}:
    how = '--raw DIR ' if registry.find_dataset(name).downloads else ''
  else:
    how = '--from captions --raw DIR '
  raise FileNotFoundError(
    f'{name} {state} in {path.parent.parent}: run python -m maskclip_jax data build '
    f'{name} {how}--data_dir {path.parent.parent}'
  )


def splits(folder: pathlib.Path) -> list[str]:
  """Names of the splits in a dataset's folder."""
  return sorted(path.name.split('.')[0] for path in folder.glob('*.index.npz'))


def open_split(
  name: str, split: str, data_dir: str | os.PathLike | None = None
) -> tuple[ArrayRecordDataSource, Index]:
  """All records of a split as bytes, and what is in them.

  Raises:
    FileNotFoundError: the dataset is not built, has no such split, or lacks a file.
  """
  folder = built_path(name, data_dir)
  if split not in splits(folder):
    raise FileNotFoundError(
      f'{folder} has no split {split!r}: there are {", ".join(splits(folder))}'
    )
  index = Index.load(index_path(folder, split))
  shards = sorted(folder.glob(f'{name}-{split}.array_record-*'))
  wanted = int(shards[0].name.rpartition('-')[2]) if shards else 1
  if len(shards) != wanted:
    raise FileNotFoundError(
      f'{folder} holds {len(shards)} of the {wanted} files of the {split} split: copy '
      'it again whole, or delete it and build it again'
    )
  try:
    data = ArrayRecordDataSource([str(shard) for shard in shards])
  except RuntimeError as error:
    raise ValueError(
      f'{folder}: a file of the {split} split is damaged: copy it again whole, or '
      'delete the folder and build it again'
    ) from error
  if len(data) != len(index):
    raise ValueError(
      f'{folder}: the {split} split has {len(data)} records but its index lists '
      f'{len(index)}: delete the folder and build it again'
    )
  return data, index


def open_source(
  view: View | str,
  split: str,
  data_dir: str | os.PathLike | None = None,
  *,
  trainable: bool = False,
) -> Source:
  """Opens a split of a built dataset as a view reads it.

  Args:
    view: a view or its name, 'coco/base48'; one of a dataset of TFDS's own catalogue
      ('tfds_coco/panoptic') reads what TFDS prepared.
    split: 'train', 'val', ...
    data_dir: where the datasets lie; TFDS's own place by default. Pairs lie in a folder
      of their own, which has to be given.
    trainable: leave out photos without anything to learn for the view.

  Raises:
    FileNotFoundError: the dataset is not built, has no such split, or lacks a file.
    ValueError: no such view, or the dataset was built without what it reads.
  """
  if isinstance(view, str):
    view = find_view(view, data_dir)
  if view.dataset in catalogue.DATASETS:
    return catalogue.open_catalogue(view.dataset, split, data_dir or places.DATA_DIR)
  if view.dataset == pairs.DATASET:
    return pairs.open_pairs(data_dir, split)
  data, index = open_split(view.dataset, split, data_dir)
  positions = index.select(view, trainable=trainable)
  sizes = np.stack([index.height, index.width], axis=1)
  return RecordSource(data, positions, sizes[positions])
