"""Predictions on disk: written by us and judged again, or made wrong by hand."""

import io
import json
import shutil

import ade_run
import cv2
import numpy as np
import pytest
import rich.console
from PIL import Image
from pycocotools import mask as coco_mask

from maskclip_jax.eval import ledger
from maskclip_jax.eval.request import Request, judge_predictions
from maskclip_jax.eval.runner import evaluate


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('written')
  found = evaluate(ade_run.evaluator(save_predictions=True), ade_run.source(), folder)
  return folder / 'predictions', found.metrics.values


@pytest.fixture
def copy(written, tmp_path):
  return shutil.copytree(written[0], tmp_path / 'copy')


def judged(predictions, tmp_path, **changes):
  request = Request(
    'ade150', tmp_path / 'out', data_dir=ade_run.data_dir(), batch_size=8, **changes
  )
  console = rich.console.Console(file=io.StringIO(), width=100)
  return judge_predictions(predictions, request, console)[0]


def test_our_files_have_the_numbers_of_the_run(written, tmp_path):
  predictions, expected = written
  entry = judged(predictions, tmp_path)
  for name, value in expected.items():
    found = entry['numbers'][f'ade150+{ade_run.SHARE}/{name}']
    if found is None:
      assert np.isnan(value), name
    else:
      assert found == pytest.approx(value, abs=1e-9), name
  (path,) = (tmp_path / 'out').iterdir()
  assert path.name == ledger.folder_name(f'ade150+{ade_run.SHARE}')
  assert (path / 'results.json').is_file()
  assert entry['model']['fingerprint'] is None


def test_photos_of_another_dataset_are_refused(copy, tmp_path):
  path = copy / 'instances.json'
  rows = json.loads(path.read_text())
  rows[0]['image_id'] = 'ADE_val_00009999'
  path.write_text(json.dumps(rows))
  with pytest.raises(ValueError, match=r'not evaluated on: ADE_val_00009999; are they'):
    judged(copy, tmp_path)
  shutil.copy(copy / 'ADE_val_00000001.semantic.png', copy / 'frog.semantic.png')
  with pytest.raises(ValueError, match='not evaluated on: frog'):
    judged(copy, tmp_path, tasks='semantic')
  assert not (tmp_path / 'out').exists()


def test_classes_of_another_vocabulary_are_refused(copy, tmp_path):
  path = copy / 'instances.json'
  rows = json.loads(path.read_text())
  rows[0]['category_id'] = 901
  path.write_text(json.dumps(rows))
  with pytest.raises(
    ValueError, match=r'ADE_val_0.* category 901 is not in the vocabulary'
  ):
    judged(copy, tmp_path, tasks='instance')


def test_missing_and_damaged_files_are_named(copy, tmp_path):
  (copy / 'ADE_val_00000003.semantic.png').unlink()
  with pytest.raises(FileNotFoundError, match=r'has no ADE_val_00000003.semantic'):
    judged(copy, tmp_path, tasks='semantic')
  (copy / 'ADE_val_00000002.panoptic.png').unlink()
  with pytest.raises(FileNotFoundError, match=r'00000002.panoptic.png does not exist'):
    judged(copy, tmp_path, tasks='panoptic')
  path = copy / 'panoptic.json'
  content = json.loads(path.read_text())
  content['annotations'] = content['annotations'][:1]
  path.write_text(json.dumps(content))
  with pytest.raises(FileNotFoundError, match='lacks photo ADE_val'):
    judged(copy, tmp_path, tasks='panoptic')
  path.write_text('[')
  with pytest.raises(ValueError, match='not valid JSON'):
    judged(copy, tmp_path, tasks='panoptic')
  path.unlink()
  with pytest.raises(FileNotFoundError, match='choose --tasks without it'):
    judged(copy, tmp_path, tasks='panoptic')


def test_maps_that_do_not_fit_are_named(copy, tmp_path):
  path = copy / 'ADE_val_00000001.semantic.png'
  cv2.imwrite(str(path), np.zeros((5, 5), np.uint8))
  with pytest.raises(ValueError, match='photo ADE_val_00000001: a prediction of'):
    judged(copy, tmp_path, tasks='semantic')
  path = copy / 'ADE_val_00000001.panoptic.png'
  picture = np.asarray(Image.open(path)).copy()
  picture[0, 0] = (9, 9, 0)
  Image.fromarray(picture).save(path)
  with pytest.raises(ValueError, match='ids that no segment has'):
    judged(copy, tmp_path, tasks='panoptic')


def test_a_photo_without_detections_has_none(copy, tmp_path):
  path = copy / 'instances.json'
  path.write_text('[]')
  entry = judged(copy, tmp_path, tasks='instance')
  assert entry['numbers'][f'ade150+{ade_run.SHARE}/AP'] == 0


def change_detections(folder, change):
  path = folder / 'instances.json'
  rows = json.loads(path.read_text())
  change(rows)
  path.write_text(json.dumps(rows))


def turn_first(rows):
  rows[0]['segmentation']['size'].reverse()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (turn_first, r'photo ADE_val_0.*: a mask is \d+ x \d+ .* sides exchanged'),
    (lambda rows: rows.append(dict(rows[0])), 'a detection of category .* twice'),
    (
      lambda rows: rows[0].update(score='0.5'),
      "'score' of row 0 is '0.5', not a number",
    ),
    (lambda rows: rows[0].pop('score'), "row 0 has no 'score'"),
    (lambda rows: rows[0].update(segmentation=7), 'neither polygons nor run lengths'),
    (
      lambda rows: rows[0]['segmentation'].update(counts=[5, 5]),
      'runs of a mask cover 10 pixels, and the photo has',
    ),
    (lambda rows: rows.insert(0, None), "row 0 has no 'image_id'"),
  ],
)
def test_detections_that_do_not_fit_are_refused(copy, tmp_path, change, message):
  change_detections(copy, change)
  with pytest.raises(ValueError, match=message):
    judged(copy, tmp_path, tasks='instance')


def test_polygons_are_read(copy, tmp_path):
  """A polygon around all of a photo is a mask as large as the photo."""
  expected = judged(copy, tmp_path, tasks='instance')['numbers']

  def as_polygons(rows):
    for row in rows:
      mask = coco_mask.decode(row['segmentation'])
      if mask.all():
        height, width = mask.shape
        row['segmentation'] = [[0, 0, width, 0, width, height, 0, height]]

  change_detections(copy, as_polygons)
  assert judged(copy, tmp_path, tasks='instance')['numbers'] == expected


def test_files_outside_the_folder_and_cut_pictures_are_named(copy, tmp_path):
  path = copy / 'ADE_val_00000001.semantic.png'
  path.write_bytes(path.read_bytes()[:60])
  with pytest.raises(ValueError, match=r'00000001.semantic.png cannot be read'):
    judged(copy, tmp_path, tasks='semantic')
  path = copy / 'panoptic.json'
  content = json.loads(path.read_text())
  content['annotations'][0]['file_name'] = '../elsewhere.png'
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"names '../elsewhere.png' .* is outside"):
    judged(copy, tmp_path, tasks='panoptic')
