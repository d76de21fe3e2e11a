"""COCO from its official files to records."""

import io
import json
import shutil

import numpy as np
import pytest
import raw_coco
from built import built, plain
from PIL import Image
from raw_files import zipped

from maskclip_jax.data.build import build
from maskclip_jax.data.labels import read_label_map


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  return raw_coco.write_coco(tmp_path_factory.mktemp('raw'))


@pytest.fixture(scope='module')
def coco(raw, tmp_path_factory):
  return built('coco', raw, tmp_path_factory.mktemp('data'))


def test_official_splits_in_the_order_of_the_image_ids(coco):
  assert list(coco['train']) == ['9', '25', '30', '34', '36', '42']
  assert list(coco['val']) == ['139', '285']


def test_files_are_kept_byte_by_byte(coco, raw):
  record, stem = coco['train']['9'], '000000000009'
  assert record['image'] == (raw / f'train2017/{stem}.jpg').read_bytes()
  assert record['segments'] == (raw / f'panoptic_train2017/{stem}.png').read_bytes()
  semantic = (raw / f'stuffthingmaps/train2017/{stem}.png').read_bytes()
  assert record['semantic'] == semantic
  assert record['file_name'] == f'{stem}.jpg'
  assert (record['height'], record['width']) == raw_coco.SIZE


def test_tables_are_the_official_ones(coco):
  for split, name in (('train', 'train2017'), ('val', 'val2017')):
    official = raw_coco.annotations(name)
    panoptic = {
      str(row['image_id']): row['segments_info']
      for row in official['panoptic']['annotations']
    }
    for image_id, record in coco[split].items():
      expected, table = panoptic[image_id], record['segments_info']
      for column, key in (('id', 'id'), ('category_id', 'category_id'), ('area',) * 2):
        assert table[column].tolist() == [row[key] for row in expected]
      assert table['bbox'].tolist() == [row['bbox'] for row in expected]
      assert table['crowd'].tolist() == [bool(row['iscrowd']) for row in expected]
      values = read_label_map(record['segments'])
      assert set(np.unique(values)) - {0} == set(table['id'].tolist())


def test_instances_keep_polygons_run_lengths_and_ids(coco):
  table = coco['train']['9']['instances']
  official = [
    row
    for row in raw_coco.annotations('train2017')['instances']['annotations']
    if row['image_id'] == 9
  ]
  assert table['id'].tolist() == [900, 901, 902]
  assert table['crowd'].tolist() == [False, False, True]
  masks = [json.loads(text) for text in table['segmentation']]
  assert masks == [row['segmentation'] for row in official]


def test_classes_are_positions_in_the_panoptic_vocabulary(coco):
  table = coco['train']['9']
  # Things by id, then stuff by id: tie is the 28th of the things.
  assert table['instances']['class'].tolist() == [0, 27, 0]
  classes = dict(
    zip(
      table['segments_info']['category_id'].tolist(),
      table['segments_info']['class'].tolist(),
      strict=True,
    )
  )
  assert classes[raw_coco.SKY_OTHER_MERGED] == 119
  assert classes[raw_coco.GRASS_MERGED] == 125


def test_photo_without_labels(coco):
  record = coco['train']['42']
  assert not len(record['segments_info']['id'])
  assert not len(record['instances']['id'])
  assert not read_label_map(record['segments']).any()
  assert (read_label_map(record['semantic']) == 255).all()
  assert record['segments_info']['bbox'].shape == (0, 4)


def test_grey_and_rotated_photos_are_stored_as_they_are(coco):
  grey = Image.open(io.BytesIO(coco['train']['25']['image']))
  assert grey.mode == 'L'
  rotated = coco['train']['30']
  assert (rotated['height'], rotated['width']) == raw_coco.SIZE
  assert Image.open(io.BytesIO(rotated['image'])).getexif()[0x0112] == 6


def test_captions_and_karpathy_split(coco):
  record = coco['train']['9']
  assert record['captions'] == ['photo 000000000009 0', 'photo 000000000009 1']
  subsets = {key: row['subsets'] for key, row in coco['train'].items()}
  assert subsets['9'] == ['karpathy_train']
  assert subsets['30'] == []


def test_archives_give_the_same_records(coco, tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw', archived=True)
  assert sorted(path.name for path in raw.iterdir()) == [
    'annotations_trainval2017.zip',
    'caption_datasets.zip',
    'panoptic_annotations_trainval2017.zip',
    'stuffthingmaps_trainval2017.zip',
    'train2017.zip',
    'val2017.zip',
  ]
  archived = built('coco', raw, tmp_path / 'data')
  for split, records in coco.items():
    for image_id, record in records.items():
      assert plain(archived[split][image_id]) == plain(record)


def test_extracted_annotations_beside_the_inner_zips(tmp_path, raw):
  """What unzipping the panoptic archive once leaves: a zip per split."""
  shutil.copytree(raw, tmp_path / 'raw')
  for split in ('train2017', 'val2017'):
    folder = tmp_path / 'raw' / f'panoptic_{split}'
    files = {f'panoptic_{split}/{f.name}': f.read_bytes() for f in folder.iterdir()}
    (tmp_path / f'raw/annotations/panoptic_{split}.zip').write_bytes(zipped(files))
    shutil.rmtree(folder)
  records = built('coco', tmp_path / 'raw', tmp_path / 'data')
  assert records['val']['139']['segments']


def test_optional_parts_are_left_out_and_named(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw', stuff=False, karpathy_split=False)
  result = build('coco', raw, tmp_path / 'data')
  assert result.left_out == ('stuff', 'karpathy')
  assert build('coco', raw, tmp_path / 'data').left_out == result.left_out


def test_only_the_parts_asked_for(tmp_path, raw):
  records = built('coco', raw, tmp_path, parts=['instances'])
  record = records['train']['9']
  assert len(record['instances']['id']) == 3
  assert not record['segments']
  assert not record['semantic']
  assert not record['captions']


def test_unknown_part(tmp_path, raw):
  with pytest.raises(ValueError, match="no part 'panoptik': there are instances, pano"):
    build('coco', raw, tmp_path, parts=['panoptik'])


def _edited(tmp_path, edit):
  """Raw files after `edit(folder)`."""
  raw = raw_coco.write_coco(tmp_path / 'raw')
  edit(raw)
  return raw


def _edit_json(name, edit):
  def apply(raw):
    path = raw / 'annotations' / name
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))

  return apply


def _swap_names(data):
  first, second = data['categories'][:2]
  first['name'], second['name'] = second['name'], first['name']


def _thing_as_stuff(data):
  data['categories'][0]['isthing'] = 0


def _shift_categories(data):
  for row in data['annotations']:
    row['category_id'] += 11


def _repeat_photo(data):
  data['images'].append(data['images'][0])


def _cut(name):
  def apply(raw):
    data = (raw / name).read_bytes()
    (raw / name).write_bytes(data[: len(data) * 2 // 3])

  return apply


_TRAIN = 'instances_train2017.json'
_FAULTS = {
  'names swapped': (
    _edit_json(_TRAIN, _swap_names),
    "category 1 as 'bicycle', but COCO calls it 'person'",
  ),
  'thing marked stuff': (
    _edit_json('panoptic_val2017.json', _thing_as_stuff),
    "category 1 as 'person', stuff, but it is a thing in COCO",
  ),
  'ids shifted': (
    _edit_json(_TRAIN, _shift_categories),
    'image 9 has category 12, which is none of the 80',
  ),
  'cut JSON': (_cut(f'annotations/{_TRAIN}'), 'train2017.json is not a complete JSON'),
  'another JSON': (
    lambda raw: (raw / f'annotations/{_TRAIN}').write_text('{"images": []}'),
    "has no 'annotations'",
  ),
  'missing panoptic PNG': (
    lambda raw: (raw / 'panoptic_val2017/000000000139.png').unlink(),
    r'panoptic_val2017 lacks 1 panoptic PNG \(000000000139\)',
  ),
  'missing photo': (
    lambda raw: (raw / 'val2017/000000000285.jpg').unlink(),
    r'lacks 1 photos \(000000000285\).*val2017.zip',
  ),
  'missing stuff map': (
    lambda raw: (raw / 'stuffthingmaps/val2017/000000000285.png').unlink(),
    'lacks 1 stuff maps',
  ),
  'cut photo': (
    _cut('train2017/000000000025.jpg'),
    'train2017/000000000025.jpg is not a readable photo',
  ),
  'cut map': (
    _cut('panoptic_train2017/000000000025.png'),
    'panoptic_train2017/000000000025.png: damaged PNG',
  ),
  'text for a photo': (
    lambda raw: (raw / 'train2017/000000000025.jpg').write_text('404 Not Found'),
    'train2017/000000000025.jpg is not a readable photo',
  ),
  'labels of another size': (
    lambda raw: (raw / 'stuffthingmaps/train2017/000000000025.png').write_bytes(
      raw_coco.png(np.zeros((4, 5), np.uint8))
    ),
    '000000000025.png is 5 x 4 but its photo is 32 x 24',
  ),
  'annotations of 2014': (
    lambda raw: (raw / f'annotations/{_TRAIN}').rename(
      raw / 'annotations/instances_train2014.json'
    ),
    'no instances annotations under .*annotations_trainval2017.zip',
  ),
}


@pytest.mark.parametrize('fault', _FAULTS)
def test_faulty_files_are_named_and_nothing_is_built(fault, tmp_path):
  edit, message = _FAULTS[fault]
  raw = _edited(tmp_path, edit)
  with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
    build('coco', raw, tmp_path / 'data')
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'data/coco/1.0.0').exists()


def test_cut_archive_is_named(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw', archived=True)
  _cut('val2017.zip')(raw)
  with pytest.raises(ValueError, match=r'val2017.zip is damaged or incomplete.*again'):
    build('coco', raw, tmp_path / 'data')


def test_damage_inside_an_archive_is_named(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw', archived=True)
  path = raw / 'train2017.zip'
  data = bytearray(path.read_bytes())
  start = data.index(b'\xff\xd8')
  data[start + 300] ^= 0xFF
  path.write_bytes(bytes(data))
  with pytest.raises(ValueError, match=r'train2017.zip:train2017/0000.*is damaged'):
    build('coco', raw, tmp_path / 'data')
