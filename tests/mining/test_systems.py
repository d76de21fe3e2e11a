"""Mining with other systems, and with the masks of one and the vectors of another."""

import numpy as np
import pytest
from jobs import MODEL
from tiny_stages import random_bundle

from maskclip_jax.miniature.examples import scene
from maskclip_jax.mining.miner import Pair, PairMiner, column, mask_of
from maskclip_jax.mining.nouns import NounRule
from maskclip_jax.mining.recipe import MiningConfig


@pytest.fixture(scope='module')
def batch():
  records = [scene(0, 'train', index) for index in range(3)]
  return {
    'key': column(record['image_id'] for record in records),
    'image': column(record['image'] for record in records),
    'captions': column(record['captions'] for record in records),
  }


def config(model, **changes) -> MiningConfig:
  return MiningConfig(str(model), NounRule('miniature-116'), **changes)


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['fcclip_tiny', 'ovseg_tiny'])
def test_any_system_mines(preset, batch, tmp_path):
  random_bundle(tmp_path / preset, preset)
  # Two photos at a time: the last group is filled up.
  rows = PairMiner(config(tmp_path / preset, batch_size=2))(batch)
  assert list(dict.fromkeys(rows['key'])) == list(batch['key'])
  assert not any(rows['problem'])
  assert np.isfinite(rows['score'].astype(float)).all()


@pytest.mark.slow
def test_masks_of_one_model_and_vectors_of_another(batch, tmp_path):
  random_bundle(tmp_path / 'masks', 'proposals_tiny')
  changes = {'proposals': str(tmp_path / 'masks')}
  wide = PairMiner(config(MODEL, scores='mask_threshold=0.2', **changes))(batch)
  tight = PairMiner(config(MODEL, scores='mask_threshold=0.8', **changes))(batch)
  # A mask at a lower threshold covers more, if both chose the same.
  for row, query in enumerate(wide['query']):
    one, other = Pair.of(wide, row), Pair.of(tight, row)
    assert mask_of(one).sum() == one.area
    if query == other.query:
      assert one.area >= other.area


def test_a_model_without_vectors_of_masks(batch, tmp_path):
  random_bundle(tmp_path / 'groups', 'segclip_tiny')
  with pytest.raises(ValueError, match=r'no vectors of given masks.*--proposals'):
    PairMiner(config(tmp_path / 'groups'))
  miner = PairMiner(config(MODEL, proposals=str(tmp_path / 'groups')))
  with pytest.raises(ValueError, match='groups divides photos among words'):
    miner(batch)
