"""Pairs of a masked region and a noun: what OVSeg's CLIP is tuned on [ovseg 5].

`mine` writes them, and anything else may: a folder of ArrayRecord files
`pairs-SPLIT.array_record-00000-of-00012`, one record a pair. A record is a
tf.train.Example with exactly these features:

| feature | list  | content                                                           |
|---------|-------|-------------------------------------------------------------------|
| `image` | bytes | PNG or JPEG, RGB: the tight box of the mask in the photo          |
| `mask`  | bytes | PNG, greyscale of 8 bits, of the same size: 0 outside the region, |
|         |       | any other value inside                                            |
| `noun`  | bytes | UTF-8, the text as it is: 'traffic light', without a template     |
| `score` | float | how well CLIP found them to agree, a cosine; 1 for ground truth   |
| `key`   | bytes | UTF-8, at most 64 bytes, unique: 'PHOTO/NUMBER'                   |

The mask is stored, never recovered from a colour, so the fill is the reader's choice:
what lies outside the mask becomes `FILL` on reading, whatever the file shows there.
Lossless images that are filled already are small; whole boxes serve other fills too.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from array_record.python import array_record_module
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from jaxtyping import Bool, UInt8
from tensorflow_datasets.proto import tf_example_pb2

from maskclip_jax import atomic
from maskclip_jax.data import records
from maskclip_jax.data.records import Record

DATASET = 'pairs'
# CLIP's mean colour, as at inference, rounded to bytes [ovseg 5.8].
FILL = (123, 117, 104)
# Random access needs one record per compressed group.
_WRITER_OPTIONS = 'group_size:1'


@dataclasses.dataclass(frozen=True)
class Pair:
  """One record; the module's docstring describes the fields."""

  image: bytes
  mask: bytes
  noun: str
  score: float
  key: str


def serialise(pair: Pair) -> bytes:
  """Encodes a pair; equal pairs are equal bytes."""
  example = tf_example_pb2.Example()
  feature = example.features.feature
  for name in ('image', 'mask', 'noun', 'key'):
    value = getattr(pair, name)
    data = value.encode() if isinstance(value, str) else value
    feature[name].bytes_list.value.append(data)
  feature['score'].float_list.value.append(pair.score)
  return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> Pair:
  """Decodes a pair.

  Raises:
    ValueError: the bytes are not a pair; says what they lack.
  """
  try:
    feature = tf_example_pb2.Example.FromString(data).features.feature
  except DecodeError:
    raise ValueError(
      f'{len(data)} bytes are not a pair of region and noun: mine them again'
    ) from None
  lists = {name: feature[name].bytes_list.value for name in ('image', 'mask', 'noun')}
  lists['key'] = feature['key'].bytes_list.value
  lists['score'] = feature['score'].float_list.value
  missing = [name for name, values in lists.items() if len(values) != 1]
  if missing:
    raise ValueError(
      f'a record lacks {", ".join(missing)}: pairs have image, mask, noun, score, key'
    )
  values = {name: values[0] for name, values in lists.items()}
  noun, key = (values[name].decode() for name in ('noun', 'key'))
  return Pair(values['image'], values['mask'], noun, values['score'], key)


def shard_name(split: str, number: int, shards: int) -> str:
  """The name of a file of pairs: `number` from 0 of so many `shards`."""
  return f'{DATASET}-{split}.array_record-{number:05}-of-{shards:05}'


def write_shard(path: str | os.PathLike, pairs: Iterable[Pair]) -> int:
  """Writes a file of pairs, whole or not at all; returns how many there are."""
  count = 0
  with atomic.file(path) as part:
    writer = array_record_module.ArrayRecordWriter(str(part), _WRITER_OPTIONS)
    for pair in pairs:
      writer.write(serialise(pair))
      count += 1
    writer.close()
  return count


class PairSource(Sequence[Record]):
  """The pairs of some files as records: the mask is `semantic`, the noun a caption.

  Usable as a grain source; may be pickled to worker processes.
  """

  def __init__(self, paths: Sequence[pathlib.Path]):
    self._data = ArrayRecordDataSource([str(path) for path in paths])

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> Record:
    """Reads a pair.

    Raises:
      IndexError: there is no such pair.
      ValueError: it is damaged.
    """
    if not 0 <= index < len(self):
      raise IndexError(f'there is no pair {index}')
    try:
      return as_record(parse(self._data[index]))
    except RuntimeError as error:
      raise ValueError(f'pair {index} cannot be read ({error}): mine it again') from (
        error
      )


def as_record(pair: Pair) -> Record:
  """A pair as any other stored example; its size is known when it is decoded."""
  return records.make(
    pair.image, pair.key, pair.key, (0, 0), semantic=pair.mask, captions=[pair.noun]
  )


def open_pairs(folder: str | os.PathLike | None, split: str) -> PairSource:
  """Opens the pairs of a split.

  Args:
    folder: what `mine` wrote.
    split: as in the names of the files.

  Raises:
    FileNotFoundError: no folder, no such split, or not all of its files.
    ValueError: a file is damaged.
  """
  if folder is None:
    raise FileNotFoundError('pairs have no place of their own: set data_dir')
  folder = pathlib.Path(folder).expanduser()
  shards = sorted(folder.glob(f'{DATASET}-{split}.array_record-*-of-*'))
  if not shards:
    raise FileNotFoundError(
      f'{folder} has no files {DATASET}-{split}.array_record-*: give the folder that '
      '`mine` wrote as data_dir, and its split'
    )
  wanted = int(shards[0].name.rpartition('-')[2])
  if len(shards) != wanted:
    raise FileNotFoundError(
      f'{folder} holds {len(shards)} of the {wanted} files of the {split} split: run '
      '`mine` again, it goes on where it stopped'
    )
  try:
    return PairSource(shards)
  except RuntimeError as error:
    raise ValueError(
      f'{folder}: a file of pairs is damaged ({error}): delete it and mine it again'
    ) from error


def fill_outside(
  image: UInt8[np.ndarray, 'h w 3'], mask: Bool[np.ndarray, 'h w']
) -> UInt8[np.ndarray, 'h w 3']:
  """The picture with `FILL` where the mask is not.

  Raises:
    ValueError: they differ in size, or the mask covers nothing.
  """
  if mask.shape != image.shape[:2]:
    raise ValueError(
      f'its mask is {mask.shape[0]} x {mask.shape[1]} pixels and its image is '
      f'{image.shape[0]} x {image.shape[1]}'
    )
  if not mask.any():
    raise ValueError('its mask covers no pixel')
  return np.where(mask[..., None], image, np.uint8(FILL))
