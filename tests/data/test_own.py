"""Photos and labels of one's own, from their files to views and protocols."""

import dataclasses
import json

import numpy as np
import oracle
import pytest
import raw_coco
from built import built, plain, rows
from own_labels import mask, write_coco, write_masks
from raw_files import ROTATED, jpeg, palette_png, png, write

from maskclip_jax.__main__ import main
from maskclip_jax.data import described
from maskclip_jax.data.build import BuildError, build
from maskclip_jax.data.doctor import check
from maskclip_jax.data.examples import decode
from maskclip_jax.data.own import OwnData
from maskclip_jax.data.pipeline import DataConfig, DatasetConfig, train_stream
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.views import find_view, view_names
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import find_protocols
from maskclip_jax.eval.stored import StoredPredictions, judge_stored
from maskclip_jax.eval.written import PredictionWriter
from maskclip_jax.postprocess import Results
from maskclip_jax.postprocess.panoptic import Segment
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


def test_training_reads_the_views(data):
  """Classes, words and batches come by name and place alone."""
  config = DataConfig(
    datasets=(DatasetConfig('objects/panoptic'),),
    data_dir=str(data),
    canvas=32,
    batch_size=2,
    max_segments=4,
  )
  assert len(config.class_names()) == 80
  assert config.words().classes == find_view('objects/panoptic', data).words().classes
  with train_stream(config) as stream:
    batch = next(stream)
  assert batch['image'].shape == (2, 32, 32, 3)
  assert set(np.unique(batch['class'])) <= set(range(-1, 80))


def test_names_that_there_are_not(data):
  with pytest.raises(ValueError, match=r"no dataset 'mine' of your own is in .*"):
    find_view('mine/panoptic', data)
  with pytest.raises(ValueError, match="did you mean 'objects/panoptic'"):
    find_view('objects/panoptik', data)
  with pytest.raises(ValueError, match=r'your own in .*: both, objects, panoptic'):
    find_protocols('mine', data)


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


def test_masks_by_value_and_by_palette(tmp_path):
  for name, encode in (('grey', png), ('palette', palette_png)):
    given = write_masks(tmp_path / name, encode, val=0.3)
    build(name, None, tmp_path / 'data', own=given)
    assert view_names(name, tmp_path / 'data') == (f'{name}/semantic',)
    found = find_view(f'{name}/semantic', tmp_path / 'data')
    source = open_source(found, 'train', tmp_path / 'data')
    categories = decode(source[0], found, crowd=True).categories()
    assert found.class_names() == ('sky', 'car')
    assert [categories[0, 5], categories[20, 5], categories[0, 0]] == [0, 1, -1]
    assert check(name, tmp_path / 'data').ok


def test_built_again_only_from_the_same_files(tmp_path):
  given, data = write_masks(tmp_path), tmp_path / 'data'
  first = build('mine', None, data, own=given)
  assert first.examples == {'train': 3}
  assert build('mine', None, data, own=given).existed
  with pytest.raises(BuildError, match='from other photos, labels or flags'):
    build('mine', None, data, own=dataclasses.replace(given, val=0.3))


def test_a_stopped_build_goes_on(tmp_path):
  """As other datasets' do, and it is whole or absent for whoever looks."""
  given, data = write_masks(tmp_path), tmp_path / 'data'

  def stop(split, done, total):
    del split, total
    if done == 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    build('mine', None, data, own=given, progress=stop, examples_per_shard=1)
  assert described.names(data) == ()
  assert described.find('mine', data) is None
  with pytest.raises(ValueError, match=r'mine is not built to its end in .* again'):
    find_protocols('mine', data)
  again = build('mine', None, data, own=given, examples_per_shard=1)
  assert again.resumed == 1
  assert described.names(data) == ('mine',)


def test_words_and_groups_may_be_edited(tmp_path):
  data = tmp_path / 'data'
  built = build('mine', None, data, own=write_masks(tmp_path, seen=('car',)))
  path = built.path / described.FILE
  content = json.loads(path.read_text())
  content['classes'][0]['words'] = ['sky', 'clouds']
  path.write_text(json.dumps(content))
  assert Vocabulary.parse(str(path)).classes[0].words == ('sky', 'clouds')
  run = find_protocols('mine', data)[0].for_system('')
  assert run.groups() == {'seen': (1,), 'unseen': (0,)}
  seen = find_view('mine/semantic_seen', data)
  record = rows('mine', 'train', data)['a']
  assert seen.class_names() == ('car',)
  assert set(np.unique(decode(record, seen, crowd=True).categories())) == {-1, 0}
  content['dataset']['groups']['seen'] = ['tram']
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"classes\.json: the group 'seen' names 'tram'"):
    find_view('mine/semantic', data)


def test_truth_as_prediction_is_perfect(tmp_path):
  """Every number of every task, and of every group of classes."""
  given = write_coco(tmp_path, change=lambda data: data['categories'][0].update(id=1))
  build('mine', None, tmp_path / 'data', own=dataclasses.replace(given, seen=('dog',)))
  numbers, headline = oracle.numbers('mine', tmp_path / 'data')
  for name in headline:
    assert numbers[name] == pytest.approx(100), name
  assert {'PQ', 'mIoU_gt', 'AP', 'PQ[seen]', 'AP[unseen]'} <= set(headline)


def test_predictions_of_photos_in_folders_are_written_and_judged(tmp_path):
  """Their ids are paths, and so are the places of their files."""
  built = build('mine', None, tmp_path / 'data', own=write_masks(tmp_path))
  run = find_protocols('mine', built.path.parent.parent)[0].for_system('')
  source = ProtocolSource(run, tmp_path / 'data')
  assert 'sub/c' in source.image_ids
  words, found = run.vocabulary(), tmp_path / 'found'
  writer = PredictionWriter(found, words, ('semantic', 'panoptic'))
  for example in source:
    semantic = np.maximum(example.truth.semantic, 0)
    segments = (Segment(1, 0, True, 1.0, semantic.size, 0),)
    writer.write(example, Results(semantic, np.ones_like(semantic), segments))
  writer.collect(source.image_ids)
  stored = StoredPredictions(found, run, source.image_ids)
  assert judge_stored(stored, run, source).values['mIoU_gt'] == pytest.approx(100)
  for row in json.loads((found / 'panoptic.json').read_text())['annotations']:
    assert (found / row['file_name']).is_file()


def test_the_doctor_finds_what_only_a_person_can_know(tmp_path):
  """Copies of a photo in two splits, an object labelled twice, a class never used."""

  def change(data):
    data['annotations'].append({**data['annotations'][0], 'id': 99})
    data['categories'].append({'id': 5, 'name': 'tram'})
    data['images'][2]['file_name'] = 'val/d.jpg'
    for row, folder in zip(data['images'][:2], ('train', 'train'), strict=True):
      row['file_name'] = f'{folder}/{row["file_name"]}'

  given = write_coco(tmp_path, change, photos=('train/a.jpg', 'train/b.jpg'))
  copied = (tmp_path / 'photos/train/a.jpg').read_bytes()
  write(tmp_path / 'photos', {'val/d.jpg': copied})
  build('mine', None, tmp_path / 'data', own=given)
  report = check('mine', tmp_path / 'data')
  assert report.kinds() == {'leaked-copy', 'doubled', 'never'}
  text = report.html()
  assert 'train 0 and val 2' in text
  assert 'tram' in text
  assert 'data list' not in ''.join(map(report.remedy, report.groups))


def test_areas_and_boxes_of_other_meanings(tmp_path):
  """The area of the box, and two corners, as some tools write them."""

  def change(data):
    for row in data['annotations']:
      row |= {'area': 9e5, 'bbox': [0, 0, 1, 1]}
    data['annotations'][0] |= {'area': 120, 'bbox': [8, 1, 9, 20]}

  build('mine', None, tmp_path / 'data', own=write_coco(tmp_path, change))
  table = rows('mine', 'train', tmp_path / 'data')['0']['instances']
  assert table['area'].tolist() == [120, 126]
  assert table['bbox'].tolist() == [[8, 1, 9, 20], [18, 2, 7, 18]]
  assert check('mine', tmp_path / 'data').ok


def test_masks_that_are_mostly_ignored(tmp_path):
  values = np.where(mask() == 1, 255, 7).astype(np.uint8)
  values[10:14] = 255
  build('mine', None, tmp_path / 'data', own=write_masks(tmp_path, values=values))
  assert check('mine', tmp_path / 'data').kinds() == {'ignored', 'never'}


@pytest.mark.parametrize('turned', [True, False])
def test_labels_of_the_upright_or_the_stored_picture(turned, tmp_path):
  """The size that was labelled tells which; pixels and labels stay together."""
  size = (32, 24) if turned else (24, 32)

  def change(data):
    data['images'] = [{**data['images'][0], 'height': size[0], 'width': size[1]}]
    data['annotations'] = data['annotations'][:1]

  given = write_coco(tmp_path, change, photos=())
  photo = jpeg(0, (24, 32), orientation=ROTATED)
  write(tmp_path / 'photos', {'a.jpg': photo})
  build('mine', None, tmp_path / 'data', own=given)
  record = rows('mine', 'train', tmp_path / 'data')['0']
  assert (record['height'], record['width']) == size
  assert (record['image'] == photo) != turned
  example = decode(record, find_view('mine/panoptic', tmp_path / 'data'), crowd=True)
  assert example.image.shape == (32, 24, 3)


def test_commands_from_folder_to_words(tmp_path, capsys, monkeypatch):
  write_coco(tmp_path)
  photos, data = str(tmp_path / 'photos'), str(tmp_path / 'my data')
  build_it = ['--from', 'coco', '--images', photos, '--data_dir', data]
  labels = ['--annotations', str(tmp_path / 'labels.json'), '--val', '0.3']
  assert main(['data', 'build', 'mine', *build_it, *labels, '--unseen', 'dog']) == 0
  told = capsys.readouterr().out
  assert 'train on it: mine/panoptic' in told
  assert f"data check mine --data_dir '{data}'" in told
  assert main(['data', 'check', 'mine', '--data_dir', data]) == 0
  assert (tmp_path / 'my data/mine/check.html').exists()
  for flag, decoded in (('--photos', '1'), ('--photos', '0'), ('--images', '1')):
    assert main(['data', 'check', 'mine', '--data_dir', data, flag, decoded]) == 0
  assert main(['data', 'check', 'mine', '--data_dir', data, '--photos', 'all']) == 2
  assert "--photos of a check is a number, and not 'all'" in capsys.readouterr().err
  # A name that could be meant as that of the dataset.
  monkeypatch.chdir(tmp_path)
  out = ['--model', 'nowhere', '--out', 'out']
  assert main(['predict', 'photos/a.jpg', '--vocabulary', 'mine', *out]) == 2
  told = capsys.readouterr().err
  assert "'mine' is a class here; the words of my data/mine are meant by" in told
  assert "--data_dir 'my data'" in told
  assert main(['data', 'list', '--data_dir', data]) == 0
  assert 'train 2, val 1' in capsys.readouterr().out
  assert main(['eval', '--list', '--data_dir', data]) == 0
  assert 'val of mine, 1 photos of your own' in capsys.readouterr().out
  for name, message in (('pc59', 'a published evaluation'), ('coco', 'of your own')):
    assert main(['data', 'build', name, *build_it, *labels]) == 2
    assert message in capsys.readouterr().err
  built = tmp_path / 'my data/mine/1.0.0'
  (built / 'val.index.npz').unlink()
  assert main(['data', 'check', 'mine', '--data_dir', data]) == 2
  assert 'lacks val.index.npz: copy it again whole' in capsys.readouterr().err
  (built / 'classes.json').write_text('{"classes": [')
  assert main(['data', 'list', '--data_dir', data]) == 0
  assert 'is not valid JSON' in capsys.readouterr().out
