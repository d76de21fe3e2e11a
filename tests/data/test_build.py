"""Builds: resumable, atomic, deterministic, and one line for what a disk refuses."""

import hashlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time

import numpy as np
import pytest
import raw_ade20k
import raw_captioned
import raw_coco
import raw_pascal
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from built import plain, rows, wait_for

from maskclip_jax.data import records
from maskclip_jax.data.build import BuildError, build
from maskclip_jax.data.registry import list_datasets
from maskclip_jax.data.sources import built_path

WRITERS = {
  'ade20k_150': raw_ade20k.write_150,
  'ade20k_847': raw_ade20k.write_847,
  'coco': raw_coco.write_coco,
  'pascal_context': raw_pascal.write_context,
  'voc2012': raw_pascal.write_voc,
  'captions': raw_captioned.write_tars,
}


@pytest.fixture
def coco_raw(tmp_path):
  return raw_coco.write_coco(tmp_path / 'raw')


def _digests(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.iterdir())
  }


def test_every_dataset_has_a_generated_one():
  read = [card.name for card in list_datasets() if card.downloads]
  assert read == list(WRITERS)


def _build_elsewhere(raw, data_dir):
  build('coco', raw, data_dir, workers=3)


def test_builds_are_equal_to_the_byte(coco_raw, tmp_path):
  """Also in another process, whose hashes differ, and with other threads."""
  build('coco', coco_raw, tmp_path / 'a', workers=1)
  process = multiprocessing.get_context('spawn').Process(
    target=_build_elsewhere, args=(coco_raw, tmp_path / 'b')
  )
  process.start()
  process.join()
  assert process.exitcode == 0
  ours, theirs = (_digests(tmp_path / d / 'coco/1.0.0') for d in 'ab')
  assert ours == theirs


@pytest.mark.parametrize('name', WRITERS)
def test_tfds_reads_what_we_build(name, tmp_path):
  raw = WRITERS[name](tmp_path / 'raw')
  result = build(name, raw, tmp_path / 'data', examples_per_shard=2)
  builder = tfds.builder_from_directory(result.path)
  decoders = {'image': tfds.decode.SkipDecoding()}
  for split, count in result.examples.items():
    assert builder.info.splits[split].num_examples == count
    theirs = builder.as_data_source(split, decoders=decoders)
    for ours, other in zip(
      rows(name, split, tmp_path / 'data').values(), theirs, strict=True
    ):
      assert other['image'] == ours['image']
      assert other['image_id'].decode() == ours['image_id']
      assert other['semantic'] == ours['semantic']
      for column in ('id', 'class', 'crowd', 'area'):
        table = other['segments_info'][column]
        assert np.array_equal(table, ours['segments_info'][column])
      boxes = np.reshape(other['instances']['bbox'], (-1, 4))
      assert np.array_equal(boxes, ours['instances']['bbox'])


@pytest.mark.parametrize('name', WRITERS)
def test_tfds_can_run_the_builder_itself(name, tmp_path):
  """`download_and_prepare` writes the same examples in the same order."""
  card = next(card for card in list_datasets() if card.name == name)
  raw = WRITERS[name](tmp_path / 'raw')
  builder = card.builder_class()(data_dir=tmp_path / 'tfds')
  config = tfds.download.DownloadConfig(manual_dir=raw)
  builder.download_and_prepare(download_config=config)
  build(name, raw, tmp_path / 'ours')
  for split in builder.info.splits:
    paths = [str(path) for path in builder.info.splits[split].filepaths]
    theirs = [plain(records.parse(data)) for data in ArrayRecordDataSource(paths)]
    ours = [plain(record) for record in rows(name, split, tmp_path / 'ours').values()]
    assert theirs == ours


def test_a_build_leaves_no_temporary_folders(coco_raw, tmp_path, monkeypatch):
  elsewhere = tmp_path / 'temporary'
  elsewhere.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(elsewhere))
  build('coco', coco_raw, tmp_path / 'data')
  assert not list(elsewhere.iterdir())


def test_a_second_build_does_nothing(coco_raw, tmp_path):
  first = build('coco', coco_raw, tmp_path)
  before = _digests(first.path)
  second = build('coco', coco_raw, tmp_path)
  assert second.existed
  assert second.examples == first.examples == {'train': 6, 'val': 2}
  assert _digests(first.path) == before


def test_progress_counts_every_example(coco_raw, tmp_path):
  calls = []
  build(
    'coco',
    coco_raw,
    tmp_path,
    examples_per_shard=4,
    progress=lambda *c: calls.append(c),
  )
  assert calls == [
    *(('train', done, 6) for done in range(1, 7)),
    *(('val', done, 2) for done in (1, 2)),
  ]


def test_a_damaged_file_stops_the_build_and_its_repair_resumes_it(coco_raw, tmp_path):
  photo = coco_raw / 'train2017/000000000036.jpg'
  whole = photo.read_bytes()
  photo.write_bytes(whole[:300])
  with pytest.raises(ValueError, match=r'000000000036.jpg is not a readable photo'):
    build('coco', coco_raw, tmp_path / 'a', examples_per_shard=2)
  with pytest.raises(FileNotFoundError, match='was not built to the end'):
    built_path('coco', tmp_path / 'a')
  photo.write_bytes(whole)
  result = build('coco', coco_raw, tmp_path / 'a', examples_per_shard=2)
  assert result.resumed == 4
  build('coco', coco_raw, tmp_path / 'b', examples_per_shard=2)
  assert _digests(result.path) == _digests(tmp_path / 'b/coco/1.0.0')


def _slow_build(raw, data_dir):
  build(
    'coco',
    raw,
    data_dir,
    examples_per_shard=2,
    workers=1,
    progress=lambda *_: time.sleep(0.2),
  )


def test_a_killed_build_leaves_no_dataset_and_is_resumed(coco_raw, tmp_path):
  process = multiprocessing.get_context('spawn').Process(
    target=_slow_build, args=(coco_raw, tmp_path / 'a')
  )
  process.start()
  work = tmp_path / 'a/coco/1.0.0.building'
  wait_for(lambda: list(work.glob('*-00000-of-00003')))
  # While it runs, a second build is refused.
  with pytest.raises(BuildError, match=r'builds in .*: wait for it or stop it'):
    build('coco', coco_raw, tmp_path / 'a', examples_per_shard=2)
  os.kill(process.pid, signal.SIGKILL)
  process.join()
  assert not (tmp_path / 'a/coco/1.0.0').exists()
  result = build('coco', coco_raw, tmp_path / 'a', examples_per_shard=2)
  assert result.resumed >= 2
  build('coco', coco_raw, tmp_path / 'b', examples_per_shard=2)
  assert _digests(result.path) == _digests(tmp_path / 'b/coco/1.0.0')
  assert not work.exists()


def test_other_files_or_parts_start_the_build_anew(coco_raw, tmp_path):
  photo = coco_raw / 'val2017/000000000285.jpg'
  whole = photo.read_bytes()
  photo.write_bytes(b'')
  with pytest.raises(ValueError, match='not a readable photo'):
    build('coco', coco_raw, tmp_path, examples_per_shard=2)
  photo.write_bytes(whole)
  (coco_raw / 'dataset_coco.json').unlink()
  assert build('coco', coco_raw, tmp_path, examples_per_shard=2).resumed == 0
  assert rows('coco', 'train', tmp_path)['9']['subsets'] == []


def test_a_full_disk_is_one_line_and_the_rest_is_kept(coco_raw, tmp_path):
  work = tmp_path / 'data/coco/1.0.0.building'
  token = f'{os.getpid()}-{threading.get_ident()}'

  def fill(split, done, total):
    # The second shard's file is /dev/full: writing fails as on a full disk.
    if (split, done) == ('train', 2):
      part = f'.coco-train.array_record-00001-of-00003.{token}.part'
      (work / part).symlink_to('/dev/full')

  with pytest.raises(BuildError, match=r'the disk of .* is full: .*again') as caught:
    build('coco', coco_raw, tmp_path / 'data', examples_per_shard=2, progress=fill)
  assert '\n' not in str(caught.value)
  result = build('coco', coco_raw, tmp_path / 'data', examples_per_shard=2)
  assert result.resumed == 2
  assert result.examples == {'train': 6, 'val': 2}


def test_an_unwritable_place_is_one_line(coco_raw, tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  with pytest.raises(BuildError, match=r'cannot write to .*--data_dir'):
    build('coco', coco_raw, tmp_path / 'file')


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('cocoo', "no dataset is called 'cocoo': did you mean 'coco'"),
    ('x', "no dataset is called 'x': known: ade20k_150, "),
  ],
)
def test_unknown_names(name, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    build(name, tmp_path, tmp_path)


def test_missing_raw_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no folder .*nowhere: give the one'):
    build('coco', tmp_path / 'nowhere', tmp_path)


def test_empty_raw_folder_names_the_archive_to_get(tmp_path):
  for name, archive in (
    ('coco', 'train2017.zip'),
    ('ade20k_150', 'ADEChallengeData2016.zip'),
    ('ade20k_847', 'ADE20K_2021_17_01.zip'),
    ('pascal_context', 'VOCtrainval_03-May-2010.tar'),
    ('voc2012', 'VOCtrainval_11-May-2012.tar'),
  ):
    with pytest.raises(FileNotFoundError, match=archive):
      build(name, tmp_path, tmp_path / 'data')
