"""What `benchmarks/segclip_groups.py` says of groups beside true segments."""

import importlib.util
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax.data.examples import VOID
from maskclip_jax.data.superpixels import patch_superpixels
from maskclip_jax.postprocess.partition import Partition
from maskclip_jax.systems.contract import Outputs

SCRIPT = pathlib.Path(__file__).parent.parent.parent / 'benchmarks/segclip_groups.py'


@pytest.fixture(scope='module')
def script():
  spec = importlib.util.spec_from_file_location('segclip_groups', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def truth():
  """Three segments of a map of 48 x 48 pixels."""
  segments = np.zeros((48, 48), int)
  segments[10:30, 8:40], segments[36:] = 4, 7
  return segments


def test_agreement_knows_partitions_not_numbers(script, truth):
  flat = truth.ravel()
  assert script.agreement(9 - flat, flat) == 1
  # Three pairs of ours, two of theirs, two of both, of 15: 3 * 2 / 15 by chance.
  ours, theirs = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 3, 2])
  assert script.agreement(ours, theirs) == pytest.approx((2 - 0.4) / (2.5 - 0.4))
  halves = np.arange(flat.size) % 2
  assert script.agreement(halves, flat) == pytest.approx(0, abs=0.01)
  assert script.agreement(np.zeros_like(flat), flat) == 0


def test_chance_agrees_with_nothing(script, truth):
  owner = np.zeros((5, 48, 48), int)
  owner[:, 40:] = -1
  made = script.random_groups(owner, 8, 8, np.random.default_rng(0))
  assert (made[:, 40:] == -1).all()
  assert set(np.unique(made)) == {-1, *range(8)}
  assert (made[:, 8:16, 8:16] == made[:, 8:9, 8:9]).all()
  # 30 patches are few: some agreement is left by chance, a tenth at most in the mean.
  assert abs(np.mean(script.agreements(made, truth))) < 0.1


def test_superpixels_of_patches_are_those_of_training(script):
  cut = np.arange(20 * 24).reshape(20, 24)
  owner = np.full((3, 20, 24), -1)
  owner[0, :16, 8:] = 5
  owner[1, 10:] = 0
  found = script.of_patches(owner, cut, 8)
  assert ((found >= 0) == (owner >= 0)).all()
  expected = patch_superpixels(cut[:16, 8:], 8).reshape(2, 2)
  assert (found[0, :16, 8:] == np.kron(expected, np.ones((8, 8), int))).all()
  most = script.of_patches(owner, cut // 2, 8, 'most')
  # Of 64 pairs of pixels, all are as many: the first of a patch counts.
  assert most[0, 0, 8] == cut[0, 8] // 2
  # And -1: four patches, three whole ones above three of two rows, and none.
  assert [len(np.unique(one)) for one in found] == [5, 7, 1]


def test_windows_without_a_border_do_not_count(script, truth):
  owner = np.full((3, 48, 48), -1)
  owner[0] = truth
  owner[1, 36:] = 0
  owner[2, :12] = 0
  truth[:12, 8:40] = VOID
  assert script.agreements(owner, truth) == [1.0]


def test_groups_of_one_word_are_joined_in_their_window(script):
  owner = np.array([[[0, 1, 2, -1]], [[2, 2, 1, 0]]], np.int8)
  # Words of the three groups of both windows.
  classes = jax.nn.one_hot(jnp.array([[5, 5, 3, 0, 4, 5]]), 7)

  def forward(weights, images, bank):
    masks = Partition(owner[None], jnp.zeros((1, 1, 4)), 3)
    return Outputs(masks, classes, jnp.zeros((1, 6)), images.input_hw)

  segmenter = types.SimpleNamespace(
    canvas_step=32, text_bank=lambda words: None, as_function=lambda: (forward, None)
  )
  groups, named = script.Groups(segmenter)(np.zeros((1, 3, 3), np.uint8))
  assert (groups == owner[..., :3]).all()
  assert named.tolist() == [[[5, 5, 3]], [[5, 5, 4]]]
  assert script.agreements(named, np.array([[1, 1, 2]])) == [1.0, 1.0]


def test_seeds_of_a_model_are_one_row(script):
  scores = {
    pathlib.Path('a/segclip'): [0.2, 0.4],
    pathlib.Path('b/segclip'): [0.5],
    script.RANDOM: [0.0, 0.02],
  }
  assert script.table(scores).splitlines()[2:] == [
    '| segclip | 0.400 ± 0.141 |',
    '| random | 0.010 |',
  ]
