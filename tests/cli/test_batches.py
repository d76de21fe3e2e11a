"""Many photos by one command: which they are, where results go, and a second start."""

import json
import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskclip_jax import photos
from maskclip_jax.__main__ import main
from maskclip_jax.cli import jobs
from maskclip_jax.cli import predict as command
from maskclip_jax.cli.photo_files import find_photos
from maskclip_jax.results import folder
from maskclip_jax.segmenter import Segmenter

MODEL = ['--model', 'maskclip_tiny', '--random_weights', '0', '--no_cache']
WORDS = ['--vocabulary', 'cat; dog; stuff:sky']


@pytest.fixture(scope='module', autouse=True)
def _loaded_once():
  """The model of all commands here; loading it takes longer than a photo."""
  loaded = Segmenter.from_preset('maskclip_tiny')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(command, 'load_segmenter', lambda arguments: loaded)
    yield


def photo(path: pathlib.Path, seed: int = 0) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
  Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC).save(path)
  return path


def predict(*words, out, task='panoptic', flags=()) -> int:
  paths = [str(word) for word in words]
  choices = ['--task', task, '--object_threshold', '0', *flags]
  return main(['predict', *paths, *MODEL, *WORDS, '--out', str(out), *choices])


def tree(directory: pathlib.Path) -> dict[str, bytes]:
  files = (p for p in sorted(directory.rglob('*')) if p.is_file())
  return {str(p.relative_to(directory)): p.read_bytes() for p in files}


def read(path: pathlib.Path) -> dict:
  return json.loads(path.read_text('utf-8'))


@pytest.fixture(scope='module')
def trip(tmp_path_factory):
  """A folder of three photos, one of them in a subfolder, and its results."""
  where = tmp_path_factory.mktemp('trip')
  photo(where / 'photos/a.jpg', 1)
  photo(where / 'photos/000000000139.png', 2)
  photo(where / 'photos/day 2/a.jpg', 3)
  assert predict(where / 'photos', out=where / 'out') == 0
  return where


# --- which photos ---------------------------------------------------------------------


def names(*words) -> list[str]:
  return [found.name for found in find_photos([str(word) for word in words]).photos]


def test_a_folder_is_searched_with_all_below_it(trip):
  assert names(trip / 'photos') == ['000000000139.png', 'a.jpg', 'day 2/a.jpg']


def test_hidden_files_and_results_are_no_photos(trip, tmp_path):
  photo(tmp_path / 'a.jpg')
  photo(tmp_path / '.cache/b.jpg')
  (tmp_path / '._a.jpg').write_bytes(b'\0\5\26\7Mac OS X')
  assert names(tmp_path) == ['a.jpg']
  with pytest.raises(FileNotFoundError, match='holds no image'):
    find_photos([str(trip / 'out')])


def test_results_of_version_0_1_are_no_photos(tmp_path):
  photo(tmp_path / 'a.jpg')
  photo(tmp_path / 'a.semantic.png')
  assert names(tmp_path) == ['a.jpg', 'a.semantic.png']
  content = {'images': [{'id': 1, 'file_name': '', 'height': 60, 'width': 90}]}
  (tmp_path / 'a.json').write_text(json.dumps(content, indent=1))
  assert names(tmp_path) == ['a.jpg']


def test_brackets_in_the_name_of_a_folder(tmp_path):
  photo(tmp_path / 'd[1]/a.jpg')
  photo(tmp_path / 'd[1]/b/c.jpg')
  assert names(tmp_path / 'd[1]/*.jpg') == ['a.jpg']
  assert names(tmp_path / 'd[1]') == ['a.jpg', 'b/c.jpg']
  assert names(f'{tmp_path}/d[[]1]/**/c.jpg') == ['d[1]/b/c.jpg']


def test_kinds_that_are_not_read_are_told(tmp_path):
  for ending in ('jpe', 'jfif', 'heic'):
    photo(tmp_path / 'x.jpg').rename(tmp_path / f'x.{ending}')
  found = find_photos([str(tmp_path)])
  assert [p.name for p in found.photos] == ['x.jfif', 'x.jpe']
  assert 'x.heic' in found.notes[0]
  photos.read_photo(found.photos[0].path)
  (tmp_path / 'only').mkdir()
  (tmp_path / 'x.heic').rename(tmp_path / 'only/x.heic')
  with pytest.raises(FileNotFoundError, match=r'no image; 1 .* \.heic to PNG'):
    find_photos([str(tmp_path / 'only')])


# --- where results go -----------------------------------------------------------------


def test_folders_are_mirrored_and_numbered_by_name(trip):
  out = trip / 'out'
  content = read(out / 'day 2/a.json')
  assert content['images'][0]['file_name'] == 'day 2/a.jpg'
  assert (out / 'day 2/a.overlay.png').is_file()
  numbered = {p: read(out / f'{p}.json')['images'][0]['id'] for p in ('a', 'day 2/a')}
  assert numbered == {'a': 1, 'day 2/a': 2}
  assert read(out / '000000000139.json')['images'][0]['id'] == 139


def test_one_file_has_all_photos(trip):
  out = trip / 'out'
  content = read(out / 'predictions.json')
  ids = {row['file_name']: row['id'] for row in content['images']}
  assert ids == {'a.jpg': 1, 'day 2/a.jpg': 2, '000000000139.png': 139}
  assert [a['image_id'] for a in content['annotations']] == [1, 2, 139]
  for annotation in content['annotations']:
    rgb = np.asarray(Image.open(out / annotation['file_name'])).astype(int)
    found = set(np.unique(rgb @ [1, 256, 65536])) - {0}
    assert found == {row['id'] for row in annotation['segments_info']}
  assert COCO(out / 'predictions.json').getImgIds() == [1, 2, 139]
  page = (out / 'index.html').read_text()
  assert 'day%202/a.overlay.png' in page
  assert '000000000139.png' in page


def test_detections_of_all_photos_are_numbered_through(trip, tmp_path):
  assert predict(trip / 'photos', out=tmp_path, task='instance,panoptic') == 0
  reader = COCO(tmp_path / 'predictions.json')
  rows = reader.loadAnns(reader.getAnnIds())
  assert [row['id'] for row in rows] == list(range(1, len(rows) + 1))
  assert {row['image_id'] for row in rows} == {1, 2, 139}
  assert reader.annToMask(rows[-1]).sum() == rows[-1]['area']
  own = read(tmp_path / 'day 2/a.json')['annotations']
  assert [r['segmentation'] for r in rows if r['image_id'] == 2] == [
    r['segmentation'] for r in own
  ]
  panoptic = read(tmp_path / 'predictions.panoptic.json')['annotations']
  assert [a['file_name'] for a in panoptic][1] == 'day 2/a.panoptic.png'


def test_names_of_data_sets_keep_their_ids(trip, tmp_path):
  words = ['--vocabulary', 'coco-instances80', '--task', 'instance']
  path = str(trip / 'photos/a.jpg')
  flags = ['--out', str(tmp_path), '--object_threshold', '0', '--quiet']
  assert main(['predict', path, *MODEL, *words, *flags]) == 0
  content = read(tmp_path / 'a.json')
  ids = {c['name']: c['id'] for c in content['categories']}
  assert (ids['person'], ids['toothbrush']) == (1, 90)
  assert all(
    a['category_id'] == ids[a['category_name']] for a in content['annotations']
  )


def test_nothing_of_the_user_is_overwritten(tmp_path, capsys):
  photo(tmp_path / 'photo.jpg')
  photo(tmp_path / 'photo.semantic.png', 5)
  before = tree(tmp_path)
  assert predict(tmp_path, out=tmp_path, task='panoptic,semantic') == 2
  assert 'photo.semantic.png is one of the photos' in capsys.readouterr().err
  assert predict(tmp_path / 'photo.jpg', out=tmp_path, task='semantic') == 2
  assert 'photo.semantic.png exists and was not written' in capsys.readouterr().err
  assert tree(tmp_path) == before


def test_results_beside_the_photos(tmp_path, capsys):
  """The second run takes no result for a photo, and a third task adds its files."""
  photo(tmp_path / 'a.jpg')
  photo(tmp_path / 'b.jpg')
  assert predict(tmp_path, out=tmp_path) == 0
  capsys.readouterr()
  assert predict(tmp_path, out=tmp_path) == 0
  out = capsys.readouterr().out
  assert '2 of 2 photos (2 of them before' in out
  assert 'the network waited' not in out
  assert predict(tmp_path, out=tmp_path, task='semantic') == 0
  out = capsys.readouterr().out
  assert '2 of 2 photos in' in out
  assert re.search(r'the network waited \d+% of the time', out)
  (tmp_path / 'index.html').write_text('my homepage')
  assert predict(tmp_path, out=tmp_path, task='semantic') == 2
  assert 'index.html exists' in capsys.readouterr().err


def test_two_photos_of_one_name_are_both_named(tmp_path, capsys):
  paths = photo(tmp_path / '1/x.png'), photo(tmp_path / '2/x.png')
  assert predict(*paths, out=tmp_path / 'out') == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert all(str(path) in line for path in paths)


# --- a second start, and bad photos ---------------------------------------------------


def test_a_second_start_makes_what_is_missing(tmp_path, capsys):
  for seed, name in enumerate('abc'):
    photo(tmp_path / f'photos/{name}.jpg', seed)
  out = tmp_path / 'out'
  assert predict(tmp_path / 'photos', out=out) == 0
  first = tree(out)
  (out / 'b.overlay.png').unlink()
  (out / 'predictions.json').unlink()
  photo(tmp_path / 'photos/c.jpg', 9)
  photo(tmp_path / 'photos/0.jpg', 8)
  capsys.readouterr()
  assert predict(tmp_path / 'photos', out=out, flags=['--quiet']) == 0
  assert capsys.readouterr().out == ''
  second = tree(out)
  same = ('a.json', 'a.overlay.png', 'b.json', 'b.overlay.png', 'b.panoptic.png')
  assert all(second[name] == first[name] for name in same)
  assert second['c.panoptic.png'] != first['c.panoptic.png']
  ids = [row['id'] for row in json.loads(second['predictions.json'])['images']]
  assert ids == [0, 1, 2, 3]
  times = {p: p.stat().st_mtime_ns for p in out.glob('*.overlay.png')}
  assert predict(tmp_path / 'photos', out=out) == 0
  assert {p: p.stat().st_mtime_ns for p in out.glob('*.overlay.png')} == times
  assert predict(tmp_path / 'photos', out=out, flags=['--again']) == 0
  assert all(p.stat().st_mtime_ns > times[p] for p in times)


def test_photos_one_after_another_have_different_numbers(tmp_path):
  for name in ('a', 'b'):
    assert predict(photo(tmp_path / f'{name}.jpg'), out=tmp_path / 'out') == 0
  content = read(tmp_path / 'out/predictions.json')
  assert [row['id'] for row in content['images']] == [1, 2]


def test_a_photo_that_fails_does_not_end_a_batch(tmp_path, capsys):
  photo(tmp_path / 'photos/a.jpg')
  (tmp_path / 'photos/b.jpg').symlink_to('nowhere.jpg')
  photo(tmp_path / f'photos/{"x" * 240}.jpg')
  photo(tmp_path / 'photos/z.jpg')
  assert predict(tmp_path / 'photos', out=tmp_path / 'out') == 2
  text = capsys.readouterr()
  assert 'b.jpg does not exist' in text.err
  assert 'name too long' in text.err.lower()
  assert '2 of 4 photos' in text.out
  assert 'b.jpg does not exist' in (tmp_path / 'out/index.html').read_text()


def test_words_without_a_photo_do_not_end_a_batch(tmp_path, capsys):
  good = photo(tmp_path / 'a.jpg')
  (tmp_path / 'link.jpg').symlink_to('nowhere.jpg')
  (tmp_path / 'empty').mkdir()
  bad = [tmp_path / name for name in ('link.jpg', 'x' * 300, 'empty', '*.tif')]
  assert predict(*bad, good, out=tmp_path / 'out') == 2
  text = capsys.readouterr()
  for words in (
    'link.jpg does not',
    'name too long',
    'empty holds no',
    'no file match',
  ):
    assert words in text.err
  assert '1 of 3 photos' in text.out
  assert (tmp_path / 'out/a.json').is_file()
  with pytest.raises(FileNotFoundError, match=r'link.jpg does not exist'):
    find_photos([str(tmp_path / 'link.jpg')])


def test_stems_that_belong_to_the_folder_are_not_used(tmp_path):
  for name in ('index', 'predictions'):
    photo(tmp_path / f'{name}.jpg')
  found = find_photos([str(tmp_path)]).photos
  planned = jobs.plan_jobs(found, tmp_path / 'out', ('panoptic',), 'key')
  assert [job.stem for job in planned] == ['index.jpg', 'predictions.jpg']


def test_result_names_are_those_that_are_saved(trip):
  assert {p.name for p in (trip / 'out/day 2').iterdir()} == set(
    folder.result_names('a', ['panoptic'])
  )


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_an_unwritable_folder(tmp_path, capsys):
  photo(tmp_path / 'a.jpg')
  (tmp_path / 'out').mkdir(mode=0o500)
  assert predict(tmp_path / 'a.jpg', out=tmp_path / 'out') == 2
  assert 'no permission' in capsys.readouterr().err


def test_other_tasks_leave_no_results_that_nothing_describes(tmp_path, capsys):
  """They would be taken for photos: no JSON lists them."""
  for name in ('a.jpg', 'b.jpg'):
    photo(tmp_path / name)
  assert predict(tmp_path, out=tmp_path, task='panoptic,instance') == 0
  (tmp_path / 'notes.txt').write_text('mine')
  for task in ('semantic', 'semantic', 'panoptic'):
    assert predict(tmp_path, out=tmp_path, task=task) == 0
    assert '2 of 2 photos' in capsys.readouterr().out
  results = {f'{stem}{end}' for stem in 'ab' for end in RESULTS}
  merged = {'predictions.json', 'index.html'}
  assert set(tree(tmp_path)) == results | merged | {'a.jpg', 'b.jpg', 'notes.txt'}


RESULTS = ('.json', '.overlay.png', '.panoptic.png')


def test_a_photo_of_the_same_stem_later_changes_no_name_and_no_number(tmp_path):
  for name in ('x.jpg', 'y.jpg'):
    photo(tmp_path / 'in' / name)
  predict(tmp_path / 'in', out=tmp_path / 'out')
  photo(tmp_path / 'in/x.png')
  assert predict(tmp_path / 'in', out=tmp_path / 'out') == 0
  images = read(tmp_path / 'out/predictions.json')['images']
  found = [(image['id'], image['file_name']) for image in images]
  assert found == [(1, 'x.jpg'), (2, 'y.jpg'), (3, 'x.png')]
  assert {f'{stem}.json' for stem in ('x', 'y', 'x.png')} <= set(tree(tmp_path / 'out'))


def test_a_merged_file_of_somebody_else_is_left(tmp_path, capsys):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out/predictions.panoptic.json').write_text('mine')
  for name in ('x.jpg', 'y.jpg'):
    photo(tmp_path / name)
  assert predict(tmp_path / 'x.jpg', tmp_path / 'y.jpg', out=tmp_path / 'out') == 2
  assert 'predictions.panoptic.json exists and was not written' in (
    capsys.readouterr().err
  )


def test_links_in_a_circle_and_names_in_other_encodings(tmp_path, capsys):
  photo(tmp_path / 'in/good.jpg')
  (tmp_path / 'in/circle.jpg').symlink_to(tmp_path / 'in/circle.jpg')
  odd = os.fsencode(tmp_path / 'in') + b'/caf\xe9.jpg'
  try:
    pathlib.Path(os.fsdecode(odd)).write_bytes((tmp_path / 'in/good.jpg').read_bytes())
  except OSError:
    pytest.skip('this file system keeps names in UTF-8 only')
  assert predict(tmp_path / 'in', out=tmp_path / 'out') == 2
  captured = capsys.readouterr()
  assert 'circle.jpg' in captured.err
  assert '2 of 3 photos' in captured.out
  images = read(tmp_path / 'out/predictions.json')['images']
  assert sorted(image['file_name'] for image in images) == ['caf\\xe9.jpg', 'good.jpg']


def test_sizes_that_cannot_be_are_refused(tmp_path, capsys):
  path = photo(tmp_path / 'x.jpg')
  assert predict(path, out=tmp_path / 'out', flags=['--overlay_scale', '1000']) == 2
  assert '--overlay_scale is 1, 2, ..., 16' in capsys.readouterr().err
  assert predict(path, out=tmp_path / 'out', flags=['--batch_size', '0']) == 2
  assert '--batch_size must be 1 or more, not 0' in capsys.readouterr().err


def test_an_empty_out_is_no_folder(tmp_path, capsys):
  with pytest.raises(SystemExit) as stopped:
    predict(photo(tmp_path / 'x.jpg'), out='')
  assert stopped.value.code == 2
  assert 'it is empty: name a folder' in capsys.readouterr().err
