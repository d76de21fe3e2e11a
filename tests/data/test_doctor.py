"""The doctor passes clean data and finds each of many planted faults.

Faults are planted where users make them: in the owners' files before the build, or, for
what a build refuses, in the built records.
"""

import json
import re
import shutil

import numpy as np
import pytest
import raw_ade20k
import raw_coco
import raw_pascal
from array_record.python import array_record_module
from built import rows
from PIL import Image
from raw_files import png

from maskclip_jax.data import records
from maskclip_jax.data.build import build
from maskclip_jax.data.doctor import KINDS, check
from maskclip_jax.data.records import read_label_map, write_label_map
from maskclip_jax.data.registry import Counts
from maskclip_jax.data.sources import Index, Row, index_path
from maskclip_jax.data.views import find_view
from maskclip_jax.places import dataset_path

WRITERS = {
  'ade20k_150': raw_ade20k.write_150,
  'ade20k_847': raw_ade20k.write_847,
  'coco': raw_coco.write_coco,
  'pascal_context': raw_pascal.write_context,
  'voc2012': raw_pascal.write_voc,
}
COUNTS = {
  'ade20k_150': {'train': Counts(4), 'val': Counts(2)},
  'ade20k_847': {'train': Counts(3), 'val': Counts(1)},
  'coco': {'train': Counts(6, 8, 12, 5), 'val': Counts(2, 3, 4, 2)},
  'pascal_context': {'train': Counts(1), 'val': Counts(2)},
  'voc2012': {'train': Counts(2), 'val': Counts(2), 'train_aug': Counts(3)},
}


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
  """Every dataset, built from faultless files."""
  folder = tmp_path_factory.mktemp('clean')
  for name, write in WRITERS.items():
    build(name, write(tmp_path_factory.mktemp(name)), folder)
  return folder


@pytest.mark.parametrize('name', WRITERS)
def test_clean_data_passes(name, clean):
  report = check(name, clean, counts=COUNTS[name])
  assert report.ok, [group.line() for group in report.groups]
  assert report.kinds() == set()


def test_sizes_and_notes_of_clean_data(clean):
  report = check('coco', clean, counts=COUNTS['coco'])
  assert dict(report.sizes) == {'train': (6, 6, 18, 8, 12), 'val': (2, 2, 7, 3, 4)}
  notes = {group.kind for group in report.groups}
  assert notes == {'unlabelled', 'rotated', 'unused'}
  objects = next(
    h for h in report.histograms if (h.split, h.what) == ('val', 'objects')
  )
  assert objects.rows == (('cat', 2), ('person', 1))


def test_fewer_photos_are_decoded_but_all_are_counted(clean):
  report = check('coco', clean, images=2, counts=COUNTS['coco'])
  assert dict(report.sizes)['train'] == (6, 2, 18, 8, 12)


# Faults in the owners' files that a build cannot see.


def _edit_json(name, edit):
  def apply(raw):
    path = raw / 'annotations' / name
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))

  return apply


def _swap(first, second):
  """Swaps two category ids in the rows of a file, not in its list of categories."""

  def edit(data):
    for annotation in data['annotations']:
      for row in annotation.get('segments_info', [annotation]):
        number = row['category_id']
        row['category_id'] = {first: second, second: first}.get(number, number)

  return edit


def _maps(pattern, change):
  """Changes the values of label files."""

  def apply(raw):
    for path in raw.glob(pattern):
      path.write_bytes(png(change(np.asarray(Image.open(path)))))

  return apply


def _wrong_areas(data):
  for annotation in data['annotations']:
    for row in annotation['segments_info']:
      row['area'] = row['area'] // 2


def _wrong_boxes(data):
  for annotation in data['annotations']:
    for row in annotation['segments_info']:
      row['bbox'] = [0, 0, 3, 3]


def _lost_rows(data):
  for annotation in data['annotations']:
    del annotation['segments_info'][:1]


def _extra_rows(data):
  for annotation in data['annotations']:
    for row in annotation['segments_info'][:1]:
      annotation['segments_info'].append({**row, 'id': 77})


def _stuff_twice(data):
  """Two segments of one stuff class, as if a thing class were marked stuff."""
  for annotation in data['annotations']:
    for row in annotation['segments_info']:
      if row['category_id'] == raw_coco.SKY_OTHER_MERGED:
        row['category_id'] = raw_coco.GRASS_MERGED


def _stuff_crowd(data):
  for annotation in data['annotations']:
    for row in annotation['segments_info'][:1]:
      row['iscrowd'] = 1


def _same_ids(data):
  for row in data['annotations']:
    row['id'] = 5


def _filtered(data):
  data['annotations'] = data['annotations'][:3]


def _masks_of_others(data):
  for row in data['annotations']:
    row['segmentation'] = [[0.0, 0.0, 31.0, 0.0, 31.0, 23.0, 0.0, 23.0]]


def _points(data):
  for row in data['annotations']:
    row['segmentation'] = {'size': [5, 5], 'counts': [25]}


def _captions_of_some(data):
  data['annotations'] = [row for row in data['annotations'] if row['image_id'] > 30]


def _other_photos(raw):
  """Panoptic PNG of one photo under the name of another."""
  folder = raw / 'panoptic_train2017'
  shutil.copy(folder / '000000000025.png', folder / '000000000030.png')


def _renumbered_stuff_maps(raw):
  """Stuff maps renumbered to 0..170, as other tools leave them under this name."""
  lookup = find_view('coco/stuff171').lookup
  table = np.where(lookup[:256] >= 0, lookup[:256], 255).astype(np.uint8)
  _maps('stuffthingmaps/*/*.png', lambda values: table[values])(raw)


def _train_photos_in_val(raw):
  path = raw / 'VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt'
  path.write_text('2007_000032\n' + path.read_text())


_ADE = f'{raw_ade20k.CHALLENGE}/annotations/*/*.png'
_PANOPTIC = 'panoptic_train2017.json'
_INSTANCES = 'instances_train2017.json'
_CAT, _PERSON = raw_coco.CAT, raw_coco.PERSON


def _reduced(values):
  """'reduce_zero_label' applied to the files: 0 becomes 255, 1 becomes 0."""
  return (values.astype(int) - 1).astype(np.uint8)


RAW_FAULTS = {
  # Label ids swapped or shifted.
  'panoptic ids swapped': (
    'coco',
    _edit_json(_PANOPTIC, _swap(_PERSON, _CAT)),
    'panoptic-semantic',
  ),
  'object ids swapped': (
    'coco',
    _edit_json(_INSTANCES, _swap(_PERSON, _CAT)),
    'objects-panoptic',
  ),
  'object ids against stuff maps': (
    'coco',
    _edit_json(_INSTANCES, _swap(_PERSON, _CAT)),
    'objects-semantic',
  ),
  'ADE labels one too high': (
    'ade20k_150',
    _maps(_ADE, lambda values: values + (values > 0).astype(np.uint8)),
    'objects-semantic',
  ),
  'ADE labels off by one, by frequency': (
    'ade20k_150',
    _maps(_ADE, lambda values: values + (values > 0).astype(np.uint8)),
    'frequent',
  ),
  'VOC labels one too high': (
    'voc2012',
    _maps('VOCdevkit/VOC2012/SegmentationClass/*.png', lambda v: v + np.uint8(1)),
    'value',
  ),
  'VOC background removed': (
    'voc2012',
    _maps('VOCdevkit/VOC2012/SegmentationClass/*.png', _reduced),
    'frequent',
  ),
  'stuff maps renumbered': ('coco', _renumbered_stuff_maps, 'panoptic-semantic'),
  # Panoptic PNG against JSON.
  'areas': ('coco', _edit_json(_PANOPTIC, _wrong_areas), 'area'),
  'boxes': ('coco', _edit_json(_PANOPTIC, _wrong_boxes), 'box'),
  'ids without rows': ('coco', _edit_json(_PANOPTIC, _lost_rows), 'id-without-row'),
  'rows without ids': ('coco', _edit_json(_PANOPTIC, _extra_rows), 'row-without-id'),
  'PNG of other photos': ('coco', _other_photos, 'id-without-row'),
  # Things and stuff.
  'thing marked stuff': ('coco', _edit_json(_PANOPTIC, _stuff_twice), 'stuff-twice'),
  'crowd of stuff': ('coco', _edit_json(_PANOPTIC, _stuff_crowd), 'stuff-crowd'),
  # Annotation files that were filtered, or are of another split.
  'filtered objects': ('coco', _edit_json(_INSTANCES, _filtered), 'counts'),
  'captions of some': (
    'coco',
    _edit_json('captions_train2017.json', _captions_of_some),
    'no-captions',
  ),
  'one object id': ('coco', _edit_json(_INSTANCES, _same_ids), 'same-id'),
  'masks of others': ('coco', _edit_json(_INSTANCES, _masks_of_others), 'mask-area'),
  'masks of another size': ('coco', _edit_json(_INSTANCES, _points), 'mask'),
  'photos in two splits': ('voc2012', _train_photos_in_val, 'leak'),
}


@pytest.mark.parametrize('fault', RAW_FAULTS)
def test_faults_in_the_files_are_found(fault, tmp_path):
  name, plant, kind = RAW_FAULTS[fault]
  raw = WRITERS[name](tmp_path / 'raw')
  plant(raw)
  build(name, raw, tmp_path / 'data')
  report = check(name, tmp_path / 'data', counts=COUNTS[name])
  assert kind in report.kinds(), [group.line() for group in report.groups]


def _one_wrong_object(data):
  row = next(row for row in data['annotations'] if row['image_id'] == 25)
  row['category_id'] = _CAT


def test_a_single_disagreement_proves_nothing(tmp_path):
  """Official annotations disagree here and there."""
  raw = raw_coco.write_coco(tmp_path / 'raw')
  _edit_json(_INSTANCES, _one_wrong_object)(raw)
  build('coco', raw, tmp_path / 'data')
  assert check('coco', tmp_path / 'data', counts=COUNTS['coco']).kinds() == set()


# Faults in a built dataset: of other builders, of damaged disks.


def _rewrite(name, split, data_dir, edit):
  """Edits the records of a split in place, as a faulty builder would have made them."""
  edited = list(rows(name, split, data_dir).values())
  edited = edit(edited) or edited
  folder = dataset_path(name, data_dir)
  shard = next(folder.glob(f'{name}-{split}.array_record-*'))
  writer = array_record_module.ArrayRecordWriter(str(shard), 'group_size:1')
  for record in edited:
    writer.write(records.serialise(record))
  writer.close()
  known = []
  for record in edited:
    try:
      known.append(Row.of(record))
    except ValueError:
      known.append(Row.of({**record, 'semantic': b''}))
  Index.of(known).save(index_path(folder, split))


def _cut_photo(edited):
  edited[1]['image'] = edited[1]['image'][:-150]


def _no_panoptic(edited):
  edited[1]['segments'] = b''


def _off_by_one(edited):
  for record in edited:
    record['segments_info']['class'] += 1


def _renumbered(edited):
  for record in edited:
    record['instances']['category_id'] = record['instances']['class'] + 300


def _stuff_objects(edited):
  for record in edited:
    table = record['instances']
    table['category_id'][:] = raw_coco.GRASS_MERGED
    table['class'][:] = 125


def _other_size(edited):
  edited[0]['height'] += 8


def _small_labels(edited):
  values = read_label_map(edited[0]['semantic'])
  edited[0]['semantic'] = write_label_map(values[::2, ::2])


def _cut_labels(edited):
  edited[0]['semantic'] = edited[0]['semantic'][:-20]


def _twice(edited):
  return [*edited, edited[0]]


def _no_labels(edited):
  for record in edited[:3]:
    empty = edited[-1]
    for field in ('segments_info', 'instances', 'segments', 'semantic'):
      record[field] = empty[field]


def _shifted_classes(edited):
  for record in edited:
    values = read_label_map(record['semantic'])
    record['semantic'] = write_label_map(np.where(values > 0, values + 5000, 0))


def _one_less(edited):
  return edited[:-1]


BUILT_FAULTS = {
  'cut photo': ('coco', _cut_photo, 'photo'),
  'missing panoptic PNG': ('coco', _no_panoptic, 'no-panoptic'),
  'classes off by one': ('coco', _off_by_one, 'class'),
  'categories renumbered': ('coco', _renumbered, 'category'),
  'objects of stuff': ('coco', _stuff_objects, 'stuff-object'),
  'size of another photo': ('coco', _other_size, 'photo-size'),
  'reduced labels': ('coco', _small_labels, 'label-size'),
  'cut labels': ('coco', _cut_labels, 'labels'),
  'a photo twice': ('coco', _twice, 'twice'),
  'a photo less': ('coco', _one_less, 'images'),
  'labels missing': ('coco', _no_labels, 'many-unlabelled'),
  'ids of another release': ('ade20k_847', _shifted_classes, 'value'),
  'context shifted': ('pascal_context', _shifted_classes, 'value'),
}


@pytest.mark.parametrize('fault', BUILT_FAULTS)
def test_faults_in_a_build_are_found(fault, clean, tmp_path):
  name, edit, kind = BUILT_FAULTS[fault]
  shutil.copytree(clean / name, tmp_path / name)
  _rewrite(name, 'train', tmp_path, edit)
  report = check(name, tmp_path, counts=COUNTS[name])
  assert kind in report.kinds(), [group.line() for group in report.groups]


def test_damaged_records_are_named_and_the_rest_is_checked(clean, tmp_path):
  shutil.copytree(clean / 'coco', tmp_path / 'coco')
  shard = next((tmp_path / 'coco/1.0.0').glob('coco-train.array_record-*'))
  data = bytearray(shard.read_bytes())
  data[1000:1064] = bytes(64)
  shard.write_bytes(bytes(data))
  report = check('coco', tmp_path, counts=COUNTS['coco'])
  group = next(group for group in report.groups if group.kind == 'record')
  assert group.findings[0].image_id == '9'
  assert report.dataset == 'coco'
  assert {example.split for example in report.examples} == {'train', 'val'}


def test_published_counts_are_the_default(clean):
  report = check('voc2012', clean)
  lines = [group.line() for group in report.groups if group.kind == 'images']
  assert lines[0] == (
    'train: the number of photos is not the published one: 2, published are 1,464'
  )


def test_unbuilt_dataset_says_how_to_build(tmp_path):
  with pytest.raises(FileNotFoundError, match='data build coco --raw DIR'):
    check('coco', tmp_path)


def test_parts_left_out_are_a_note(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw', stuff=False)
  build('coco', raw, tmp_path / 'data')
  report = check('coco', tmp_path / 'data', counts=COUNTS['coco'])
  assert report.ok
  assert any(group.kind == 'part' for group in report.groups)


# The report.


def test_report_is_one_page_with_pictures_and_advice(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')
  _edit_json(_PANOPTIC, _wrong_areas)(raw)
  build('coco', raw, tmp_path / 'data')
  report = check('coco', tmp_path / 'data', counts=COUNTS['coco'])
  page = report.write_html(tmp_path / 'report.html').read_text()
  assert KINDS['area'].title in page
  assert 'What to do:' in page
  assert 'photo 9: ' in page
  assert 'such as segment 1801' in page
  # Self-contained: pictures are inside, and nothing is loaded from elsewhere.
  assert page.count('src="data:image/jpeg;base64,') >= 8
  assert not re.findall(r'(?:src|href)="(?!data:)', page)
  assert '<script' not in page
  kinds = {example.kind for example in report.examples}
  assert 'area' in kinds
  titles = [title for title, _ in report.examples[0].pictures]
  assert titles == ['photo', 'panoptic', 'objects', 'semantic']


def test_names_in_the_report_are_escaped(clean, tmp_path):
  shutil.copytree(clean / 'voc2012', tmp_path / 'voc2012')

  def rename(edited):
    edited[0]['image_id'] = '<b>x</b>'
    edited[0]['image'] = b'junk'

  _rewrite('voc2012', 'train', tmp_path, rename)
  page = check('voc2012', tmp_path).html()
  assert '<b>x</b>' not in page
  assert '&lt;b&gt;x&lt;/b&gt;' in page


def test_there_are_enough_kinds_and_each_says_what_to_do():
  assert len(RAW_FAULTS) + len(BUILT_FAULTS) >= 12
  found = {kind for _, _, kind in (*RAW_FAULTS.values(), *BUILT_FAULTS.values())}
  assert len(found) >= 12
  fixes = [kind.remedy(own=own) for kind in KINDS.values() for own in (True, False)]
  assert all(fix.endswith('.') for fix in fixes)
