"""Photos and labels of one's own, from their files to views and protocols."""

import json

import numpy as np
import pytest
import raw_coco
from built import built, plain, rows
from raw_files import jpeg, palette_png, png, write

from maskclip_jax.data import described
from maskclip_jax.data.build import BuildError, build
from maskclip_jax.data.doctor import check
from maskclip_jax.data.examples import decode
from maskclip_jax.data.own import OwnData
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.views import find_view, view_names
from maskclip_jax.eval.protocols import find_protocols
from maskclip_jax.text.vocabulary import Vocabulary

SPLITS = ('train2017', 'val2017')


def coco_files(raw, *kinds) -> OwnData:
  listed = [raw / f'annotations/{k}_{split}.json' for split in SPLITS for k in kinds]
  return OwnData('coco', raw, tuple(listed))


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  return raw_coco.write_coco(tmp_path_factory.mktemp('raw'))


@pytest.fixture(scope='module')
def data(raw, tmp_path_factory):
  """COCO as the person's own, with both kinds of its labels, and from one of them."""
  place = tmp_path_factory.mktemp('data')
  build('both', None, place, own=coco_files(raw, 'instances', 'panoptic'))
  build('objects', None, place, own=coco_files(raw, 'instances'))
  build('panoptic', None, place, own=coco_files(raw, 'panoptic'))
  return place


def test_coco_is_read_as_by_its_own_builder(raw, data, tmp_path):
  parts = ('instances', 'panoptic')
  for split, records in built('coco', raw, tmp_path, parts=parts).items():
    own = rows('both', split, data)
    assert list(own) == list(records)
    for image_id, record in records.items():
      assert plain(own[image_id]) == plain(record)


@pytest.mark.parametrize('name', ['both', 'objects', 'panoptic'])
def test_views_words_and_protocol_come_with_a_build(name, data):
  views = view_names(name, data)
  assert views == tuple(f'{name}/{view}' for view in described.VIEWS)
  for view in views:
    source, found = open_source(view, 'val', data), find_view(view, data)
    example = decode(source[0], found, crowd=True)
    classes = found.class_names()
    names = {classes[index] for index in np.unique(example.classes).tolist()}
    assert {'person', 'cat'} <= names
  (protocol,) = find_protocols(name, data)
  run = protocol.for_system('maskclip')
  assert protocol.split == 'val'
  assert set(run.views) == {'panoptic', 'semantic', 'instance'}
  words = described.named_words(f'{name}@masqclip', data)
  assert words.classes == run.vocabulary().classes
  assert described.named_words('cat; dog', data) == 'cat; dog'


def test_maps_painted_from_objects(data):
  """A tie lies on its person, and a crowd under single persons."""
  record = rows('objects', 'train', data)['9']
  example = decode(record, find_view('objects/panoptic', data), crowd=True)
  names = find_view('objects/panoptic', data).class_names()
  at = lambda y, x: names[example.classes[example.segments[y, x]]]
  assert at(9, 6) == 'tie'
  assert at(5, 5) == 'person'
  assert example.segments[0, 31] == -1
  assert check('objects', data).ok


def test_objects_lifted_from_maps(data):
  record = rows('panoptic', 'train', data)['9']
  table = record['instances']
  assert table['category_id'].tolist() == [1, 32, 1]
  assert json.loads(table['segmentation'][0])['size'] == list(raw_coco.SIZE)


@pytest.mark.parametrize('name', ['both', 'panoptic'])
def test_the_doctor_finds_no_problem(name, data):
  report = check(name, data)
  assert report.ok, report.problems


def write_masks(root, encode=png, *, names=('a', 'b', 'sub/c'), suffix='') -> None:
  """Photos whose upper half is sky (1) and lower half is a car (7), 255 at the left."""
  values = np.full((24, 32), 1, np.uint8)
  values[12:], values[:, :2] = 7, 255
  for seed, name in enumerate(names):
    write(root / 'photos', {f'{name}.JPG': jpeg(seed, (24, 32))})
    write(root / 'masks', {f'{name}{suffix}.png': encode(values)})
  (root / 'classes.csv').write_text('id,name\n1,sky\n7,car\n')


def masks_of(root, **changes) -> OwnData:
  places = {'images': root / 'photos', 'masks': root / 'masks'}
  return OwnData('masks', **{**places, 'classes': root / 'classes.csv', **changes})


def test_masks_by_value_and_by_palette(tmp_path):
  for name, encode in (('grey', png), ('palette', palette_png)):
    write_masks(tmp_path / name, encode)
    build(name, None, tmp_path / 'data', own=masks_of(tmp_path / name, val=0.3))
    assert view_names(name, tmp_path / 'data') == (f'{name}/semantic',)
    found = find_view(f'{name}/semantic', tmp_path / 'data')
    source = open_source(found, 'train', tmp_path / 'data')
    categories = decode(source[0], found, crowd=True).categories()
    assert found.class_names() == ('sky', 'car')
    assert [categories[0, 5], categories[20, 5], categories[0, 0]] == [0, 1, -1]
    assert check(name, tmp_path / 'data').ok


def test_built_again_only_from_the_same_files(tmp_path):
  write_masks(tmp_path)
  data = tmp_path / 'data'
  first = build('mine', None, data, own=masks_of(tmp_path))
  assert first.examples == {'train': 3}
  assert build('mine', None, data, own=masks_of(tmp_path)).existed
  with pytest.raises(BuildError, match='from other photos, labels or flags'):
    build('mine', None, data, own=masks_of(tmp_path, val=0.3))


def test_words_and_groups_may_be_edited(tmp_path):
  write_masks(tmp_path)
  data = tmp_path / 'data'
  built = build('mine', None, data, own=masks_of(tmp_path, seen=('car',)))
  path = built.path / described.FILE
  content = json.loads(path.read_text())
  content['classes'][0]['words'] = ['sky', 'clouds']
  path.write_text(json.dumps(content))
  assert Vocabulary.parse(str(path)).classes[0].words == ('sky', 'clouds')
  run = find_protocols('mine', data)[0].for_system('')
  assert run.groups() == {'seen': (1,), 'unseen': (0,)}
  content['dataset']['groups']['seen'] = ['tram']
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"classes\.json: the group 'seen' names 'tram'"):
    find_view('mine/semantic', data)
