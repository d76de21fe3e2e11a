"""Opening a built dataset: random access to its stored records.

  source = open_source('coco/base48', 'train', data_dir)
  record = source[0]            # see schema.py

A view leaves out the photos that do not count for it; the records themselves are whole.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int32, Int64

from maskclip_jax.data import catalogue, records, registry
from maskclip_jax.data.index import Index
from maskclip_jax.data.schema import VERSION, Record
from maskclip_jax.data.views import View, find_view

# Where TFDS puts its datasets.
DATA_DIR = '~/tensorflow_datasets'


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
      return records.parse(self._data[position])
    except RuntimeError as error:
      raise ValueError(
        f'record {position} cannot be read ({error}): the dataset is damaged, build it '
        'again'
      ) from error


def dataset_path(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Where a dataset lies, whether it is built or not."""
  return pathlib.Path(data_dir or DATA_DIR).expanduser() / name / VERSION


def index_path(folder: pathlib.Path, split: str) -> pathlib.Path:
  """The index of a split in a dataset's folder."""
  return folder / f'{split}.index.npz'


def built_path(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Where a built dataset lies.

  Raises:
    FileNotFoundError: it is not built, or not to the end.
    ValueError: there is no such dataset.
  """
  card = registry.find_dataset(name)
  path = dataset_path(name, data_dir)
  if path.is_dir():
    return path
  started = path.with_name(path.name + '.building').exists()
  state = 'was not built to the end' if started else 'is not built'
  raw = '--raw DIR ' if card.downloads else ''
  raise FileNotFoundError(
    f'{name} {state} in {path.parent.parent}: run python -m maskclip_jax data build '
    f'{name} {raw}--data_dir {path.parent.parent}'
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
      f'{folder}: a file of the {split} split is damaged ({error}): copy it again '
      'whole, or delete the folder and build it again'
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
) -> RecordSource:
  """Opens a split of a built dataset as a view reads it.

  Args:
    view: a view or its name, 'coco/base48'; one of a dataset of TFDS's own catalogue
      ('tfds_coco/panoptic') reads what TFDS prepared.
    split: 'train', 'val', ...
    data_dir: where the datasets lie; TFDS's own place by default.
    trainable: leave out photos without anything to learn for the view.

  Raises:
    FileNotFoundError: the dataset is not built, has no such split, or lacks a file.
    ValueError: no such view, or the dataset was built without what it reads.
  """
  if isinstance(view, str):
    view = find_view(view)
  if view.dataset in catalogue.DATASETS:
    return catalogue.open_catalogue(view.dataset, split, data_dir or DATA_DIR)
  data, index = open_split(view.dataset, split, data_dir)
  positions = index.select(view, trainable=trainable)
  sizes = np.stack([index.height, index.width], axis=1)
  return RecordSource(data, positions, sizes[positions])
