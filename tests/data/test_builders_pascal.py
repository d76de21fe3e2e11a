"""PASCAL VOC 2012 and PASCAL Context from their official files to records."""

import numpy as np
import pytest
import raw_pascal
from built import built, plain
from PIL import Image

from maskclip_jax.data.build import build
from maskclip_jax.data.records import read_label_map
from maskclip_jax.data.views import find_view


@pytest.fixture(scope='module')
def voc(tmp_path_factory):
  raw = raw_pascal.write_voc(tmp_path_factory.mktemp('raw'))
  return built('voc2012', raw, tmp_path_factory.mktemp('data'))


def test_palette_maps_are_read_as_classes(voc):
  record = voc['train']['2007_000032']
  assert (read_label_map(record['semantic']) == raw_pascal.voc_map(0)).all()


def test_voc_views_with_and_without_background(voc):
  values = read_label_map(voc['train']['2007_000032']['semantic'])
  without = find_view('voc2012/20').lookup[values]
  names = find_view('voc2012/20').class_names()
  assert without[0, 0] == -1
  assert without[5, 5] == -1
  assert (names[without[10, 10]], names[without[25, 30]]) == ('aeroplane', 'person')
  within = find_view('voc2012/21').lookup[values]
  names = find_view('voc2012/21').class_names()
  assert names[within[0, 0]] == 'background'
  assert within[5, 5] == -1
  assert names[within[10, 10]] == 'aeroplane'


def test_sbd_labels_make_a_split_without_the_validation_photos(voc, tmp_path):
  assert set(voc['train_aug']) == {'2007_000032', '2007_000039', '2008_000002'}
  raw = raw_pascal.write_voc(tmp_path / 'raw', aug=False)
  result = build('voc2012', raw, tmp_path / 'data')
  assert list(result.examples) == ['train', 'val']
  assert result.left_out == ('aug',)


def test_voc_archives_give_the_same_records(voc, tmp_path):
  raw = raw_pascal.write_voc(tmp_path / 'raw', archived=True)
  archived = built('voc2012', raw, tmp_path / 'data')
  for split, records in voc.items():
    for image_id, record in records.items():
      assert plain(archived[split][image_id]) == plain(record)


def test_sbd_labels_that_were_asked_for_but_are_missing(tmp_path):
  raw = raw_pascal.write_voc(tmp_path / 'raw', aug=False)
  with pytest.raises(FileNotFoundError, match='SegmentationClassAug'):
    build('voc2012', raw, tmp_path / 'data', parts=['aug'])


@pytest.fixture(scope='module')
def context(tmp_path_factory):
  raw = raw_pascal.write_context(tmp_path_factory.mktemp('raw'))
  return built('pascal_context', raw, tmp_path_factory.mktemp('data'))


def test_context_splits_come_from_voc_2010(context):
  lists = {split: list(records) for split, records in context.items()}
  assert lists == raw_pascal.CONTEXT_LISTS


def test_label_map_values_are_kept_in_16_bits(context):
  for record in context['val'].values():
    values = read_label_map(record['semantic'])
    assert (values == raw_pascal.context_map()).all()


@pytest.mark.parametrize(
  ('view', 'sky', 'grass', 'person', 'accordion', 'none'),
  [
    # Accordion is not among the 59; with a background it counts as that.
    ('pascal_context/459', 359, 186, 283, 0, -1),
    ('pascal_context/59', 46, 28, 36, -1, -1),
    ('pascal_context/60', 47, 29, 37, 0, 0),
    ('pascal_context/59_ovseg', 49, 35, 14, -1, -1),
  ],
)
def test_459_59_and_60_classes_are_views(view, sky, grass, person, accordion, none):
  lookup = find_view(view).lookup
  values = (
    raw_pascal.SKY,
    raw_pascal.GRASS,
    raw_pascal.PERSON_459,
    raw_pascal.ACCORDION,
    0,
  )
  assert lookup[list(values)].tolist() == [sky, grass, person, accordion, none]


def test_context_archives_give_the_same_records(context, tmp_path):
  raw = raw_pascal.write_context(tmp_path / 'raw', archived=True)
  archived = built('pascal_context', raw, tmp_path / 'data')
  for split, records in context.items():
    for image_id, record in records.items():
      assert plain(archived[split][image_id]) == plain(record)


def test_own_validation_list(tmp_path):
  raw = raw_pascal.write_context(tmp_path / 'raw')
  (raw / 'pascalcontext_val.txt').write_text('2008_000008\n2008_000019')
  records = built('pascal_context', raw, tmp_path / 'data')
  assert list(records['val']) == ['2008_000008', '2008_000019']
  assert list(records['train']) == ['2008_000015']


def _write(name, data):
  return lambda raw: (raw / name).write_bytes(data)


def _cut_mat(raw):
  path = raw / 'trainval/2008_000015.mat'
  path.write_bytes(path.read_bytes()[:150])


def _names_of_59(raw):
  (raw / 'labels.txt').write_text('1: aeroplane\n2: bicycle\n')


_FAULTS = {
  'text for a map': (
    _write('trainval/2008_000015.mat', b'<html>not found</html>'),
    '2008_000015.mat holds no LabelMap',
  ),
  'cut map': (_cut_mat, '2008_000015.mat holds no LabelMap'),
  'labels of the 59': (_names_of_59, "calls class 1 'aeroplane' but PASCAL Context ca"),
  'missing map': (
    lambda raw: (raw / 'trainval/2008_000015.mat').unlink(),
    r'lacks 1 label files \(2008_000015\).*trainval.tar.gz',
  ),
}


@pytest.mark.parametrize('fault', _FAULTS)
def test_faulty_context_files_are_named(fault, tmp_path):
  edit, message = _FAULTS[fault]
  raw = raw_pascal.write_context(tmp_path / 'raw')
  edit(raw)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    build('pascal_context', raw, tmp_path / 'data')


def test_wrong_archive_names_what_is_missing(tmp_path):
  """VOC 2012 given for PASCAL Context, which needs VOC 2010."""
  raw = raw_pascal.write_voc(tmp_path / 'raw', archived=True)
  with pytest.raises(FileNotFoundError, match=r'no photos under .*03-May-2010.tar'):
    build('pascal_context', raw, tmp_path / 'data')


def test_voc_map_values_survive_as_int32(voc):
  values = read_label_map(voc['val']['2007_000042']['semantic'])
  assert values.dtype == np.int32
  assert set(np.unique(values)) == {0, raw_pascal.TV, raw_pascal.PERSON, 255}


def test_labels_saved_as_colours_are_refused(tmp_path):
  raw = raw_pascal.write_voc(tmp_path / 'raw', aug=False)
  for path in raw.glob('**/SegmentationClass/*.png'):
    Image.open(path).convert('RGB').save(path)
  with pytest.raises(ValueError, match=r'Class/.*png holds .* was saved as colours'):
    build('voc2012', raw, tmp_path / 'data')
  assert not (tmp_path / 'data/voc2012/1.0.0').exists()
