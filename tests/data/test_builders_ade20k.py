"""ADE20K from its official files to records: SceneParse150, and the 2021 release."""

import io
import json
import pickle

import cv2
import numpy as np
import pytest
import raw_ade20k
from built import built, plain
from PIL import Image
from pycocotools import mask as rle

from maskclip_jax.data.build import build
from maskclip_jax.data.records import read_label_map
from maskclip_jax.data.views import find_view

TRAIN, AWKWARD, EMPTY = (f'ADE_train_0000000{number}' for number in (1, 3, 4))
WALL, SKY, FLOOR, BED, WINDOW, PERSON = 0, 2, 3, 7, 8, 12


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  return raw_ade20k.write_150(tmp_path_factory.mktemp('raw'))


@pytest.fixture(scope='module')
def ade(raw, tmp_path_factory):
  return built('ade20k_150', raw, tmp_path_factory.mktemp('data'))


def _official(stem, split='training'):
  files = raw_ade20k.files_150()
  classes = files[f'{raw_ade20k.CHALLENGE}/annotations/{split}/{stem}.png']
  objects = files[f'annotations_instance/{split}/{stem}.png']
  return [np.asarray(Image.open(io.BytesIO(data))) for data in (classes, objects)]


def test_splits_and_published_maps(ade, raw):
  assert list(ade['train']) == [f'ADE_train_0000000{n}' for n in (1, 2, 3, 4)]
  assert list(ade['val']) == ['ADE_val_00000001', 'ADE_val_00000002']
  name = f'{raw_ade20k.CHALLENGE}/annotations/training/{TRAIN}.png'
  assert ade['train'][TRAIN]['semantic'] == (raw / name).read_bytes()


def test_semantic_view_subtracts_one_and_ignores_zero(ade):
  view = find_view('ade20k_150/semantic')
  values = read_label_map(ade['train'][TRAIN]['semantic'])
  classes = view.lookup[values]
  assert classes[0, 0] == -1
  assert classes[10, 0] == WALL
  assert set(np.unique(classes)) == {-1, WALL, FLOOR, BED, WINDOW}


def test_one_instance_per_object_number(ade):
  table = ade['train'][TRAIN]['instances']
  _, objects = _official(TRAIN)
  assert table['id'].tolist() == [2, 7, 255]
  assert table['category_id'].tolist() == [WINDOW, BED, WINDOW]
  assert not table['crowd'].any()
  for number, text, area, bbox in zip(
    table['id'], table['segmentation'], table['area'], table['bbox'], strict=True
  ):
    mask = rle.decode(json.loads(text)).astype(bool)
    assert (mask == (objects[..., 1] == number)).all()
    assert area == mask.sum()
    rows, columns = np.nonzero(mask)
    size = [np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert bbox.tolist() == [columns.min(), rows.min(), *size]


def test_panoptic_is_stuff_first_then_objects_over_it(ade):
  record = ade['train'][TRAIN]
  classes, objects = _official(TRAIN)
  table = record['segments_info']
  ids = read_label_map(record['segments'])
  # Wall and floor in class order, then the objects in the order of their numbers.
  assert table['category_id'].tolist() == [WALL, FLOOR, WINDOW, BED, WINDOW]
  assert table['id'].tolist() == [1, 2, 3, 4, 5]
  for number, expected in ((3, 2), (4, 7), (5, 255)):
    assert ((ids == number) == (objects[..., 1] == expected)).all()
  free = objects[..., 1] == 0
  assert ((ids == 1) == ((classes == WALL + 1) & free)).all()
  assert ((ids == 2) == ((classes == FLOOR + 1) & free)).all()


def test_areas_are_of_the_masks_before_objects_cover_them(ade):
  classes, objects = _official(AWKWARD)
  table = ade['train'][AWKWARD]['segments_info']
  ids = read_label_map(ade['train'][AWKWARD]['segments'])
  by_class = dict(zip(table['category_id'].tolist(), table['id'], strict=True))
  areas = dict(zip(table['id'].tolist(), table['area'], strict=True))
  # Wholly covered by the person, but still in the table, with its own area.
  sky = by_class[SKY]
  assert not (ids == sky).any()
  assert areas[sky] == (classes == SKY + 1).sum() == 32
  person = objects[..., 1] == 9
  assert (ids[person] == by_class[PERSON]).all()
  boxes = dict(zip(table['id'].tolist(), table['bbox'].tolist(), strict=True))
  assert boxes[sky] == [24, 20, 8, 4]


def test_thing_pixels_without_an_object_are_void(ade):
  ids = read_label_map(ade['train'][AWKWARD]['segments'])
  assert not ids[0:3, 28:32].any()


def test_photo_without_any_segment(ade):
  record = ade['train'][EMPTY]
  assert not len(record['segments_info']['id'])
  assert not len(record['instances']['id'])
  assert not read_label_map(record['segments']).any()


def test_archives_give_the_same_records(ade, tmp_path):
  raw = raw_ade20k.write_150(tmp_path / 'raw', archived=True)
  assert {path.suffix for path in raw.iterdir()} == {'.zip', '.tar'}
  archived = built('ade20k_150', raw, tmp_path / 'data')
  for split, records in ade.items():
    for image_id, record in records.items():
      assert plain(archived[split][image_id]) == plain(record)


def test_raw_may_be_the_dataset_folder_itself(tmp_path):
  raw = raw_ade20k.write_150(tmp_path / 'raw')
  challenge = raw / raw_ade20k.CHALLENGE
  (raw / 'annotations_instance').rename(challenge / 'annotations_instance')
  assert build('ade20k_150', challenge, tmp_path / 'data').examples['train'] == 4


_MAP = f'{raw_ade20k.CHALLENGE}/annotations/training/{TRAIN}.png'
_OBJECTS = f'annotations_instance/training/{TRAIN}.png'


def _with_two_classes():
  """Two object classes under one object number."""
  objects = _official(TRAIN)[1].copy()
  objects[3, 14, 0] = 5
  return raw_ade20k.png(objects)


_FAULTS = {
  'full ADE20K': (
    {_MAP: raw_ade20k.png(np.full(raw_ade20k.SIZE, 2978, np.uint16))},
    'holds the value 2978 but SceneParse150 ends at 150: it is another dataset',
  ),
  'reduced already': (
    {_MAP: raw_ade20k.png(np.full(raw_ade20k.SIZE, 255, np.uint8))},
    r'it was converted already \(0 became 255\), use the maps of ADEChallengeData2016',
  ),
  'two classes': (
    {_OBJECTS: _with_two_classes()},
    rf'{TRAIN}.png: object 2 has class 2 in its red channel',
  ),
  'no class': (
    {_OBJECTS: raw_ade20k.png(np.full((*raw_ade20k.SIZE, 3), 101, np.uint8))},
    r'object 101 has class 101 in its red channel, which is not one class of 1..100',
  ),
}


@pytest.mark.parametrize('fault', _FAULTS)
def test_maps_of_other_datasets_are_refused(fault, tmp_path):
  files, message = _FAULTS[fault]
  raw = raw_ade20k.write_150(tmp_path / 'raw')
  raw_ade20k.write(raw, files)
  with pytest.raises(ValueError, match=message):
    build('ade20k_150', raw, tmp_path / 'data')


def test_without_object_maps_their_archive_is_named(tmp_path):
  raw = raw_ade20k.write_150(tmp_path / 'raw', archived=True)
  (raw / 'annotations_instance.tar').unlink()
  with pytest.raises(FileNotFoundError, match=r'object maps.*annotations_instance.tar'):
    build('ade20k_150', raw, tmp_path / 'data')


def test_cut_tar_is_named(tmp_path):
  raw = raw_ade20k.write_150(tmp_path / 'raw', archived=True)
  path = raw / 'annotations_instance.tar'
  path.write_bytes(path.read_bytes()[:2000])
  with pytest.raises(ValueError, match=r'instance.tar is damaged or incomplete'):
    build('ade20k_150', raw, tmp_path / 'data')


# The 2021 release.


@pytest.fixture(scope='module')
def full(tmp_path_factory):
  raw = raw_ade20k.write_847(tmp_path_factory.mktemp('raw'))
  return built('ade20k_847', raw, tmp_path_factory.mktemp('data'))


def test_the_second_part_of_the_name_decides_the_split(full):
  assert set(full['train']) == {
    'ADE_train_00000001',
    'ADE_train_00000003',
    'ADE_frame_00000002',
  }
  assert list(full['val']) == ['ADE_val_00000001']


@pytest.mark.parametrize(
  ('stem', 'size'),
  [
    ('ADE_train_00000001', (512, 591)),
    ('ADE_frame_00000002', (40, 64)),
    ('ADE_train_00000003', (600, 48)),
  ],
)
def test_only_photos_with_both_sides_above_512_are_reduced(full, stem, size):
  record = full['train'][stem]
  assert (record['height'], record['width']) == size
  image = Image.open(io.BytesIO(record['image']))
  assert image.size == size[::-1]
  _, stored = raw_ade20k.SCENES_847[stem]
  ids = raw_ade20k.objects_847(stored).astype(np.uint16)
  expected = cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST)
  assert (read_label_map(record['semantic']) == expected).all()


def test_photos_are_saved_again_with_pillows_default_quality(full):
  raw = raw_ade20k.files_847()
  name = next(name for name in raw if name.endswith('frame_00000002.jpg'))
  buffer = io.BytesIO()
  Image.open(io.BytesIO(raw[name])).convert('RGB').save(buffer, 'JPEG', quality=75)
  assert full['train']['ADE_frame_00000002']['image'] == buffer.getvalue()


def test_847_classes_by_object_id(full):
  view = find_view('ade20k_847/semantic')
  values = read_label_map(full['val']['ADE_val_00000001']['semantic'])
  classes = view.lookup[values]
  names = view.class_names()
  assert names[classes[20, 20]] == 'wall'
  assert names[classes[5, 20]] == 'sky'
  assert names[classes[30, 2]].startswith('person')
  # Unlabelled, and an object that is not among the 847.
  assert classes[0, 0] == -1
  assert classes[-1, -1] == -1
  assert values[-1, -1] == raw_ade20k.IDS_847['rare']


def test_847_archive_gives_the_same_records(full, tmp_path):
  raw = raw_ade20k.write_847(tmp_path / 'raw', archived=True)
  archived = built('ade20k_847', raw, tmp_path / 'data')
  for split, records in full.items():
    for image_id, record in records.items():
      assert plain(archived[split][image_id]) == plain(record)


class _Evil:
  def __reduce__(self):
    return print, ('run',)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (pickle.dumps(_Evil()), r'index of ADE20K 2021_17_01 \(it refers to builtins.prin'),
    (pickle.dumps({'folder': []}), 'is not the index of ADE20K'),
    (b'junk', 'is not the index of ADE20K'),
  ],
)
def test_other_pickles_are_refused_and_run_nothing(content, message, tmp_path, capsys):
  raw = raw_ade20k.write_847(tmp_path / 'raw')
  (raw / raw_ade20k.FULL / 'index_ade20k.pkl').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    build('ade20k_847', raw, tmp_path / 'data')
  assert capsys.readouterr().out == ''


def test_847_missing_label_map_is_named(tmp_path):
  raw = raw_ade20k.write_847(tmp_path / 'raw')
  next(raw.rglob('ADE_val_00000001_seg.png')).unlink()
  with pytest.raises(FileNotFoundError, match=r'attic/ADE_val_00000001_seg.png is in'):
    build('ade20k_847', raw, tmp_path / 'data')
