"""Pairs of photo and text in all forms, their defects, and what is built of them."""

import importlib.util
import io
import logging
import pickle

import numpy as np
import pytest
import raw_captioned as raw
from built import plain, rows
from PIL import Image
from raw_files import jpeg, tarred, write

from maskclip_jax.__main__ import main
from maskclip_jax.data.build import build
from maskclip_jax.data.captioned import open_captioned
from maskclip_jax.data.doctor import check
from maskclip_jax.data.pipeline import DataConfig, DatasetConfig, train_stream
from maskclip_jax.data.sources import open_source

WRITERS = {
  'tars': raw.write_tars,
  'folder': raw.write_folder,
  'coco': raw.write_coco,
  'list': raw.write_list,
  'headless': raw.write_headless,
  'parquet': raw.write_parquet,
}


@pytest.mark.parametrize('form', WRITERS)
def test_every_form_has_the_same_photos_and_captions(form, tmp_path):
  if form == 'parquet':
    pytest.importorskip('pyarrow')
  pairs = open_captioned(WRITERS[form](tmp_path))
  assert len(pairs) == len(set(map(pairs.key, range(3)))) == 3
  # A worker process has a copy.
  found = list(pickle.loads(pickle.dumps(pairs)))
  photos = {raw.photo(name): texts for name, texts in raw.CAPTIONS.items()}
  assert {record['image']: record['captions'] for record in found} == photos
  assert {(record['height'], record['width']) for record in found} == {raw.SIZE}
  assert [record['image_id'] for record in found] == [pairs.key(i) for i in range(3)]
  with pytest.raises(IndexError, match='3 pairs'):
    _ = pairs[3]


def test_long_names_stay_apart(tmp_path):
  names = ['x' * 80 + end for end in 'ab']
  files = {f'{name}.jpg': jpeg(0, (20, 20)) for name in names}
  write(tmp_path, files | {f'{name}.txt': b'it' for name in names})
  pairs = open_captioned(tmp_path)
  keys = {pairs.key(0), pairs.key(1)}
  assert len(keys) == 2
  assert max(len(key.encode()) for key in keys) <= 64


def _broken(whole: bytes) -> bytes:
  """A tar whose second photo begins with a damaged header."""
  start = whole.index(b'dog.jpg')
  return whole[:start] + b'\xff' * 300 + whole[start + 300 :]


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    (
      {'a.tar': raw.shard('cat', 'dog')[:2000]},
      'a.tar is damaged or incomplete',
    ),
    ({'a.tar': _broken(raw.shard('cat', 'dog'))}, 'no file begins at byte'),
    (
      {'a.tar': raw.without_end(raw.shard('cat'))},
      'its end is missing',
    ),
    ({'a.tar.gz': b''}, 'gunzip it'),
    ({'a.jpg': b'', 'b.jpg': b'', 'b.txt': b'b'}, r'a.jpg has no caption: put it into'),
    ({'a.tsv': b'http://x/1.jpg\ta cat'}, 'addresses and not files'),
    ({'a.csv': b'path,caption\nno.jpg,a cat'}, 'lists no.jpg, which is not there'),
    ({'a.csv': b'one,two\n'}, 'names no photo'),
    ({'a.csv': b'path,caption\n\na.jpg'}, 'line 3 lacks a column'),
    ({'a.parquet': b'PAR1'}, 'not a parquet file'),
    ({'a.txt': b'text'}, 'no pairs under'),
  ],
)
def test_what_cannot_be_used_is_one_line(files, message, tmp_path):
  if 'a.parquet' in files:
    pytest.importorskip('pyarrow')
  write(tmp_path, files)
  with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
    open_captioned(tmp_path)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.skipif(
  importlib.util.find_spec('pyarrow') is not None, reason='pyarrow is installed'
)
def test_parquet_without_pyarrow_says_what_to_install(tmp_path):
  write(tmp_path, {'a.parquet': b'PAR1'})
  with pytest.raises(ValueError, match=r'maskclip_jax\[parquet\]'):
    open_captioned(tmp_path)


def _with_defects(root):
  """A good pair, and four that cannot be used in as many ways."""
  tiny = {'tiny.jpg': jpeg(0, (15, 40)), 'tiny.txt': b'a line'}
  cut = {'cut.jpg': raw.photo('cat')[:200], 'cut.txt': b'half a cat'}
  blank = {'blank.jpg': raw.photo('dog'), 'blank.txt': b' \n'}
  write(
    root,
    {
      '0.tar': raw.shard('cat', 'dog', dog=''),
      '1.tar': tarred({**tiny, **cut, **blank}),
      '2.tar': raw.shard('hen'),
    },
  )
  return root


def test_defects_stop_a_build_or_are_left_out_and_told(tmp_path, caplog):
  place = (_with_defects(tmp_path / 'raw'), tmp_path / 'data')
  with pytest.raises(ValueError, match=r'dog.jpg has no caption.*--on_error skip'):
    build('mine', *place, read_as='captions')
  with caplog.at_level(logging.WARNING):
    result = build('mine', *place, read_as='captions', on_error='skip')
  assert (result.examples, result.refused) == ({'train': 2}, 4)
  assert list(rows('mine', 'train', tmp_path / 'data')) == ['0/cat', '2/hen']
  told = '\n'.join(caplog.messages)
  for part in (
    '0.tar:dog.jpg has no caption',
    '1.tar:tiny.jpg is 40 x 15 pixels, less than a patch of 16',
    '1.tar:cut.jpg is not a readable photo',
    '1.tar:blank.jpg has no caption: its text is empty',
  ):
    assert part in told
  again = build('mine', *place, read_as='captions', on_error='skip')
  assert (again.existed, again.refused) == (True, 4)


def test_a_shard_of_nothing_but_defects_stops(tmp_path):
  write(tmp_path, {'a.jpg': b'no photo', 'a.txt': b'a caption'})
  with pytest.raises(ValueError, match='none of the 1 pairs from a on can be used'):
    build('mine', tmp_path, tmp_path / 'data', read_as='captions', on_error='skip')


def test_raw_captioned_and_built_ones_read_alike_and_resume(tmp_path):
  place = raw.write_tars(tmp_path / 'raw')
  build('mine', place, tmp_path / 'data', read_as='captions')
  source = open_source('mine/captions', 'train', tmp_path / 'data', trainable=True)
  pairs = open_captioned(place)
  assert list(map(plain, source)) == list(map(plain, pairs))
  config = DataConfig(
    (DatasetConfig('mine/captions'),),
    mapper='segclip',
    canvas=32,
    batch_size=2,
    caption_tokens=8,
  )
  with train_stream(config, sources=[source]) as stream:
    batches = [next(stream) for _ in range(4)]
  # From the tars as from the records, and after a resume as before.
  with train_stream(config, sources=[pairs], step=2) as stream:
    for batch in batches[2:]:
      other = next(stream)
      assert all(np.array_equal(batch[name], other[name]) for name in batch)


def test_names_of_your_own(tmp_path, capsys):
  place = raw.write_tars(tmp_path / 'raw')
  data = tmp_path / 'data'
  for name, options, message in (
    (
      'coco',
      {'read_as': 'captions'},
      "'coco' cannot be the name of a dataset of your own",
    ),
    ('my pairs', {'read_as': 'captions'}, 'letters, digits and _'),
    ('voc2012', {'on_error': 'skip'}, 'built whole or not at all'),
  ):
    with pytest.raises(ValueError, match=message):
      build(name, place, data, **options)
  with pytest.raises(FileNotFoundError, match='build mine --from captions --raw DIR'):
    open_source('mine/captions', 'train', data)
  command = ['data', 'build', 'mine', '--from', 'captions', '--raw', str(place)]
  assert main([*command, '--short_side', '24', '--data_dir', str(data)]) == 0
  assert 'mine/captions' in capsys.readouterr().out
  record = open_source('mine/captions', 'train', data)[0]
  # 48 x 40 becomes 28 x 24: the longer side is rounded down [segclip 3.1].
  assert (record['height'], record['width']) == (24, 28)
  assert Image.open(io.BytesIO(record['image'])).size == (28, 24)
  with pytest.raises(ValueError, match='has captions alone'):
    check('mine', data)
