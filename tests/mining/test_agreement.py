"""Regions against ground truth, by hand."""

import numpy as np
import pytest

from maskclip_jax.data import records
from maskclip_jax.data.records import write_label_map
from maskclip_jax.data.views import find_view
from maskclip_jax.mining.agreement import Judge
from maskclip_jax.mining.miner import Pair

# Two red disks (category 1) and sand (111) below; labels at half the size that the
# network sees.
MAP = np.array([[1, 1, 2, 2], [3, 3, 3, 3]], np.uint8).repeat(2, 0).repeat(2, 1)
ROWS = [(1, 1), (2, 1), (3, 111)]
CATEGORIES = {c.id: c.words[0] for c in find_view('miniature/panoptic').words().classes}


def record():
  rows = [
    {
      'id': i,
      'class': c - 1,
      'category_id': c,
      'crowd': False,
      'area': 0,
      'bbox': [0] * 4,
    }
    for i, c in ROWS
  ]
  return {'segments': write_label_map(MAP), 'segments_info': records.table(rows)}


def pair(noun, mask, size=(8, 16)) -> Pair:
  """A pair whose box is the whole photo."""
  png = write_label_map(255 * mask.astype(np.uint8))
  return Pair(noun, 0.5, 0.1, 0, int(mask.sum()), (0, 0, *size), size, b'', png)


@pytest.fixture(scope='module')
def judge():
  return Judge.of('miniature')


def test_the_best_of_the_segments_and_all_together(judge):
  disk, sand = CATEGORIES[1], CATEGORIES[111]
  left, above, below = (np.zeros((8, 16), bool) for _ in range(3))
  left[:4, :8], above[:4], below[4:] = True, True, True
  half = below.copy()
  half[:, 8:] = False
  pairs = [
    pair(disk, left),
    # Plurals are the class, too.
    pair(disk + 's', above),
    pair(disk, below),
    pair(sand, half),
    # Not in the photo, and not in the world.
    pair(CATEGORIES[2], left),
    pair('elephant', left),
    pair(f'{disk} and sand', left),
  ]
  assert judge.overlaps(record(), pairs) == [1.0, 1.0, 0.0, 0.5, 0.0, None, None]


def test_photos_without_labels_of_their_shape(judge):
  mask = np.ones((8, 16), bool)
  assert judge.overlaps({'segments': b''}, [pair('sand', mask)]) == [None]
  turned = pair('sand', mask.T, (16, 8))
  assert judge.overlaps(record(), [turned]) == [None]


def test_datasets_without_maps_have_no_judge():
  assert Judge.of('my_photos') is None
  assert Judge.of('') is None
