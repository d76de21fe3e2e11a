"""Mining with the model that comes with the package: pairs, files, resuming."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import cv2
import numpy as np
import pytest
from jobs import MODEL, PHOTOS, build_scenes, contents, job

from maskclip_jax.__main__ import main
from maskclip_jax.data.pairs import open_pairs
from maskclip_jax.data.records import read_label_map
from maskclip_jax.mining.mine import mine
from maskclip_jax.mining.miner import match
from maskclip_jax.mining.report import of_leads, warnings_of
from maskclip_jax.mining.statistics import Statistics

PROGRAM = [sys.executable, '-m', 'maskclip_jax']


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return build_scenes(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def mined(data_dir, tmp_path_factory):
  out = tmp_path_factory.mktemp('mined')
  result = mine(job(data_dir, out))
  return out, result


def notes(out: pathlib.Path) -> list[dict]:
  lines = []
  for path in sorted(out.glob('pairs-*.jsonl')):
    lines += [json.loads(line) for line in path.read_text().splitlines()[1:]]
  return lines


def test_every_noun_gets_the_region_that_fits_it_best():
  vectors = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
  words = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
  queries, scores, leads = match(vectors, np.array([False] * 3), words)
  np.testing.assert_array_equal(queries, [0, 2, 1])
  np.testing.assert_allclose(scores, [1.0, 1.4 / np.sqrt(2), 1.0])
  np.testing.assert_allclose(leads, [0.2, 0.4 / np.sqrt(2), 0.4])
  # A mask without a pixel matches nothing; several nouns may have one region.
  queries, _, leads = match(vectors, np.array([True, False, True]), words)
  np.testing.assert_array_equal(queries, [1, 1, 1])
  assert np.isnan(match(vectors, np.zeros(3, bool), words[:1])[2]).all()
  assert not match(vectors, np.ones(3, bool), words)[0].size


def test_training_reads_the_pairs(mined):
  out, result = mined
  source = open_pairs(out, 'train')
  assert len(source) == result.pairs > 3 * PHOTOS
  record = source[0]
  image = cv2.imdecode(np.frombuffer(record['image'], np.uint8), cv2.IMREAD_COLOR)
  inside = read_label_map(record['semantic']) != 0
  assert image.shape[:2] == inside.shape
  # The box is tight, and CLIP's mean is what the mask hides.
  assert all(
    inside.any(axis).all() or inside.any(axis)[[0, -1]].all() for axis in (0, 1)
  )
  assert (image[~inside] == (104, 117, 123)).all()
  first = notes(out)[0]
  assert record['captions'] == [first['pairs'][0]['noun']]
  assert record['image_id'] == f'{first["key"]}/00'


def test_regions_are_mostly_what_the_nouns_say(mined):
  # The shipped model finds and names most things of its world.
  overlaps = [pair['iou'] for line in notes(mined[0]) for pair in line['pairs']]
  judged = [value for value in overlaps if value is not None]
  assert len(judged) == len(overlaps)
  assert np.mean(judged) > 0.7


def test_the_report_says_how_many_how_right_and_shows_them(mined):
  out, result = mined
  page = result.report.read_text()
  assert result.report.parent == out
  lines = notes(out)
  overlaps = np.array([pair['iou'] for line in lines for pair in line['pairs']])
  nouns = {pair['noun'] for line in lines for pair in line['pairs']}
  assert f'{result.pairs} pairs of {PHOTOS} photos' in page
  assert f'{len(nouns)} distinct nouns' in page
  assert f'{(overlaps >= 0.5).mean():.0%} show what their noun says' in page
  # At most six of each sort, of every photo one; what is among the worst is not shown
  # again as doubtful.
  assert page.count('<img') == 6 + 6 + PHOTOS - 6
  best = max(pair['score'] for line in lines for pair in line['pairs'])
  assert page.index(f'score {best:.3f}') < page.index('The worst pairs')


def test_a_report_names_what_looks_wrong():
  nan = np.nan
  one_noun = {'cat': 60, **{str(n): 1 for n in range(10)}}
  s = Statistics(
    photos=100,
    problems={'no noun': 70},
    per_photo=(70, 0, 30),
    nouns=one_noun,
    scores=np.full(70, 0.2),
    leads=np.array([-0.1] * 40 + [0.1] * 20 + [nan] * 10),
    overlaps=np.array([0.0] * 40 + [0.9] * 30),
    overlap_of_noun={},
    best=(),
    worst=(),
    doubtful=(),
  )
  often, taken, none = warnings_of(s)
  assert "'cat' is in 86%" in often
  assert '67% of the regions fit another noun' in taken
  assert 'More than half' in none
  assert 'Of these 0% are right, of the others 100%.' in of_leads(s)


def test_a_second_run_has_nothing_to_do(mined, data_dir):
  out, result = mined
  before = contents(out)
  again = mine(job(data_dir, out))
  assert (again.fresh, again.pairs) == (0, result.pairs)
  assert contents(out) == before
  assert not [name for name in before if name.startswith('.')]
  # Begun by a version that knew fewer choices.
  plan = out / 'mining-train.json'
  values = json.loads(plan.read_text())
  assert values.pop('min_lead') == -2
  plan.write_text(json.dumps(values))
  assert mine(job(data_dir, out)).fresh == 0
  plan.write_bytes(before[plan.name])


def test_a_missing_shard_is_mined_again_to_the_byte(mined, data_dir):
  out = mined[0]
  before = contents(out)
  (shard,) = out.glob('*.array_record-00001-of-*')
  shard.unlink()
  # What a killed process leaves.
  (out / f'.{shard.name}.1-1.part').write_bytes(b'half')
  assert mine(job(data_dir, out)).fresh == 4
  assert contents(out) == before


def test_a_shard_that_was_cut_off(mined, data_dir):
  out = mined[0]
  (shard,) = out.glob('*.array_record-00002-of-*')
  whole = shard.read_bytes()
  shard.write_bytes(whole[:1000])
  with pytest.raises(ValueError, match=rf'{shard} has 1000 of {len(whole)} bytes'):
    mine(job(data_dir, out))
  shard.write_bytes(whole)


def test_other_settings_do_not_mix(mined, data_dir):
  with pytest.raises(ValueError, match=r'other settings \(captions\): choose another'):
    mine(job(data_dir, mined[0], captions=2))


def test_a_shard_that_another_process_mines_is_left_to_it(mined, data_dir):
  out = mined[0]
  there = job(data_dir, out)
  shard = there.places(PHOTOS)[0]
  whole = shard.path.read_bytes()
  with shard.claimed() as free:
    assert free
    shard.path.unlink()
    assert mine(there).elsewhere == 1
  shard.path.write_bytes(whole)


def test_filters_all_captions_and_the_whole_box(mined, data_dir, tmp_path):
  first = min(pair['score'] for line in notes(mined[0]) for pair in line['pairs'])
  choices = {'captions': 0, 'region': 'box', 'min_score': first + 0.02, 'limit': 3}
  choices |= {'min_lead': 0.0, 'repeats': True}
  result = mine(job(data_dir, tmp_path / 'out', **choices))
  lines = notes(tmp_path / 'out')
  kept = [pair for line in lines for pair in line.get('pairs', ())]
  assert result.pairs == len(kept)
  assert min(pair['score'] for pair in kept) >= first + 0.02
  assert min(pair['lead'] for pair in kept) >= 0
  # What two captions mention is there twice.
  distinct = {(line['key'], p['noun']) for line in lines for p in line.get('pairs', ())}
  assert len(kept) > len(distinct)
  record = open_pairs(tmp_path / 'out', 'train')[0]
  image = cv2.imdecode(np.frombuffer(record['image'], np.uint8), cv2.IMREAD_COLOR)
  hidden = read_label_map(record['semantic']) == 0
  assert (image[hidden] != (104, 117, 123)).any()


def test_tars_hold_the_same_pairs(mined, data_dir, tmp_path):
  assert mine(job(data_dir, tmp_path, format='tar', limit=4)).pairs
  (path,) = tmp_path.glob('*.tar')
  with tarfile.open(path) as archive:
    members = {member.name: archive.extractfile(member).read() for member in archive}
    assert {(m.mtime, m.uid) for m in archive.getmembers()} == {(0, 0)}
  record = open_pairs(mined[0], 'train')[0]
  key = record['image_id'].replace('/', '-')
  assert members[f'{key}.png'] == record['image']
  assert members[f'{key}.mask.png'] == record['semantic']
  assert members[f'{key}.txt'].decode() == record['captions'][0]
  assert json.loads(members[f'{key}.json'])['noun'] == record['captions'][0]


def test_photos_beside_texts_and_a_damaged_one(tmp_path, mined, data_dir, capsys):
  # From photos of any form; what has no noun or cannot be read is told in the notes.
  photos = tmp_path / 'photos'
  photos.mkdir()
  whole = job(data_dir, tmp_path).open()[0]['image']
  for name, caption in (('a', 'a star'), ('b', 'nothing'), ('c', 'two stars')):
    (photos / f'{name}.jpg').write_bytes(whole[: 900 if name == 'c' else None])
    (photos / f'{name}.txt').write_text(caption)
  (photos / 'd.jpg').write_bytes(whole)
  command = ['mine', str(photos), f'--model={MODEL}', '--nouns=star', '--no_cache']
  assert main([*command, f'--out={tmp_path / "stopped"}']) == 2
  assert 'd.jpg has no caption' in capsys.readouterr().err
  (photos / 'd.jpg').rename(tmp_path / 'd.jpg')
  assert main([*command, f'--out={tmp_path / "stopped"}']) == 2
  assert '--on_error skip' in capsys.readouterr().err
  (tmp_path / 'd.jpg').rename(photos / 'd.jpg')
  out = tmp_path / 'out'
  assert main([*command, f'--out={out}', '--on_error=skip']) == 0
  told = capsys.readouterr().err
  assert '1 photos of' in told
  assert f'{MODEL} knows a generated world' in told
  assert told.count('and no photographs') == 1
  first, second, third = notes(out)
  assert first['pairs'][0]['noun'] == 'star'
  assert second['problem'] == 'no noun'
  assert 'c.jpg' in third['problem']


def test_what_cannot_be_mined_is_one_line(tmp_path, data_dir, capsys):
  command = [
    'mine',
    'miniature/captions',
    f'--data_dir={data_dir}',
    f'--out={tmp_path}',
  ]
  for flags, line in (
    ([f'--model={MODEL}', '--nouns=elephant; zebra'], 'has a caption with a word of'),
    ([f'--model={MODEL}', '--nouns=star', '--min_score=7'], 'min_score is a cosine'),
    (['--model=nowhere', '--nouns=star'], "no model 'nowhere'"),
    (
      [f'--model={MODEL}', '--nouns=star', '--scores=mask_threshold=1'],
      'mask_threshold',
    ),
    ([f'--model={MODEL}', '--nouns=star', '--workers=0'], 'workers must be 1 or more'),
  ):
    assert main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count('\n') == 1


def test_ray_that_is_not_installed(tmp_path, data_dir, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  command = ['mine', 'miniature/captions', f'--data_dir={data_dir}', '--engine=ray']
  flags = [f'--model={MODEL}', '--nouns=star', f'--out={tmp_path}']
  assert main([*command, *flags]) == 2
  assert "pip install 'maskclip_jax[ray]'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_killed_and_started_again_leave_the_same(
  mined, data_dir, tmp_path
):
  out = tmp_path / 'out'
  command = ['mine', 'miniature/captions', '--nouns=miniature-116']
  command += [f'--data_dir={data_dir}', f'--model={MODEL}']
  command += ['--photos_per_shard=4', f'--out={out}', '--no_cache', '--workers=2']
  process = subprocess.Popen([*PROGRAM, *command], start_new_session=True)
  # In the middle of a shard: its file is begun and not in its place.
  while not list(out.glob('.*.part')) and process.poll() is None:
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert len(list(out.glob('pairs-*.array_record-*'))) < 3
  assert main(command) == 0
  assert contents(out) == contents(mined[0])


@pytest.mark.slow
def test_ray_mines_the_same_bytes(mined, data_dir, tmp_path):
  pytest.importorskip('ray')
  context = multiprocessing.get_context('spawn')
  # Ray takes over a process: it gets one of its own.
  process = context.Process(target=_mine_on_ray, args=(job(data_dir, tmp_path),))
  process.start()
  process.join()
  assert process.exitcode == 0
  assert contents(tmp_path) == contents(mined[0])


def _mine_on_ray(there):
  mine(there, engine='ray', workers=2)
