"""Judging predictions that lie on disk, ours or those of other code.

The formats are COCO's: `instances.json`, a list of detections (image_id, category_id,
segmentation, score), and `panoptic.json` beside its PNG, as detectron2 writes them too;
and `<image id>.semantic.png` with class indices. Ids are the dataset's own.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image
from pycocotools import mask as coco_mask

from maskclip_jax import plain
from maskclip_jax.data.masks import MASK_ERRORS, check_outlines, check_runs
from maskclip_jax.eval.examples import EvalExample, ProtocolSource
from maskclip_jax.eval.judge import Judge, Predicted
from maskclip_jax.eval.metrics.instance import Detections, Rle
from maskclip_jax.eval.metrics.metric import Metrics
from maskclip_jax.eval.metrics.panoptic import Segments
from maskclip_jax.eval.protocols import ProtocolRun
from maskclip_jax.eval.runner import Progress
from maskclip_jax.names import shown
from maskclip_jax.postprocess import OutputKind

INSTANCES, PANOPTIC, SEMANTIC = 'instances.json', 'panoptic.json', '.semantic.png'


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


# What the columns of a row may hold; ids of segments are colours.
_COLUMNS: dict[str, tuple[Callable[[Any], bool], str]] = {
  'image_id': (lambda x: isinstance(x, str) or _is_whole(x), 'a number or a name'),
  'category_id': (_is_whole, 'a whole number'),
  'id': (lambda x: _is_whole(x) and 0 < x < 1 << 24, 'a number from 1 to 2^24 - 1'),
  'file_name': (lambda x: isinstance(x, str), 'a name'),
  'score': (
    lambda x: (
      (isinstance(x, float) and math.isfinite(x)) or (_is_whole(x) and abs(x) < 1 << 53)
    ),
    'a number',
  ),
}


class StoredPredictions:
  """Predictions in a directory.

  Args:
    directory: where they lie.
    run: the protocol they are judged by.
    tasks: the results that are looked for; all of the run's by default.
    image_ids: the photos of the protocol.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or holds photos or classes that the protocol does
      not know.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    run: ProtocolRun,
    image_ids: Sequence[str],
    tasks: Sequence[OutputKind] | None = None,
  ):
    self._directory = pathlib.Path(directory)
    self.tasks = tuple(t for t in run.views if tasks is None or t in tasks)
    known = {plain_id(image_id) for image_id in image_ids}
    classes = run.vocabulary().classes
    self._classes = {
      i if category.id is None else category.id: i for i, category in enumerate(classes)
    }
    self._instances: dict[str, list[dict]] = {}
    self._panoptic: dict[str, dict] = {}
    if 'instance' in self.tasks:
      columns = ('image_id', 'category_id', 'segmentation', 'score')
      for row in self._rows(INSTANCES, self._read(INSTANCES), columns):
        self._instances.setdefault(plain_id(row['image_id']), []).append(row)
      self._check_known(INSTANCES, self._instances, known)
    if 'panoptic' in self.tasks:
      content = self._read(PANOPTIC)
      content = content.get('annotations') if isinstance(content, dict) else None
      for row in self._rows(PANOPTIC, content, ('image_id', 'file_name')):
        if self._panoptic.setdefault(plain_id(row['image_id']), row) is not row:
          raise ValueError(
            f'{self._directory}: {PANOPTIC} lists photo {row["image_id"]} twice'
          )
      self._check_known(PANOPTIC, self._panoptic, known)
    if 'semantic' in self.tasks:
      found = {}
      # Ids of photos in subfolders are paths.
      for path in self._directory.rglob(f'*{SEMANTIC}'):
        place = path.relative_to(self._directory).as_posix()
        found[plain_id(place.removesuffix(SEMANTIC))] = path
      self._check_known(SEMANTIC, found, known)
      self._semantic = found

  def _read(self, name: str) -> Any:
    path = self._directory / name
    if not path.is_file():
      raise FileNotFoundError(
        f'{path} does not exist: choose --tasks without it, or write the predictions'
      )
    return plain.read_json(path)

  def _rows(self, name: str, rows: Any, columns: Sequence[str]) -> list[dict]:
    """The rows of a file, each with the columns that are needed."""
    path = self._directory / name
    if not isinstance(rows, list):
      raise ValueError(f"{path} has no list of rows in COCO's format")
    for position, row in enumerate(rows):
      for column in columns:
        if not isinstance(row, dict) or column not in row:
          raise ValueError(f'{path}: row {position} has no {column!r}')
        allowed, what = _COLUMNS.get(column, (None, ''))
        if allowed is not None and not allowed(row[column]):
          raise ValueError(
            f'{path}: {column!r} of row {position} is {shown(row[column])}, not {what}'
          )
    return rows

  def _check_known(self, name: str, found: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(found) - known):
      more = f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''
      raise ValueError(
        f'{self._directory}: {name} holds photos that are not evaluated on: '
        f'{unknown[0][:80]}{more}; are they of another dataset or split?'
      )

  def found(self, example: EvalExample) -> Predicted:
    """The predictions for one photo; no detections where none are listed.

    Raises:
      FileNotFoundError: there are none for this photo.
      ValueError: they do not fit it.
    """
    key = plain_id(example.image_id)
    size = example.photo.shape[:2]
    return Predicted(
      self._semantic_map(key) if 'semantic' in self.tasks else None,
      self._segments(key) if 'panoptic' in self.tasks else None,
      self._detections(key, size) if 'instance' in self.tasks else None,
    )

  def _class(self, category: int) -> int:
    if category not in self._classes:
      raise ValueError(
        f'category {shown(category)} is not in the vocabulary of the protocol; do the '
        'predictions belong to another one?'
      )
    return self._classes[category]

  def _semantic_map(self, key: str) -> Int[np.ndarray, 'h w']:
    if key not in self._semantic:
      raise FileNotFoundError(f'{self._directory} has no {key}{SEMANTIC}')
    return _read_png(self._semantic[key]).astype(np.int32)

  def _segments(self, key: str) -> Segments:
    if key not in self._panoptic:
      raise FileNotFoundError(f'{self._directory}: {PANOPTIC} lacks photo {key}')
    entry = self._panoptic[key]
    path = self._directory / str(entry['file_name'])
    if not path.resolve().is_relative_to(self._directory.resolve()):
      raise ValueError(
        f'{PANOPTIC} names {shown(entry["file_name"])} for this photo, which is '
        f'outside {self._directory}'
      )
    if not path.is_file():
      raise FileNotFoundError(f'{path} does not exist, but {PANOPTIC} names it')
    colours = _read_png(path, 'RGB').astype(np.int32)
    ids = colours @ np.array([1, 256, 65536])
    rows = self._rows(PANOPTIC, entry.get('segments_info'), ('id', 'category_id'))
    try:
      return Segments.from_ids(
        ids,
        [row['id'] for row in rows],
        [self._class(row['category_id']) for row in rows],
      )
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from None

  def _detections(self, key: str, size: tuple[int, int]) -> Detections:
    rows, listed = self._instances.get(key, []), set()
    for row in rows:
      text = json.dumps(row, sort_keys=True)
      if text in listed:
        raise ValueError(
          f'{INSTANCES} lists a detection of category {row["category_id"]} twice'
        )
      listed.add(text)
    return Detections(
      [_run_lengths(row['segmentation'], size) for row in rows],
      np.array([self._class(row['category_id']) for row in rows], np.int32),
      np.array([row['score'] for row in rows], np.float64),
    )


def _run_lengths(value: Any, size: tuple[int, int]) -> Rle:
  """A mask of the photo's size: run lengths as they are, or polygons drawn.

  Raises:
    ValueError: it is neither, or of another size.
  """
  try:
    if isinstance(value, list):
      check_outlines(value, size)
      rle = coco_mask.merge(coco_mask.frPyObjects(value, *size))
    elif isinstance(value['counts'], list):
      rle = coco_mask.frPyObjects(value, *value['size'])
    else:
      rle = value
    found = tuple(rle['size'])
    if found == tuple(size) and not isinstance(value, list):
      check_runs(value['counts'], size)
  except MASK_ERRORS as error:
    raise ValueError(
      f'a segmentation is neither polygons nor run lengths: {shown(value)} ({error})'
    ) from error
  if len(found) != 2 or not all(map(_is_whole, found)):
    raise ValueError(f'the size of a mask is {shown(list(found))}')
  if found != tuple(size):
    raise ValueError(
      f'a mask is {found[0]} x {found[1]} (height x width) and the photo {size[0]} x '
      f'{size[1]}: were the sides exchanged?'
    )
  return rle


def _read_png(path: pathlib.Path, mode: str | None = None) -> np.ndarray:
  try:
    with Image.open(path) as picture:
      return np.asarray(picture if mode is None else picture.convert(mode))
  except (OSError, SyntaxError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from None


def plain_id(image_id: str | int) -> str:
  """An image id without the zeros that file names put before numbers."""
  text = str(image_id)
  return str(int(text)) if text.isdecimal() else text


def judge_stored(
  predictions: StoredPredictions,
  run: ProtocolRun,
  source: ProtocolSource,
  on_progress: Progress | None = None,
) -> Metrics:
  """The numbers of stored predictions.

  Raises:
    FileNotFoundError: a photo has none.
    ValueError: they do not fit the protocol.
  """
  judge = Judge(run, run.vocabulary().things, predictions.tasks)
  for done, image_id in enumerate(source.image_ids, 1):
    example = source[done - 1]
    try:
      judge.add(example, predictions.found(example))
    except ValueError as error:
      raise ValueError(f'photo {image_id}: {error}') from None
    if on_progress is not None:
      on_progress(done, len(source))
  return judge.result()
