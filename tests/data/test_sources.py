"""Reading built datasets through views, and datasets that TFDS prepared itself."""

import io
import json
import pickle

import numpy as np
import pytest
import raw_ade20k
import raw_coco
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image
from prepared import prepare
from pycocotools import mask as rle

from maskclip_jax.data.build import build
from maskclip_jax.data.catalogue import DATASETS
from maskclip_jax.data.records import read_label_map
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.views import find_view, main_view, view_names


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  raw = raw_coco.write_coco(tmp_path_factory.mktemp('raw'))
  build('coco', raw, folder, examples_per_shard=4)
  return folder


def _ids(view, split, data_dir, **options):
  return [
    record['image_id'] for record in open_source(view, split, data_dir, **options)
  ]


@pytest.mark.parametrize(
  ('view', 'train', 'val'),
  [
    ('coco/panoptic', ['9', '25', '30', '34', '36', '42'], ['139', '285']),
    # At least one annotation of the classes, crowds included.
    ('coco/instances80', ['9', '25', '30', '34', '36'], ['139', '285']),
    ('coco/base48', ['9', '25', '36'], ['139']),
    ('coco/novel17', ['9', '30'], ['139', '285']),
    ('coco/instances65', ['9', '25', '30', '36'], ['139', '285']),
    # Only photos with a labelled pixel.
    ('coco/stuff171', ['9', '25', '30', '34', '36'], ['139', '285']),
    ('coco/object81', ['9', '25', '30', '34', '36', '42'], ['139', '285']),
    ('coco/captions', ['9', '25', '30', '34', '36', '42'], ['139', '285']),
  ],
)
def test_views_keep_the_photos_that_count(view, train, val, data_dir):
  assert _ids(view, 'train', data_dir) == train
  assert _ids(view, 'val', data_dir) == val


def test_karpathy_view(data_dir):
  assert _ids('coco/captions_karpathy', 'train', data_dir) == ['9', '25']
  with pytest.raises(ValueError, match="no photo is on the list 'karpathy_train'"):
    open_source('coco/captions_karpathy', 'val', data_dir)


def test_training_leaves_out_photos_with_nothing_but_a_crowd(data_dir):
  assert _ids('coco/base48', 'train', data_dir, trainable=True) == ['9', '25']
  trained = _ids('coco/instances80', 'train', data_dir, trainable=True)
  assert trained == ['9', '25', '30', '34']


def test_sources_know_sizes_without_reading_and_survive_pickling(data_dir):
  source = open_source('coco/novel17', 'train', data_dir)
  assert source.sizes.tolist() == [list(raw_coco.SIZE)] * 2
  copy = pickle.loads(pickle.dumps(source))
  assert copy[-1]['image'] == source[1]['image']
  with pytest.raises(IndexError):
    source[2]


@pytest.mark.parametrize(
  ('view', 'split', 'message'),
  [
    (
      'coco/panoptik',
      'val',
      "no view is called 'coco/panoptik': did you mean 'coco/panoptic'",
    ),
    ('coco/panoptic', 'test', "no split 'test': there are train, val"),
    ('voc2012/20', 'val', 'voc2012 is not built in .*data build voc2012 --raw'),
    ('tfds_coco/panoptic', 'val', 'TFDS has prepared no coco/2017_panoptic'),
  ],
)
def test_what_cannot_be_opened_is_said_in_one_line(view, split, message, data_dir):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    open_source(view, split, data_dir)


def test_parts_that_were_not_built_are_named(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw', stuff=False)
  build('coco', raw, tmp_path / 'data')
  with pytest.raises(ValueError, match="no photo has semantic for the view 'coco/stuf"):
    open_source('coco/stuff171', 'train', tmp_path / 'data')


def _zero(path, start):
  data = bytearray(path.read_bytes())
  data[start : start + 64] = bytes(64)
  path.write_bytes(bytes(data))


def test_missing_and_damaged_files_are_named(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')
  folder = build('coco', raw, tmp_path / 'data', examples_per_shard=3).path
  shard = folder / 'coco-train.array_record-00001-of-00002'
  _zero(shard, 1000)
  source = open_source('coco/panoptic', 'train', tmp_path / 'data')
  assert source[0]['image_id'] == '9'
  with pytest.raises(ValueError, match=r'record 3 cannot be read .* build it again'):
    source[3]
  # A copy that was interrupted: the table at the end is missing.
  shard.write_bytes(shard.read_bytes()[:-500])
  with pytest.raises(ValueError, match=r'a file of the train split is damaged'):
    open_source('coco/panoptic', 'train', tmp_path / 'data')
  shard.unlink()
  with pytest.raises(FileNotFoundError, match='holds 1 of the 2 files of the train'):
    open_source('coco/panoptic', 'train', tmp_path / 'data')


def test_every_view_has_classes_in_order():
  for name in view_names():
    view = find_view(name)
    if view.kind in ('caption', 'pair'):
      continue
    names = view.class_names()
    found = view.lookup[view.lookup >= 0]
    assert set(found.tolist()) == set(range(len(names)))
    assert find_view(name) == pickle.loads(pickle.dumps(view))


def test_stuff_values_are_ids_less_one_with_gaps():
  lookup = find_view('coco/stuff171').lookup
  assert (lookup[:256] >= 0).sum() == 171
  gaps = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
  assert (lookup[gaps] == -1).all()
  assert lookup[0] == 0
  assert lookup[181] == 170
  assert lookup[255] == -1


def test_coco_object_counts_stuff_and_unlabelled_as_background():
  view = find_view('coco/object81')
  assert view.lookup[[0, 12, 89, 90, 181, 255]].tolist() == [1, 12, 80, 0, 0, 0]
  assert view.class_names()[:2] == ('background', 'person')


def test_main_view_is_the_datasets_own_vocabulary():
  assert main_view('coco').name == 'coco/panoptic'
  assert main_view('voc2012').name == 'voc2012/20'
  with pytest.raises(ValueError, match="no view is called 'imagenet': known: coco"):
    main_view('imagenet')


# Datasets that TFDS prepared.


@pytest.fixture(scope='module', params=['tfrecord', 'array_record'])
def catalogue(request, tmp_path_factory):
  if request.param == 'tfrecord':
    # TFDS needs TensorFlow to write this format, so write its framing ourselves.
    return _as_tfrecord(tmp_path_factory)
  folder = tmp_path_factory.mktemp('tfds')
  prepare(folder, request.param)
  return folder


def _as_tfrecord(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  prepare(folder, 'array_record')
  for path in list(folder.rglob('*.array_record-*')):
    with ArrayRecordDataSource(str(path)) as source:
      records = list(source)
    name = path.name.replace('.array_record-', '.tfrecord-')
    with (path.parent / name).open('wb') as file:
      for data in records:
        file.write(len(data).to_bytes(8, 'little') + b'crc.' + data + b'crc.')
    path.unlink()
  return folder


def test_prepared_coco_gets_its_own_ids_and_boxes_back(catalogue, data_dir):
  source = open_source('tfds_coco/panoptic', 'val', catalogue)
  ours = {r['image_id']: r for r in open_source('coco/panoptic', 'val', data_dir)}
  theirs = {record['image_id']: record for record in source}
  assert set(theirs) == set(ours)
  for image_id, record in theirs.items():
    expected = ours[image_id]
    for field in ('image', 'segments', 'file_name', 'height', 'width'):
      assert record[field] == expected[field]
    for column, values in expected['segments_info'].items():
      assert np.array_equal(record['segments_info'][column], values), column
    assert not len(record['instances']['id'])
  assert source.sizes.tolist() == [list(raw_coco.SIZE)] * 2
  assert pickle.loads(pickle.dumps(source))[0]['image'] == source[0]['image']


def test_prepared_scene_parse_has_objects_of_the_150_classes(catalogue):
  source = open_source('tfds_scene_parse150/instance', 'val', catalogue)
  assert len(source) == 2
  files = raw_ade20k.files_150()
  maps = [data for name, data in sorted(files.items()) if 'instance/valid' in name]
  expected = [np.asarray(Image.open(io.BytesIO(data)))[..., 1] for data in maps]
  found = []
  for record in source:
    table = record['instances']
    assert table['category_id'].tolist() == [8, 7, 8]
    ids = np.zeros(raw_ade20k.SIZE, np.uint8)
    for number, text in zip(table['id'], table['segmentation'], strict=True):
      ids[rle.decode(json.loads(text)) > 0] = number
    found.append(ids)
  assert sorted(m.tobytes() for m in found) == sorted(m.tobytes() for m in expected)


def test_what_prepared_datasets_lack_is_said():
  assert any('150 classes' in text for text in DATASETS['tfds_scene_parse150'].lacks)
  assert any('base/novel' in text for text in DATASETS['tfds_coco'].lacks)


def test_prepared_coco_with_other_classes_is_refused(tmp_path):
  prepare(tmp_path, 'array_record')
  path = next(tmp_path.rglob('panoptic_objects-label.labels.txt'))
  path.write_text(path.read_text().replace('person', 'people'))
  with pytest.raises(ValueError, match="does not list COCO's 133"):
    open_source('tfds_coco/panoptic', 'val', tmp_path)[0]


def test_cut_tfrecord_is_named(tmp_path_factory):
  folder = _as_tfrecord(tmp_path_factory)
  path = next(folder.rglob('coco-validation.tfrecord-*'))
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(ValueError, match=r'is cut off after 1 records: copy it again'):
    open_source('tfds_coco/panoptic', 'val', folder)


def test_label_maps_of_the_catalogue_decode(catalogue):
  record = open_source('tfds_coco/semantic', 'train', catalogue)[0]
  values = read_label_map(record['segments'])
  assert set(np.unique(values)) - {0} == set(record['segments_info']['id'].tolist())
