"""What an evaluation reads: photos with the ground truth of every task of a protocol.

One stored record serves all tasks (`data/views.py`); ground truth stays at the photo's
own size and keeps what the official annotations state, areas included.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from pycocotools import mask as coco_mask

from maskclip_jax.data import registry
from maskclip_jax.data.examples import Example, RecordError, Region, decode
from maskclip_jax.data.records import Record
from maskclip_jax.data.sources import RecordSource, built_path, open_split
from maskclip_jax.data.views import View
from maskclip_jax.eval.metrics.instance import Rle, TrueObjects
from maskclip_jax.eval.metrics.panoptic import Segments
from maskclip_jax.eval.protocols import ProtocolRun
from maskclip_jax.postprocess import OutputKind


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
  """Ground truth of one photo; what the protocol does not judge is None.

  Attributes:
    semantic: class of each pixel, -1 where it is not judged.
    panoptic: segments.
    instance: objects.
  """

  semantic: Int[np.ndarray, 'height width'] | None = None
  panoptic: Segments | None = None
  instance: TrueObjects | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class EvalExample:
  """One photo to evaluate on.

  Attributes:
    image_id: the dataset's name of it.
    file_name: the file name of the photo, as published.
    photo: RGB, upright.
    truth: at the photo's size.
  """

  image_id: str
  file_name: str
  photo: UInt8[np.ndarray, 'height width 3']
  truth: Truth


class ProtocolSource(Sequence[EvalExample]):
  """The examples of a protocol, from a built dataset; may be read by many threads.

  Attributes:
    image_ids: the image ids of the examples, in their order.
    fingerprint: what tells these examples from others.

  Args:
    run: the protocol as a system runs it.
    data_dir: where the built datasets lie; TFDS's own place by default.
    tasks: the tasks to read ground truth for; all of the run's by default.
    limit: only the first so many.

  Raises:
    FileNotFoundError: the dataset is not built.
    ValueError: it was built without what a task needs, or there are no examples.
  """

  def __init__(
    self,
    run: ProtocolRun,
    data_dir: str | os.PathLike | None = None,
    *,
    tasks: Sequence[OutputKind] | None = None,
    limit: int | None = None,
  ):
    main, split = run.main_view, run.protocol.split
    self._views = {t: v for t, v in run.views.items() if tasks is None or t in tasks}
    data, index = open_split(main.dataset, split, data_dir)
    for view in self._views.values():
      index.select(view)  # Says what is missing if a task has no ground truth.
    positions, self._limit = index.select(main)[:limit], limit
    if not len(positions):
      raise ValueError(f'{main.name}, split {split}, has no examples')
    sizes = np.stack([index.height, index.width], axis=1)[positions]
    self._records = RecordSource(data, positions, sizes)
    self.image_ids: tuple[str, ...] = tuple(index.image_id[positions].tolist())
    names = '\n'.join(self.image_ids)
    build = built_path(main.dataset, data_dir) / 'build.json'
    self.fingerprint: dict[str, Any] = {
      'views': {task: view.name for task, view in self._views.items()},
      'split': split,
      'examples': len(positions),
      'photos': len(index),
      'published_photos': _published(main.dataset, split),
      'image_ids': _short_hash(names.encode()),
      'build': _short_hash(build.read_bytes()) if build.exists() else None,
    }

  @property
  def share(self) -> str:
    """'2 of 2000' where these are not all photos of the published split; else ''."""
    published = self.fingerprint['published_photos']
    photos = self.fingerprint['photos']
    if self._limit is not None:
      photos = min(photos, self._limit)
    fewer = published is not None and photos < published
    return f'{len(self)} of {published}' if fewer else ''

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> EvalExample:
    """Reads one example.

    Raises:
      RecordError: it cannot be read; an evaluation without it is not comparable.
    """
    try:
      record = self._records[index]
    except ValueError as error:
      view = next(iter(self._views.values()))
      raise RecordError(f'{view.name}: record number {index}: {error}') from error
    return read_example(record, self._views)


def _published(dataset: str, split: str) -> int | None:
  """How many photos the owners say a split has; None if they do not."""
  cards = {card.name: card for card in registry.list_datasets()}
  counts = cards[dataset].counts.get(split) if dataset in cards else None
  return None if counts is None else counts.images


def read_example(record: Record, views: Mapping[OutputKind, View]) -> EvalExample:
  """Decodes a stored record for the tasks of a protocol.

  Raises:
    RecordError: the photo or a label map cannot be read; the message names the record.
  """
  truth, example = {}, None
  for task, view in views.items():
    example = decode(record, view, crowd=True)
    if task == 'semantic':
      truth[task] = example.categories()
    elif task == 'panoptic':
      table = record['segments_info']
      areas = dict(zip(table['id'].tolist(), table['area'].tolist(), strict=True))
      truth[task] = Segments(
        example.segments,
        example.classes,
        example.crowd,
        np.array([areas[i] for i in example.ids.tolist()], np.float64),
      )
    else:
      truth[task] = _objects(example, record)
  return EvalExample(
    record['image_id'], record['file_name'], example.image, Truth(**truth)
  )


def _objects(example: Example, record: Record) -> TrueObjects:
  table = record['instances']
  areas = dict(zip(table['id'].tolist(), table['area'].tolist(), strict=True))
  return TrueObjects(
    [region_rle(region, example.size) for region in example.regions],
    example.classes,
    example.crowd,
    np.array([areas[i] for i in example.ids.tolist()], np.float64),
  )


def region_rle(region: Region, size: tuple[int, int]) -> Rle:
  """A region's mask as pycocotools draws it."""
  if region.bitmap is not None:
    return coco_mask.encode(np.asfortranarray(region.bitmap, np.uint8))
  outlines = [outline.reshape(-1).tolist() for outline in region.polygons]
  return coco_mask.merge(coco_mask.frPyObjects(outlines, *size))


def _short_hash(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()[:16]
