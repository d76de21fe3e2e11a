"""Superpixels of photos, and of the patches of a crop."""

import io

import golden
import numpy as np
import pytest
import raw_captioned
import raw_coco
from PIL import Image
from raw_files import png, write
from toy_records import jpeg, record

from maskclip_jax.data.build import BuildError, build
from maskclip_jax.data.builders.extras import Extras
from maskclip_jax.data.examples import RecordError, decode
from maskclip_jax.data.pipeline import DataConfig, DatasetConfig, train_stream
from maskclip_jax.data.records import read_label_map, write_label_map
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.superpixels import (
  SuperpixelRule,
  find_superpixels,
  patch_superpixels,
)
from maskclip_jax.data.transforms.geometric import Window, apply
from maskclip_jax.data.transforms.mappers import RandomResizedCrop
from maskclip_jax.data.views import find_view


def test_regions_of_one_colour_are_superpixels():
  photo = np.zeros((64, 96, 3), np.uint8)
  photo[:, 48:] = 200, 40, 40
  found = find_superpixels(photo)
  # The blur before may move a border by a pixel.
  assert len(np.unique(found[:, :46])) == len(np.unique(found[:, 50:])) == 1
  assert found[0, 0] != found[0, 95]


def test_superpixels_of_a_photo_are_stored_without_loss():
  photo = golden.photo('coffee.png', (150, 112))
  found = find_superpixels(photo)
  assert found.shape == photo.shape[:2]
  counts = np.bincount(found.ravel())
  assert counts.min() >= SuperpixelRule().min_size
  assert len(counts) > 5
  np.testing.assert_array_equal(read_label_map(write_label_map(found)), found)
  finer = find_superpixels(photo, SuperpixelRule(scale=20, min_size=20))
  assert finer.max() > found.max()


def test_a_patch_has_the_mean_of_the_numbers_in_it_as_released():
  """A quarter of 3 and three quarters of 41 make 31.5, cut to 31 [segclip 6]."""
  superpixels = np.full((4, 8), 3, np.int32)
  superpixels[:, 1:4] = 41
  superpixels[:, 6:] = 7
  np.testing.assert_array_equal(patch_superpixels(superpixels, 4), [31, 5])
  np.testing.assert_array_equal(patch_superpixels(superpixels, 4, 'most'), [41, 3])
  with pytest.raises(ValueError, match='4 x 8 pixels are not whole patches of 3'):
    patch_superpixels(superpixels, 3)


def _stored(numbers, superpixels):
  """A record of a photo whose red channel is its superpixel."""
  photo = np.zeros((*numbers.shape, 3), np.uint8)
  photo[..., 0] = numbers
  return record(png(photo), size=numbers.shape, superpixels=superpixels)


def _decode(stored):
  return decode(stored, find_view('coco/captions'), crowd=False, superpixels=True)


@pytest.mark.parametrize('flip', [False, True])
def test_superpixels_are_cropped_and_mirrored_with_the_photo(flip):
  numbers = np.arange(8 * 12).reshape(8, 12)
  example = _decode(_stored(numbers, superpixels=write_label_map(numbers)))
  mapper = RandomResizedCrop((5, 7))
  operations = mapper.operations(Window(1, 2, 5, 7), flip=flip)
  changed = apply(example, operations)
  np.testing.assert_array_equal(changed.superpixels, changed.image[..., 0])
  assert (changed.superpixels[0, 0] > changed.superpixels[0, 1]) == flip


def test_a_turned_photo_turns_its_superpixels():
  numbers = np.arange(8 * 12).reshape(8, 12).astype(np.uint8)
  photo = np.repeat(numbers[..., None], 3, axis=2)
  stored = record(
    jpeg(photo, orientation=6, quality=100),
    size=numbers.shape,
    superpixels=write_label_map(numbers),
  )
  example = _decode(stored)
  # JPEG is off by a few levels.
  assert np.abs(example.superpixels - example.image[..., 0].astype(int)).max() < 6


@pytest.mark.parametrize(
  ('superpixels', 'message'),
  [
    (b'', 'it has no superpixels: build the dataset again'),
    (write_label_map(np.zeros((8, 11), int)), 'are 8 x 11 pixels and the photo is 8 x'),
    (b'PNG', 'not a PNG file'),
  ],
)
def test_superpixels_that_do_not_fit_are_refused(superpixels, message):
  with pytest.raises(RecordError, match=f'record 1 .*{message}'):
    _decode(_stored(np.zeros((8, 12), int), superpixels=superpixels))


def test_builds_cut_the_photo_as_it_is_stored_and_train_on_it(tmp_path):
  raw = raw_captioned.write_tars(tmp_path / 'raw')
  rule = SuperpixelRule(scale=50, min_size=20)
  options = {'read_as': 'captions', 'extras': Extras(24, rule)}
  build('cut', raw, tmp_path / 'data', **options)
  assert build('cut', raw, tmp_path / 'data', **options).existed
  with pytest.raises(BuildError, match='built with other superpixels'):
    build('cut', raw, tmp_path / 'data', read_as='captions', extras=Extras(24))
  source = open_source('cut/captions', 'train', tmp_path / 'data')
  for stored in source:
    photo = np.asarray(Image.open(io.BytesIO(stored['image'])))
    assert photo.shape == (24, 28, 3)
    found = read_label_map(stored['superpixels'])
    np.testing.assert_array_equal(found, find_superpixels(photo, rule))
  config = DataConfig(
    (DatasetConfig('cut/captions'),),
    data_dir=str(tmp_path / 'data'),
    mapper='segclip',
    canvas=16,
    batch_size=2,
    caption_tokens=8,
    superpixel_patch=4,
  )
  with train_stream(config) as stream:
    batches = [next(stream) for _ in range(3)]
  assert batches[0]['superpixels'].shape == (2, 16)
  assert batches[0]['superpixels'].dtype == np.int32
  with train_stream(config, step=2) as stream:
    again = next(stream)
  np.testing.assert_array_equal(again['superpixels'], batches[2]['superpixels'])


@pytest.mark.slow
def test_processes_cut_what_threads_read(tmp_path):
  """As many photos as are worth processes."""
  photos = {f'{i:03}.jpg': jpeg(np.full((18, 20, 3), i, np.uint8)) for i in range(70)}
  write(tmp_path / 'raw', photos | {name[:-3] + 'txt': b'it' for name in photos})
  options = {'read_as': 'captions', 'extras': Extras(0, SuperpixelRule())}
  build('many', tmp_path / 'raw', tmp_path / 'a', workers=2, **options)
  source = open_source('many/captions', 'train', tmp_path / 'a')
  assert len(source) == 70
  for stored in source:
    # Photos of one colour are one superpixel.
    assert not read_label_map(stored['superpixels']).any()


def test_photos_with_labels_keep_their_size(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')
  with pytest.raises(ValueError, match='has labels, which do not fit a smaller photo'):
    build('coco', raw, tmp_path / 'data', extras=Extras(16))
  parts = ['captions']
  build('coco', raw, tmp_path / 'data', parts=parts, extras=Extras(16))
  for stored in open_source('coco/captions', 'train', tmp_path / 'data'):
    assert min(stored['height'], stored['width']) == 16
