"""Superpixels of photos, and of the patches of a crop."""

import golden
import numpy as np
import pytest

from maskclip_jax.data.records import read_label_map, write_label_map
from maskclip_jax.data.superpixels import (
  SuperpixelRule,
  find_superpixels,
  patch_superpixels,
)
from maskclip_jax.data.transforms.geometric import Window


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
  whole = Window(0, 0, 4, 8)
  np.testing.assert_array_equal(
    patch_superpixels(superpixels, Window(0, 0, 4, 4), 4, 4), [31]
  )
  np.testing.assert_array_equal(
    patch_superpixels(superpixels, whole, 8, 4)[:2], [31, 5]
  )
  most = patch_superpixels(superpixels, whole, 8, 4, 'most')
  np.testing.assert_array_equal(most, [41, 3, 41, 3])


def test_a_crop_is_resized_by_copying():
  superpixels = np.arange(36, dtype=np.int32).reshape(6, 6)
  found = patch_superpixels(superpixels, Window(1, 2, 3, 4), 2, 1)
  np.testing.assert_array_equal(found, [8, 10, 14, 16])


@pytest.mark.parametrize(
  ('crop', 'side', 'message'),
  [
    (Window(0, 0, 7, 4), 4, 'not part of superpixels of 6 x 6'),
    (Window(-1, 0, 2, 4), 4, 'not part of superpixels of 6 x 6'),
    (Window(0, 0, 6, 6), 5, 'a side of 5 is not a multiple of patches of 2'),
  ],
)
def test_what_does_not_fit_is_an_error(crop, side, message):
  with pytest.raises(ValueError, match=message):
    patch_superpixels(np.zeros((6, 6), np.int32), crop, side, 2)
