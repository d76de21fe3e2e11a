"""Reading what TFDS prepared itself: `coco/2017_panoptic` and `scene_parse150`.

For users who have these already. Labels are mapped back to the owners' ids. What they
lack cannot be made up: `Prepared.lacks` says it, and no view reads it.
"""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int32
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from maskclip_jax.data import ade20k, records
from maskclip_jax.data.records import Record
from maskclip_jax.data.tfrecord import TFRecordSource
from maskclip_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A dataset of TFDS's catalogue.

  Attributes:
    folder: its name (and config) in TFDS.
    splits: TFDS's name of each split.
    convert: makes a record from a parsed example, the dataset's folder and a name.
    lacks: what our own build has and this has not.
  """

  folder: str
  splits: Mapping[str, str]
  convert: Callable[[Any, pathlib.Path, str], Record]
  lacks: tuple[str, ...]


class CatalogueSource(Sequence[Record]):
  """The records of a split that TFDS prepared. May be pickled."""

  def __init__(
    self, data: Sequence[bytes], name: str, folder: pathlib.Path, split: str
  ):
    self._data, self._name, self._folder, self._split = data, name, folder, split

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> Record:
    """Reads a record; see `RecordSource`."""
    if not -len(self) <= index < len(self):
      raise IndexError(f'{self._name} has no record {index}')
    index = int(index) % len(self)
    feature = tf_example_pb2.Example.FromString(self._data[index]).features.feature
    return DATASETS[self._name].convert(
      feature, self._folder, f'{self._split}-{index:08d}'
    )

  @functools.cached_property
  def sizes(self) -> Int32[np.ndarray, 'n 2']:
    """Height and width of every photo. Reads all of them: TFDS stores no sizes."""
    records = (self[index] for index in range(len(self)))
    rows = [(record['height'], record['width']) for record in records]
    return np.array(rows, np.int32).reshape(-1, 2)


def open_catalogue(
  name: str, split: str, data_dir: str | os.PathLike
) -> CatalogueSource:
  """Opens a split of a dataset that TFDS prepared, as ArrayRecord or TFRecord.

  Args:
    name: 'tfds_coco' or 'tfds_scene_parse150'.
    split: 'train' or 'val'.
    data_dir: TFDS's data_dir.

  Raises:
    ValueError: no such dataset or split, or a damaged file.
    FileNotFoundError: TFDS has not prepared it there.
  """
  if name not in DATASETS:
    raise ValueError(f'no dataset {name!r}: there are {", ".join(DATASETS)}')
  dataset = DATASETS[name]
  if split not in dataset.splits:
    raise ValueError(f'{name} has no split {split!r}: there are train and val')
  root = pathlib.Path(data_dir).expanduser() / dataset.folder
  versions = sorted(path.parent for path in root.glob('*/dataset_info.json'))
  if not versions:
    raise FileNotFoundError(
      f'TFDS has prepared no {dataset.folder} in {data_dir}: build our own (python -m '
      'maskclip_jax data list), it has more in it'
    )
  folder = versions[-1]
  files = sorted(folder.glob(f'*-{dataset.splits[split]}.*record-*-of-*'))
  if not files or len(files) != int(files[0].name.rpartition('-')[2]):
    raise FileNotFoundError(
      f'{folder} has {len(files)} files of the {dataset.splits[split]} split, which '
      'are not all: prepare it again'
    )
  if 'array_record' in files[0].name:
    data = ArrayRecordDataSource([str(path) for path in files])
  else:
    data = TFRecordSource(files)
  return CatalogueSource(data, name, folder, split)


@functools.cache
def _coco_ids(folder: pathlib.Path) -> Int32[np.ndarray, ' 133']:
  """COCO category id of each TFDS label, by the names that TFDS wrote down.

  Raises:
    ValueError: the list of names is not COCO's.
  """
  classes = Vocabulary.named('coco-panoptic-133').classes
  by_name = {category.name: category.id for category in classes}
  path = folder / 'panoptic_objects-label.labels.txt'
  # Without the list, labels count the JSON's categories, which ascend in id.
  names = path.read_text().splitlines() if path.exists() else list(by_name)
  if set(names) != set(by_name):
    raise ValueError(
      f"{path} does not list COCO's 133 panoptic classes: the dataset was changed"
    )
  return np.array([by_name[name] for name in names], np.int32)


def _coco(feature: Any, folder: pathlib.Path, name: str) -> Record:
  """`coco/2017_panoptic`: labels were renumbered and boxes made relative."""
  del name
  photo = feature['image'].bytes_list.value[0]
  height, width = _size(photo)
  classes = Vocabulary.named('coco-panoptic-133').classes
  position = {category.id: index for index, category in enumerate(classes)}

  def column(key: str) -> Any:
    return feature[f'panoptic_objects/{key}'].int64_list.value

  # TFDS: y0, x0, y1, x1 over height and width.
  edges = np.array(feature['panoptic_objects/bbox'].float_list.value).reshape(-1, 4)
  edges = np.rint(edges * (height, width, height, width))
  rows = []
  for number, area, label, crowd, box in zip(
    column('id'),
    column('area'),
    column('label'),
    column('is_crowd'),
    edges,
    strict=True,
  ):
    category = int(_coco_ids(folder)[label])
    rows.append(
      {
        'id': number,
        'class': position[category],
        'category_id': category,
        'crowd': bool(crowd),
        'area': area,
        'bbox': (box[1], box[0], box[3] - box[1], box[2] - box[0]),
      }
    )
  return _record(
    photo,
    str(feature['image/id'].int64_list.value[0]),
    feature['image/filename'].bytes_list.value[0].decode(),
    segments=feature['panoptic_image'].bytes_list.value[0],
    segments_info=rows,
  )


def _scene_parse150(feature: Any, folder: pathlib.Path, name: str) -> Record:
  """`scene_parse150`: the object maps of 100 classes, not the maps of 150."""
  del folder
  colours = records.read_label_map(feature['annotation'].bytes_list.value[0])
  kinds, ids = ade20k.split_channels(colours)
  _, instances = ade20k.objects(kinds, ids, Vocabulary.named('ade20k-150').things)
  return _record(
    feature['image'].bytes_list.value[0],
    name,
    name,
    instances=instances,
  )


def _size(photo: bytes) -> tuple[int, int]:
  with Image.open(io.BytesIO(photo)) as image:
    return image.height, image.width


def _record(photo: bytes, image_id: str, file_name: str, **fields: Any) -> Record:
  return records.make(photo, image_id, file_name, _size(photo), **fields)


DATASETS = {
  'tfds_coco': Prepared(
    'coco/2017_panoptic',
    {'train': 'train', 'val': 'validation'},
    _coco,
    (
      'instance masks that overlap, and so the base/novel views and instance AP',
      'COCO-Stuff maps',
      'captions',
    ),
  ),
  'tfds_scene_parse150': Prepared(
    'scene_parse150',
    {'train': 'train', 'val': 'test'},
    _scene_parse150,
    (
      'the maps of 150 classes: it has only the objects of the 100 thing classes, so '
      'no semantic and no panoptic evaluation',
      'the names of the photos',
    ),
  ),
}
