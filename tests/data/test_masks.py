"""Masks as COCO stores them: run lengths that do not cover their photo are refused."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskclip_jax.data.masks import check_runs, decode_mask


def mask(seed):
  rng = np.random.default_rng(seed)
  size = tuple(rng.integers(1, 60, 2).tolist())
  share = (0, 0.01, 0.5, 1)[seed % 4]
  return np.asfortranarray(rng.random(size) < share).astype(np.uint8, order='F')


@pytest.mark.parametrize('seed', range(24))
def test_run_lengths_of_pycocotools_are_read(seed):
  expected = mask(seed)
  counts = coco_mask.encode(expected)['counts'].decode()
  text = json.dumps({'size': expected.shape, 'counts': counts})
  np.testing.assert_array_equal(decode_mask(text, expected.shape), expected)
  with pytest.raises(ValueError, match='runs of a mask cover'):
    check_runs(counts, (expected.shape[0], expected.shape[1] + 1))


@pytest.mark.parametrize(
  'counts',
  [
    *([], [5, 5], [5, 2000], [-5, 773], [5.5, 762.5], ['5', '763'], [[5], [763]]),
    *('', '0', 'zzz', 'o' * 40, '\u00e9', None),
  ],
)
def test_run_lengths_that_are_not_of_the_photo_are_refused(counts):
  """pycocotools returns memory as it finds it, or takes all there is."""
  text = json.dumps({'size': [24, 32], 'counts': counts})
  with pytest.raises((ValueError, AttributeError)):
    decode_mask(text, (24, 32))
