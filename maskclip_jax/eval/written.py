"""Predictions of an evaluation as files that other evaluators read.

Per photo `<id>.<task>.png` and `<id>.json` (`prediction.py`), with the dataset's own
category ids; for all photos together COCO's two formats of results, `instances.json`
(for pycocotools) and, beside the PNG, `panoptic.json` (for panopticapi).
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from maskclip_jax import atomic, plain
from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.postprocess import OutputKind, Results
from maskclip_jax.results import files as result_files
from maskclip_jax.results.prediction import Prediction
from maskclip_jax.text.vocabulary import Vocabulary

_DETECTION = ('image_id', 'category_id', 'segmentation', 'score')
_PANOPTIC = ('image_id', 'file_name', 'segments_info')
_SEGMENT = ('id', 'category_id', 'area', 'isthing')


class PredictionWriter:
  """Writes predictions into a directory.

  Args:
    directory: made if need be.
    vocabulary: the classes.
    tasks: the results of every photo.
  """

  def __init__(
    self, directory: pathlib.Path, vocabulary: Vocabulary, tasks: Sequence[OutputKind]
  ):
    self._directory, self._tasks = directory, tasks
    self._names = [category.name for category in vocabulary.classes]
    self._things = vocabulary.things.tolist()
    # A background has no id in any dataset; then positions are used throughout.
    self._ids = [category.id for category in vocabulary.classes]

  def write(self, example: EvalExample, results: Results) -> None:
    """Writes the files of one photo.

    Raises:
      OSError: the directory cannot be written to, or the disk is full.
    """
    prediction = Prediction.from_results(
      results, self._names, self._things, category_ids=self._ids
    )
    stem = example.image_id
    files = {}
    if results.panoptic is not None:
      rgb = result_files.panoptic_rgb(results.panoptic)
      files[f'{stem}.panoptic.png'] = result_files.png_bytes(rgb)
    if results.semantic is not None:
      files[f'{stem}.semantic.png'] = result_files.png_bytes(results.semantic)
    image_id = int(stem) if stem.isdecimal() else stem
    files |= prediction.json_files(stem, file_name=example.file_name, image_id=image_id)
    atomic.write_together(self._directory, files)

  def collect(self, image_ids: Sequence[str], suffix: str = '') -> None:
    """Joins the photos' files into COCO's formats of results.

    Args:
      image_ids: photos that were written.
      suffix: the suffix of the files' names, where several hosts write.

    Raises:
      OSError: a photo's file is missing, or the directory cannot be written to.
    """
    joined: dict[str, Any] = {}
    for stem in image_ids:
      if 'instance' in self._tasks:
        rows = _picked(self._annotations(f'{stem}.json'), _DETECTION)
        joined.setdefault('instances', []).extend(rows)
      if 'panoptic' in self._tasks:
        name = f'{stem}.panoptic.json' if 'instance' in self._tasks else f'{stem}.json'
        (one,) = _picked(self._annotations(name), _PANOPTIC)
        # From here, and not from beside the photo's own file.
        one['file_name'] = f'{stem}.panoptic.png'
        one['segments_info'] = _picked(one['segments_info'], _SEGMENT)
        joined.setdefault('panoptic', {'annotations': []})['annotations'].append(one)
    files = {
      f'{name}{suffix}.json': result_files.json_bytes(content)
      for name, content in joined.items()
    }
    atomic.write_together(self._directory, files)

  def _annotations(self, name: str) -> list[dict]:
    return plain.read_json(self._directory / name)['annotations']


def _picked(rows: Sequence[Mapping], keys: Sequence[str]) -> list[dict]:
  return [{key: row[key] for key in keys} for row in rows]
