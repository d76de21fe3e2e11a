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
from maskclip_jax.data.doctor import check
from maskclip_jax.data.records import read_label_map


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


def _edit_rows(name, key, change):
  """Changes every row of a list of an annotation file."""

  def apply(data):
    for row in data[key]:
      change(row)

  return _edit_json(name, apply)


def _second_owner(data):
  next(i for i in data['images'] if i['id'] == 25)['id'] = 9


def _lose_photo(data):
  _no_list(data)
  data['annotations'] = [a for a in data['annotations'] if a['image_id'] != 9]


def _no_list(data):
  data['images'] = [image for image in data['images'] if image['id'] != 9]


def _first(key, value):
  def apply(data):
    data['annotations'][0][key] = value

  return apply


def _nameless(data):
  del data['categories'][0]['name']


def _recoloured(convert):
  def apply(raw):
    path = raw / 'panoptic_train2017/000000000025.png'
    Image.fromarray(convert(np.asarray(Image.open(path)))).save(path)

  return apply


def _map_as_colours(raw):
  path = raw / 'stuffthingmaps/train2017/000000000025.png'
  Image.open(path).convert('RGB').save(path)


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
  'an id listed twice': (
    _edit_json(_TRAIN, _second_owner),
    'lists the image id 9 twice, for 000000000025.jpg and 000000000009.jpg',
  ),
  'a photo that one file lacks': (
    _edit_json(_TRAIN, _lose_photo),
    'lists image 9 and instances_train2017.json does not',
  ),
  'labels of a photo that is not listed': (
    _edit_json(_TRAIN, _no_list),
    "labels of image 9, which its 'images' do not list",
  ),
  'an id that is a name': (
    _edit_json(_TRAIN, _first('id', 'ann0')),
    "'id' is 'ann0' in a row, and not a whole number",
  ),
  'an id beyond 64 bits': (
    _edit_json(_TRAIN, _first('id', 2**63)),
    "'id' is 9223372036854775808 in a row",
  ),
  'a box of three numbers': (
    _edit_json(_TRAIN, _first('bbox', [1, 2, 3])),
    r'a bbox of image 9 is \[1, 2, 3\]',
  ),
  'a segmentation that is text': (
    _edit_json(_TRAIN, _first('segmentation', 'mask.png')),
    'the segmentation of object 900 is neither polygons nor run lengths',
  ),
  'a category without a name': (
    _edit_json(_TRAIN, _nameless),
    "a row lacks 'name'",
  ),
  'a row that is null': (
    _edit_json('captions_train2017.json', lambda data: data['images'].append(None)),
    "row 6 of 'images' is None and not an object",
  ),
  'nested too deeply': (
    lambda raw: (raw / f'annotations/{_TRAIN}').write_text('[' * 100_000),
    'is not valid JSON',
  ),
  'panoptic map as grey': (
    _recoloured(lambda rgb: rgb[..., 0]),
    'holds none of the .* ids .* it was saved as grey',
  ),
  'panoptic map with red and blue exchanged': (
    _recoloured(lambda rgb: rgb[..., ::-1]),
    'with red and blue exchanged',
  ),
  'stuff map as colours': (_map_as_colours, 'it was saved as colours'),
  'a download under another name': (
    lambda raw: (
      shutil.rmtree(raw / 'train2017'),
      (raw / 'train2017.zip.part').touch(),
    ),
    "'train2017.zip.part' is there: finish or rename it",
  ),
  'cut JSON': (_cut(f'annotations/{_TRAIN}'), 'train2017.json is not valid JSON'),
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


def _as_other_tools_write(raw):
  """Ids as text and as fractions, names with folders, and nothing that can be left."""
  annotations = raw / 'annotations'
  data = json.loads((annotations / _TRAIN).read_text())
  for image in data['images']:
    image['file_name'] = f'train2017/{image["file_name"]}'
    image['id'] = float(image['id'])
  for row in data['annotations']:
    row['image_id'] = str(row['image_id'])
    for column in ('area', 'bbox', 'id'):
      del row[column]
    row['iscrowd'] = str(row['iscrowd']) if row['image_id'] == '9' else row['iscrowd']
    if not row['iscrowd']:
      del row['iscrowd']
    if isinstance(row['segmentation'], list):
      row['segmentation'] = row['segmentation'][0]
  (annotations / _TRAIN).write_text(json.dumps(data))


@pytest.mark.parametrize('value', [2, 'false', 0.5, []])
def test_a_crowd_is_0_or_1(tmp_path, value):
  def edit(raw):
    data = json.loads((raw / 'annotations' / _TRAIN).read_text())
    data['annotations'][0]['iscrowd'] = value
    (raw / 'annotations' / _TRAIN).write_text(json.dumps(data))

  with pytest.raises(ValueError, match=r"'iscrowd' of an object of image 9 .* 0 nor 1"):
    build('coco', _edited(tmp_path, edit), tmp_path / 'data')


def test_what_other_tools_leave_out_or_write_otherwise_is_read(coco, tmp_path):
  raw = _edited(tmp_path, _as_other_tools_write)
  train = built('coco', raw, tmp_path / 'data')['train']
  assert list(train) == list(coco['train'])
  for image_id, record in train.items():
    ours, official = record['instances'], coco['train'][image_id]['instances']
    for column in ('category_id', 'crowd', 'segmentation'):
      assert list(ours[column]) == list(official[column]), column
    # Of rectangles the pixels' area and box are the published ones.
    np.testing.assert_array_equal(ours['area'], official['area'])
    np.testing.assert_array_equal(ours['bbox'], official['bbox'])


def test_objects_without_an_outline_are_kept_as_such(tmp_path):
  edit = _edit_rows(_TRAIN, 'annotations', lambda row: row.update(segmentation=None))
  record = built('coco', _edited(tmp_path, edit), tmp_path / 'data')['train']['9']
  assert list(record['instances']['segmentation']) == ['[]'] * 3
  # One object never ends a check.
  assert dict(check('coco', tmp_path / 'data').sizes)['train'][:2] == (6, 6)


def test_validation_alone_with_photos_of_other_endings(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')
  shutil.rmtree(raw / 'train2017')
  for photo in (raw / 'val2017').iterdir():
    photo.rename(photo.with_suffix('.JPG'))
  assert list(built('coco', raw, tmp_path / 'data')) == ['val']


def change(raw, kind, edit):
  """Changes the rows of the photos in a training JSON."""
  path = raw / f'annotations/{kind}_train2017.json'
  data = json.loads(path.read_text())
  for row in data['images']:
    edit(row)
  path.write_text(json.dumps(data))


def test_png_photos_in_folders_of_their_own(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')
  for photo in (raw / 'train2017').iterdir():
    Image.open(photo).save(photo.with_suffix('.png'))
    photo.unlink()

  def rename(row):
    row['file_name'] = f'train2017/{row["file_name"].replace(".jpg", ".png")}'

  for kind in ('instances', 'panoptic', 'captions'):
    change(raw, kind, rename)
  assert len(built('coco', raw, tmp_path / 'data')['train']) == 6


def test_exchanged_sizes_are_told_and_those_of_the_photos_count(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')

  def exchange(row):
    row['height'], row['width'] = row['width'], row['height']

  change(raw, 'instances', exchange)
  with pytest.warns(UserWarning, match=r'\.jpg as 24 x 32 and it is 32 x 24'):
    records = built('coco', raw, tmp_path / 'data')
  assert (records['train']['9']['height'], records['train']['9']['width']) == (24, 32)


def test_own_categories_are_refused_with_what_that_means(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')
  path = raw / 'annotations/instances_train2017.json'
  content = json.loads(path.read_text())
  content['categories'] = [{'id': 0, 'name': 'soil'}, {'id': 7, 'name': 'weed'}]
  path.write_text(json.dumps(content))
  message = "category 0 as 'soil', but COCO has none: .* NAME --from coco"
  with pytest.raises(ValueError, match=message):
    build('coco', raw, tmp_path / 'data')


def test_outlines_far_from_their_photo_are_refused(tmp_path):
  """Drawing them would take all memory."""
  raw = raw_coco.write_coco(tmp_path / 'raw')
  path = raw / 'annotations/instances_train2017.json'
  content = json.loads(path.read_text())
  polygons = [r for r in content['annotations'] if isinstance(r['segmentation'], list)]
  polygons[0]['segmentation'][0][1] = 1e9
  path.write_text(json.dumps(content))
  with pytest.raises(
    ValueError, match=r'a point at 1000000000.0, and the photo is 32 x'
  ):
    build('coco', raw, tmp_path / 'data')
