"""Predictions of an evaluation as files that other evaluators read.

Per photo `<id>.<task>.png` and `<id>.json` (`prediction.py`), with the dataset's own
category ids; for all photos together COCO's two formats of results, `instances.json`
(for pycocotools) and, beside the PNG, `panoptic.json` (for panopticapi).
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from maskclip_jax import atomic
from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.postprocess import Results
from maskclip_jax.results import files as result_files
from maskclip_jax.results.prediction import Prediction
from maskclip_jax.text.vocabulary import Vocabulary

_DETECTION = ('image_id', 'category_id', 'segmentation', 'score')
_SEGMENT = ('id', 'category_id', 'area', 'isthing')


class PredictionWriter:
  """Writes predictions into a directory.

  Args:
    directory: made if need be.
    vocabulary: the classes.
  """

  def __init__(self, directory: pathlib.Path, vocabulary: Vocabulary):
    self._directory = directory
    self._names = [category.name for category in vocabulary.classes]
    self._things = vocabulary.things.tolist()
    ids = [category.id for category in vocabulary.classes]
    # A background has no id in any dataset; then positions are used throughout.
    self._ids = None if None in ids else ids

  def write(self, example: EvalExample, results: Results) -> None:
    """Writes the files of one photo.

    Raises:
      OSError: the directory cannot be written to, or the disk is full.
    """
    prediction = Prediction.from_results(results, self._names, self._things)
    stem = example.image_id
    files = {}
    if results.panoptic is not None:
      rgb = result_files.panoptic_rgb(results.panoptic)
      files[f'{stem}.panoptic.png'] = result_files.png_bytes(rgb)
    if results.semantic is not None:
      files[f'{stem}.semantic.png'] = result_files.png_bytes(results.semantic)
    content = prediction.to_coco(
      image_id=int(stem) if stem.isdecimal() else stem,
      file_name=example.file_name,
      category_ids=self._ids,
    )
    files[f'{stem}.json'] = result_files.json_bytes(content)
    atomic.write_together(self._directory, files)

  def collect(self, image_ids: Sequence[str], suffix: str = '') -> None:
    """Joins the photos' files into COCO's formats of results.

    Args:
      image_ids: photos that were written.
      suffix: the suffix of the files' names, where several hosts write.

    Raises:
      OSError: a photo's file is missing, or the directory cannot be written to.
    """
    joined = {}
    for stem in image_ids:
      content = json.loads((self._directory / f'{stem}.json').read_text())
      if 'annotations' in content:
        rows = _picked(content['annotations'], _DETECTION)
        joined.setdefault('instances', []).extend(rows)
      if 'segments_info' in content:
        one = {
          'image_id': content['images'][0]['id'],
          'file_name': f'{stem}.panoptic.png',
          'segments_info': _picked(content['segments_info'], _SEGMENT),
        }
        joined.setdefault('panoptic', {'annotations': []})['annotations'].append(one)
    files = {
      f'{name}{suffix}.json': result_files.json_bytes(content)
      for name, content in joined.items()
    }
    atomic.write_together(self._directory, files)


def _picked(rows: Sequence[Mapping], keys: Sequence[str]) -> list[dict]:
  return [{key: row[key] for key in keys} for row in rows]
