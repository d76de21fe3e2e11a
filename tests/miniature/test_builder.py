"""The miniature dataset: built from nothing, read through every view, and sound."""

import fcntl
import functools
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from built import plain, rows, wait_for

from maskclip_jax.__main__ import main
from maskclip_jax.data import build as building
from maskclip_jax.data.build import BuildError, build
from maskclip_jax.data.builders.base import Sample
from maskclip_jax.data.doctor import check
from maskclip_jax.data.examples import VOID, decode
from maskclip_jax.data.registry import Counts, find_dataset
from maskclip_jax.data.sources import built_path, open_source
from maskclip_jax.data.views import find_view, view_names
from maskclip_jax.miniature.builder import Miniature
from maskclip_jax.miniature.pairs import SIDE
from maskclip_jax.text.vocabulary import Vocabulary

SIZES = {'train': 9, 'test': 4, 'shifted': 3, 'pairs': 12, 'photos': 11}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp('miniature')
  build('miniature', None, root, sizes=SIZES, examples_per_shard=5)
  return root


def test_the_card_says_the_default_sizes():
  counts = find_dataset('miniature').counts
  assert {split: n.images for split, n in counts.items()} == dict(Miniature.SIZES)


@pytest.mark.parametrize('view', view_names('miniature'))
def test_every_view_reads_every_split_with_labels(view, data_dir):
  # Pairs have captions only, and only pairs are close.
  splits = (
    ('pairs',) if find_view(view).only == 'close' else ('train', 'test', 'shifted')
  )
  for split in splits:
    source = open_source(view, split, data_dir, trainable=True)
    assert len(source) > 0
    example = decode(source[0], find_view(view), crowd=True)
    assert example.size == ((SIDE, SIDE) if split == 'pairs' else (256, 256))
    if find_view(view).kind == 'instance':
      assert len(example.regions) == len(example.classes) > 0


def test_novel_things_are_void_in_the_base_view(data_dir):
  source = open_source('miniature/panoptic', 'train', data_dir)
  whole, base = Vocabulary.named('miniature-116'), Vocabulary.named('miniature-base')
  novel = {c.id for c in Vocabulary.named('miniature-novel').classes}
  hidden = 0
  for record in source:
    all_ = decode(record, find_view('miniature/panoptic'), crowd=True).categories()
    some = decode(record, find_view('miniature/base'), crowd=True).categories()
    assert (all_ != VOID).all()
    is_novel = np.isin(all_ + 1, list(novel))
    assert np.array_equal(some == VOID, is_novel)
    names = np.array([c.name for c in whole.classes])[all_[~is_novel]]
    assert (names == np.array([c.name for c in base.classes])[some[~is_novel]]).all()
    hidden += is_novel.sum()
  assert hidden > 0


def test_base_and_novel_instances_are_all_instances(data_dir):
  def objects(view):
    found = set()
    for record in open_source(f'miniature/{view}', 'test', data_dir):
      example = decode(record, find_view(f'miniature/{view}'), crowd=True)
      names = find_view(f'miniature/{view}').class_names()
      found |= {
        (record['image_id'], int(number), names[index])
        for number, index in zip(example.ids, example.classes, strict=True)
      }
    return found

  base, novel = objects('base_instances'), objects('novel_instances')
  assert base | novel == objects('instances')
  assert not base & novel


@pytest.mark.parametrize('split', ['pairs', 'photos'])
def test_pairs_are_captions_only(split, data_dir):
  source = open_source('miniature/captions', split, data_dir)
  assert len(source) == SIZES[split]
  example = decode(source[0], find_view('miniature/captions'), crowd=False)
  assert example.size == (112, 112)
  assert len(example.captions) == 4
  with pytest.raises(ValueError, match='built without that part'):
    open_source('miniature/panoptic', split, data_dir)


def test_the_doctor_finds_nothing(data_dir):
  counts = {split: Counts(size) for split, size in SIZES.items()}
  report = check('miniature', data_dir, counts=counts)
  # So few scenes cannot show all words.
  assert {group.kind for group in report.groups} <= {'unused'}
  assert report.ok


def test_a_build_does_not_depend_on_shards_threads_or_other_splits(data_dir, tmp_path):
  sizes = {'test': 4, 'pairs': 3}
  build('miniature', None, tmp_path, sizes=sizes, workers=1)
  for split, size in sizes.items():
    ours = list(rows('miniature', split, data_dir).values())[:size]
    again = list(rows('miniature', split, tmp_path).values())
    assert [plain(record) for record in ours] == [plain(record) for record in again]


def test_processes_draw_what_threads_do(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(building, '_MANY', 3)
  build('miniature', None, tmp_path, sizes={'photos': 3}, workers=2)
  ours = list(rows('miniature', 'photos', data_dir).values())[:3]
  again = list(rows('miniature', 'photos', tmp_path).values())
  assert [plain(record) for record in ours] == [plain(record) for record in again]


def _kill_own_process():
  # Where a thread called this, the tests themselves would end.
  assert multiprocessing.parent_process(), 'samples are not made in processes'
  os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told_in_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(building, '_MANY', 2)
  samples = [Sample(f'photos-{index:06d}', _kill_own_process) for index in range(2)]
  monkeypatch.setattr(Miniature, 'splits', lambda *_: {'photos': samples})
  with pytest.raises(BuildError, match='process that makes photos was killed'):
    build('miniature', None, tmp_path, workers=1)
  with pytest.raises(FileNotFoundError, match='was not built to the end'):
    built_path('miniature', tmp_path)


def _hold_lock(path):
  with path.open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.write('held')
    lock.flush()
    time.sleep(600)


def _build_elsewhere(folder):
  sample = Sample('photos-000000', functools.partial(_hold_lock, folder / 'lock'))
  Miniature.splits = lambda *_: {'photos': [sample]}
  building._MANY = 1
  build('miniature', None, folder, workers=1)


def _is_free(path):
  with path.open() as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      return False
    return True


def test_no_process_outlives_a_killed_build(tmp_path):
  """A process holds a lock as long as it lives."""
  process = multiprocessing.get_context('spawn').Process(
    target=_build_elsewhere, args=(tmp_path,)
  )
  process.start()
  lock = tmp_path / 'lock'
  wait_for(lambda: lock.exists() and lock.read_text() == 'held')
  assert not _is_free(lock)
  process.kill()
  wait_for(lambda: _is_free(lock))


def test_tfds_can_run_the_builder_itself(data_dir, tmp_path):
  builder = Miniature(data_dir=tmp_path, sizes={'test': 2})
  builder.download_and_prepare()
  source = builder.as_data_source(
    'test', decoders={'image': tfds.decode.SkipDecoding()}
  )
  ours = list(rows('miniature', 'test', data_dir).values())
  assert [row['image'] for row in source] == [row['image'] for row in ours[:2]]


def test_another_seed_is_another_world(data_dir, tmp_path):
  build('miniature', None, tmp_path, sizes={'test': 1}, seed=1)
  ours, other = (rows('miniature', 'test', root) for root in (data_dir, tmp_path))
  assert other['test-000000']['image'] != ours['test-000000']['image']


def test_the_command_needs_no_files(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(Miniature, 'SIZES', {'train': 2, 'pairs': 2})
  place = ['--data_dir', str(tmp_path / 'data')]
  assert main(['data', 'build', 'miniature', *place]) == 0
  assert 'miniature built: train 2, pairs 2' in capsys.readouterr().out
  assert main(['data', 'list', *place]) == 0
  assert 'miniature/base_instances' in capsys.readouterr().out


def test_mistakes_are_one_line(capsys, tmp_path):
  place = ['--data_dir', str(tmp_path / 'data')]
  raw = ['--raw', str(tmp_path)]
  assert main(['data', 'build', 'miniature', *raw, *place]) == 2
  error = capsys.readouterr().err
  assert 'miniature is drawn and reads no files: leave out --raw' in error
  assert len(error.splitlines()) == 1
  assert main(['data', 'check', 'miniature', *place]) == 2
  assert 'data build miniature --data_dir' in capsys.readouterr().err
  with pytest.raises(ValueError, match="no split 'val': there are train, test"):
    build('miniature', None, tmp_path, sizes={'val': 3})
