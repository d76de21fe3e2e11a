"""Pairs of masked regions and nouns, from their files to a batch."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from maskclip_jax.data import pairs
from maskclip_jax.data.examples import RecordError, decode, decode_ids
from maskclip_jax.data.pipeline import DataConfig, DatasetConfig, train_stream
from maskclip_jax.data.records import write_label_map
from maskclip_jax.data.views import find_view
from maskclip_jax.text import tokenizer

VIEW = find_view('pairs/nouns')
NOUNS = ('cat', 'traffic light', 'sky')
CONFIG = DataConfig(
  (DatasetConfig('pairs/nouns'),),
  mapper='ovseg_clip',
  canvas=32,
  batch_size=3,
  caption_tokens=12,
  regions=True,
)


def png(image: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'PNG')
  return file.getvalue()


def pair(number: int, **changes) -> pairs.Pair:
  """A region that is the left half of its box."""
  image = np.full((20, 24, 3), 10 * number, np.uint8)
  mask = np.zeros((20, 24), np.uint8)
  mask[:, :12] = 255
  whole = pairs.Pair(
    png(image), write_label_map(mask), NOUNS[number], 0.25, f'photo/{number}'
  )
  return dataclasses.replace(whole, **changes)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('mined')
  for shard, numbers in enumerate(((0, 1), (2,))):
    name = pairs.shard_name('train', shard, 2)
    assert pairs.write_shard(path / name, map(pair, numbers)) == len(numbers)
  return path


def read(folder, **changes):
  config = dataclasses.replace(CONFIG, data_dir=str(folder), **changes)
  with train_stream(config) as stream:
    return next(stream)


def test_a_pair_survives_its_bytes():
  assert pairs.parse(pairs.serialise(pair(1))) == pair(1)
  assert pairs.serialise(pair(1)) == pairs.serialise(pair(1))


def test_files_are_read_in_order(folder):
  source = pickle.loads(pickle.dumps(pairs.open_pairs(folder, 'train')))
  assert [record['image_id'] for record in source] == ['photo/0', 'photo/1', 'photo/2']
  assert [record['captions'] for record in source] == [[noun] for noun in NOUNS]


def test_what_lies_outside_the_mask_is_filled():
  example = decode(pairs.as_record(pair(1)), VIEW, crowd=False)
  assert (example.image[:, :12] == 10).all()
  assert (example.image[:, 12:] == pairs.FILL).all()
  assert (example.segments == np.repeat([0, -1], 12)).all()


def test_a_batch_has_regions_and_nouns(folder):
  batch = read(folder)
  assert batch['image'].shape == (3, 32, 32, 3)
  assert set(np.unique(batch['segments'])) == {-1, 0}
  # Blurred pixels at the border of the mask are of neither colour.
  filled = (batch['image'] == pairs.FILL).all(-1)
  assert not (filled & (batch['segments'] == 0))[:, :, :12].any()
  for tokens, key in zip(batch['tokens'], decode_ids(batch['image_id']), strict=True):
    noun = NOUNS[int(key[-1])]
    assert tokens.tolist() == tokenizer.tokenize([noun], 12)[0].tolist()


def test_nouns_are_put_into_prompts(folder):
  batch = read(folder, prompts=('a photo of a {}.', 'the {}'))
  for tokens, key in zip(batch['tokens'], decode_ids(batch['image_id']), strict=True):
    noun = NOUNS[int(key[-1])]
    texts = [f'a photo of a {noun}.', f'the {noun}']
    assert tokens.tolist() in tokenizer.tokenize(texts, 12).tolist()


def test_generated_regions_stand_for_mined_ones():
  batch = read(None, datasets=(), generated=4)
  assert (batch['segments'] == 0).any((1, 2)).all()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'mask': write_label_map(np.ones((3, 4), np.uint8))},
      r'photo/1 .*its mask is 3 x 4 pixels and its image is 20 x 24',
    ),
    (
      {'mask': write_label_map(np.zeros((20, 24), np.uint8))},
      'its mask covers no pixel',
    ),
    ({'mask': b'?'}, r'photo/1 .* cannot be read: not a PNG file'),
    ({'image': b'?'}, r'photo/1 .* cannot be read: cannot identify image file'),
  ],
)
def test_a_damaged_pair_is_named(changes, message):
  with pytest.raises(RecordError, match=message):
    decode(pairs.as_record(pair(1, **changes)), VIEW, crowd=False)


def test_bytes_that_are_not_a_pair_are_refused():
  with pytest.raises(ValueError, match='are not a pair of region and noun'):
    pairs.parse(b'\xff\xff')
  with pytest.raises(ValueError, match='lacks image, mask, noun, key, score'):
    pairs.parse(b'')


def test_files_that_are_missing_or_cut_are_told(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match='has no files pairs-val'):
    pairs.open_pairs(folder, 'val')
  with pytest.raises(FileNotFoundError, match='set data_dir'):
    pairs.open_pairs(None, 'train')
  first = tmp_path / pairs.shard_name('train', 0, 2)
  pairs.write_shard(first, [pair(0)])
  with pytest.raises(FileNotFoundError, match='1 of the 2 files of the train split'):
    pairs.open_pairs(tmp_path, 'train')
  first.rename(tmp_path / pairs.shard_name('train', 0, 1))
  cut = tmp_path / pairs.shard_name('train', 0, 1)
  cut.write_bytes(cut.read_bytes()[:-100])
  with pytest.raises(ValueError, match='a file of pairs is damaged'):
    pairs.open_pairs(tmp_path, 'train')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'regions': False}, 'holds masked regions: set config.data.regions=true'),
    (
      {'datasets': (DatasetConfig('coco/captions'),)},
      'coco/captions holds photos: set config.data.regions=false',
    ),
    ({'caption_tokens': 0}, 'set data.caption_tokens'),
    ({'prompts': ('a photo',)}, r'texts with one \{\} each'),
  ],
)
def test_settings_that_do_not_fit_are_refused(folder, changes, message):
  with pytest.raises(ValueError, match=message):
    read(folder, **changes)
