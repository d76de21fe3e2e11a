"""What a person gets: files, JSON, summaries and pictures of a prediction."""

import dataclasses
import io
import json
import os
import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from maskclip_jax.postprocess import PostprocessConfig, Results, postprocess
from maskclip_jax.postprocess.class_scores import ClassScores
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.results import coco as coco_form
from maskclip_jax.results import files
from maskclip_jax.results.prediction import Detection, Prediction

NAMES = ('cat', 'grass', 'a, b [red]café[/red]')
THINGS = (True, False, True)
ALL = ('semantic', 'panoptic', 'instance')


def found(tasks=ALL, *, photo=True, size=(40, 60)) -> Prediction:
  """Two cats on grass; one corner belongs to nothing."""
  height, width = size
  masks = np.full((3, height, width), -9.0, np.float32)
  masks[0, :20, :20] = 9
  masks[1, 20:, :30] = 9
  masks[2, :, 30:50] = 9
  p = np.zeros((3, 3), np.float32)
  p[0, 0], p[1, 0], p[2, 1] = 0.9, 0.8, 0.7
  scores = ClassScores(p, np.zeros(3, np.float32), np.ones(3, bool))
  config = PostprocessConfig(things_only=True, top_k=3)
  results = postprocess(
    masks, scores, np.array(THINGS), Geometry.same(height, width), config, tasks
  )
  picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  return Prediction.from_results(
    results, NAMES, THINGS, photo=picture if photo else None
  )


def test_files_of_every_task(tmp_path):
  prediction = found()
  paths = prediction.save(tmp_path / 'new' / 'out', 'photo', file_name='photo.jpg')
  names = ['instance.png', 'json', 'overlay.png', 'panoptic.json', 'panoptic.png']
  names.append('semantic.png')
  assert sorted(path.name for path in paths) == [f'photo.{name}' for name in names]
  assert sorted(os.listdir(tmp_path / 'new' / 'out')) == [f'photo.{n}' for n in names]


def test_files_follow_the_task_and_the_photo(tmp_path):
  found(('semantic',), photo=False).save(tmp_path, 'x')
  assert sorted(os.listdir(tmp_path)) == ['x.json', 'x.semantic.png']


def test_maps_read_back(tmp_path):
  prediction = found()
  prediction.save(tmp_path, 'x')
  semantic = np.asarray(Image.open(tmp_path / 'x.semantic.png'))
  assert semantic.dtype == np.uint8
  np.testing.assert_array_equal(semantic, prediction.semantic)
  rgb = np.asarray(Image.open(tmp_path / 'x.panoptic.png')).astype(int)
  ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
  np.testing.assert_array_equal(ids, prediction.panoptic)
  assert (ids[:, 50:] == 0).all()
  instance = np.asarray(Image.open(tmp_path / 'x.instance.png'))
  np.testing.assert_array_equal(instance == 1, prediction.instances[0].mask)


def test_numbers_above_255_take_16_bits(tmp_path):
  ids = np.arange(1024).reshape(32, 32)
  names = [f'class {i}' for i in range(1024)]
  prediction = Prediction((32, 32), names, [True] * 1024, semantic=ids)
  prediction.save(tmp_path, 'x')
  read = cv2.imread(str(tmp_path / 'x.semantic.png'), cv2.IMREAD_UNCHANGED)
  assert read.dtype == np.uint16
  np.testing.assert_array_equal(read, ids)


def test_segment_ids_use_all_three_colours():
  ids = np.array([[0, 1, 255], [256, 65536, 70000]])
  rgb = files.panoptic_rgb(ids).astype(int)
  np.testing.assert_array_equal(rgb @ [1, 256, 65536], ids)


def test_json_is_coco(tmp_path):
  prediction = found()
  prediction.save(tmp_path, 'x', file_name='x.jpg')
  text = (tmp_path / 'x.json').read_text('utf-8')
  assert 'café' in text
  content = json.loads(text)
  assert content['images'] == [
    {'id': 1, 'file_name': 'x.jpg', 'height': 40, 'width': 60}
  ]
  assert [c['name'] for c in content['categories']] == list(NAMES)
  assert [c['isthing'] for c in content['categories']] == [1, 0, 1]
  # COCO's own reader accepts it, and its masks are the prediction's.
  reader = COCO(tmp_path / 'x.json')
  annotations = reader.loadAnns(reader.getAnnIds(imgIds=1))
  assert [a['category_name'] for a in annotations] == ['cat', 'cat']
  for annotation, detection in zip(annotations, prediction.instances, strict=True):
    np.testing.assert_array_equal(reader.annToMask(annotation), detection.mask)
    assert annotation['score'] == pytest.approx(detection.score, rel=1e-8)
    assert annotation['area'] == detection.area == detection.mask.sum()


def segments_info(prediction):
  """The panoptic segments of a prediction, from COCO's panoptic form."""
  (annotation,) = coco_form.panoptic_json(prediction, {'id': 1}, '')['annotations']
  return annotation['segments_info']


def read_by_panopticapi(path):
  """Segments and map of every photo, as panopticapi's evaluation reads them."""
  content = json.loads(path.read_text('utf-8'))
  categories = {category['id']: category for category in content['categories']}
  read = {}
  for annotation in content['annotations']:
    rgb = np.asarray(Image.open(path.parent / annotation['file_name'])).astype(int)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    rows = {row['id']: row for row in annotation['segments_info']}
    assert set(np.unique(ids)) - {0} == set(rows)
    assert all(row['category_id'] in categories for row in rows.values())
    read[annotation['image_id']] = ids, rows
  return read


@pytest.mark.parametrize(
  ('tasks', 'name'),
  [(('panoptic',), 'x.json'), (('panoptic', 'instance'), 'x.panoptic.json')],
)
def test_panoptic_json_has_cocos_panoptic_form(tmp_path, tasks, name):
  prediction = found(tasks)
  prediction.save(tmp_path, 'sub/x', file_name='sub/x.jpg', image_id=7)
  ((image_id, (ids, rows)),) = read_by_panopticapi(tmp_path / 'sub' / name).items()
  assert image_id == 7
  np.testing.assert_array_equal(ids, prediction.panoptic)
  assert {i: row['area'] for i, row in rows.items()} == {
    s.id: s.area for s in prediction.segments
  }
  # pycocotools has no panoptic form, but it loads the file.
  reader = COCO(tmp_path / 'sub' / name)
  assert reader.getImgIds() == [7]
  assert reader.loadAnns(reader.getAnnIds(imgIds=7))[0]['segments_info']


def test_boxes_are_left_top_width_height():
  content = found().to_coco()
  assert [a['bbox'] for a in content['annotations']] == [
    [0, 0, 20, 20],
    [0, 20, 30, 20],
  ]
  assert [s['bbox'] for s in segments_info(found())] == [
    [0, 0, 20, 20],
    [0, 20, 30, 20],
    [30, 0, 20, 40],
  ]


def test_segments_info_matches_the_map():
  prediction = found()
  segments = segments_info(prediction)
  assert [s['isthing'] for s in segments] == [1, 1, 0]
  for segment in segments:
    mask = prediction.panoptic == segment['id']
    assert segment['area'] == mask.sum()
    np.testing.assert_array_equal(coco.decode(segment['segmentation']), mask)
  # Every field is plain JSON.
  assert json.loads(json.dumps(segments)) == segments


def test_semantic_classes_are_listed_by_area():
  prediction = found(('semantic',))
  classes = prediction.to_coco()['semantic']
  areas = [c['area'] for c in classes]
  assert areas == sorted(areas, reverse=True)
  assert sum(areas) == 40 * 60
  assert 'annotations' not in prediction.to_coco()


def test_category_ids_of_a_data_set():
  numbered = dataclasses.replace(found(), category_ids=(17, 193, 5))
  content = numbered.to_coco(image_id=139)
  assert [c['id'] for c in content['categories']] == [17, 193, 5]
  assert {a['category_id'] for a in content['annotations']} == {17}
  assert {a['image_id'] for a in content['annotations']} == {139}
  # One class without a number, such as a background, and positions count.
  some = dataclasses.replace(found(), category_ids=(17, None, 5)).to_coco()
  assert [c['id'] for c in some['categories']] == [0, 1, 2]


def test_empty_masks_are_no_detections():
  masks = np.full((2, 8, 8), -5.0, np.float32)
  masks[1, 2:4, 2:4] = 5
  p = np.full((2, 1), 0.9, np.float32)
  scores = ClassScores(p, np.zeros(2, np.float32), np.ones(1, bool))
  results = postprocess(
    masks,
    scores,
    np.array([True]),
    Geometry.same(8, 8),
    PostprocessConfig(),
    ['instance'],
  )
  prediction = Prediction.from_results(results, ['cat'], [True])
  assert [d.box for d in prediction.instances] == [(2, 2, 4, 4)]


def test_nothing_found_is_a_result(tmp_path):
  results = Results(panoptic=np.zeros((20, 30), np.int32), segments=())
  photo = np.zeros((20, 30, 3), np.uint8)
  prediction = Prediction.from_results(results, NAMES, THINGS, photo=photo)
  prediction.save(tmp_path, 'x')
  (annotation,) = json.loads((tmp_path / 'x.json').read_text())['annotations']
  assert annotation['segments_info'] == []
  assert not cv2.imread(str(tmp_path / 'x.panoptic.png')).any()
  assert 'panoptic: 0 found' in prediction.summary()


def test_no_detection_is_a_result(tmp_path):
  masks = np.ones((2, 8, 12), np.float32)
  p = np.full((2, 1), 0.9, np.float32)
  scores = ClassScores(p, np.zeros(2, np.float32), np.ones(1, bool))
  results = postprocess(
    masks,
    scores,
    np.array([False]),
    Geometry.same(8, 12),
    PostprocessConfig(),
    ['instance'],
  )
  photo = np.zeros((8, 12, 3), np.uint8)
  prediction = Prediction.from_results(results, ['sky'], [False], photo=photo)
  assert prediction.size == (8, 12)
  prediction.save(tmp_path, 'x')
  assert json.loads((tmp_path / 'x.json').read_text())['annotations'] == []


# --- disks that say no ----------------------------------------------------------------


def test_a_file_in_place_of_the_directory_is_one_clear_line(tmp_path):
  (tmp_path / 'out').write_text('')
  with pytest.raises(OSError, match=r'cannot write .*x\.panoptic\.png') as error:
    found(('panoptic',)).save(tmp_path / 'out', 'x')
  assert '\n' not in str(error.value)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
  (tmp_path / 'x.json').write_text('earlier')
  real, written = pathlib.Path.write_bytes, []

  def write(path, content):
    if len(written) == 2:
      real(path, content[: len(content) // 2])
      raise OSError(28, 'No space left on device')
    written.append(path)
    return real(path, content)

  monkeypatch.setattr(pathlib.Path, 'write_bytes', write)
  with pytest.raises(OSError, match='No space left on device; choose another'):
    found().save(tmp_path, 'x')
  assert os.listdir(tmp_path) == ['x.json']
  assert (tmp_path / 'x.json').read_text() == 'earlier'


def test_saving_again_replaces_the_files(tmp_path):
  found().save(tmp_path, 'x')
  first = (tmp_path / 'x.panoptic.png').read_bytes()
  dataclasses.replace(found(), panoptic=np.ones((40, 60), int)).save(tmp_path, 'x')
  assert (tmp_path / 'x.panoptic.png').read_bytes() != first
  assert len(os.listdir(tmp_path)) == 6


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'things': (True,)}, '1 flags, colours or ids for 3 classes'),
    ({'colors': (None,)}, '1 flags, colours or ids for 3 classes'),
    ({'semantic': np.zeros((4, 4), int)}, r'the semantic array is \(4, 4\)'),
    ({'photo': np.zeros((4, 4, 3), np.uint8)}, r'the photo array is \(4, 4\)'),
    ({'semantic': None}, 'a prediction needs a result'),
  ],
)
def test_parts_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Prediction(
      **{
        'size': (8, 8),
        'names': NAMES,
        'things': THINGS,
        'semantic': np.zeros((8, 8), int),
        **fields,
      }
    )


def test_overlay_needs_a_photo_and_a_result():
  with pytest.raises(ValueError, match='no photo to draw on'):
    found(photo=False).overlay()
  with pytest.raises(ValueError, match='there is no instance result, only semantic'):
    found(('semantic',)).overlay('instance')


# --- what people read -----------------------------------------------------------------


def test_summary_names_what_was_found():
  text = found().summary()
  assert text.index('panoptic: 3 found') < text.index('instance: 2 found')
  assert text.count('cat') >= 4
  assert '0.90' in text
  assert max(map(len, text.splitlines())) <= 80


def test_summary_shows_names_that_look_like_markup():
  segment = Segment(1, 2, True, 0.5, 64, 0)
  ids = np.ones((8, 8), np.int32)
  prediction = Prediction((8, 8), NAMES, THINGS, panoptic=ids, segments=(segment,))
  assert '[red]café[/red]' in prediction.summary()


def test_better_detections_lie_on_top():
  def one(score, columns):
    mask = np.zeros((8, 8), bool)
    mask[:, columns] = True
    rle = files.encode_rle(mask)
    return Detection(0, score, int(mask.sum()), files.rle_box(rle), rle)

  detections = (one(0.9, slice(0, 4)), one(0.6, slice(2, 6)), one(0.1, slice(0, 8)))
  prediction = Prediction((8, 8), NAMES, THINGS, instances=detections)
  expected = [1, 1, 1, 1, 2, 2, 3, 3]
  np.testing.assert_array_equal(prediction.instance_map(), [expected] * 8)
  expected = [1, 1, 1, 1, 2, 2, 0, 0]
  np.testing.assert_array_equal(prediction.instance_map(0.3), [expected] * 8)


def test_overlay_file_is_the_overlay(tmp_path):
  prediction = found(('panoptic',))
  prediction.save(tmp_path, 'x')
  read = np.asarray(Image.open(io.BytesIO((tmp_path / 'x.overlay.png').read_bytes())))
  np.testing.assert_array_equal(read, prediction.overlay())
