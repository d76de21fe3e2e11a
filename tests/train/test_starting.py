"""Starting values: given, drawn, derived; and sources that do not fit."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_stages

from maskclip_jax.train.config import StartFrom
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.task import make_task


@pytest.fixture(scope='module')
def proposals(tmp_path_factory):
  directory = tmp_path_factory.mktemp('start') / 'proposals'
  return str(directory), tiny_stages.random_bundle(directory, 'proposals_tiny')


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
  directory = tmp_path_factory.mktemp('start') / 'clip'
  return str(directory), tiny_stages.random_bundle(directory, 'clip_vit_tiny')


@pytest.fixture(scope='module')
def masq():
  return make_task(tiny_stages.stage('masq'))


def test_masq_starts_from_proposals_and_clip(masq, proposals, clip):
  start = [
    StartFrom(proposals[0], target_prefix='proposals'),
    StartFrom(clip[0], target_prefix='clip'),
  ]
  values = starting_values(masq, start, seed=0)
  path = 'predictor/query_feat/embedding'
  np.testing.assert_array_equal(values[f'proposals/{path}'], proposals[1][path])
  np.testing.assert_array_equal(
    values['clip/text/positional_embedding'], clip[1]['text/positional_embedding']
  )
  # The mask tokens start from the class token's position.
  np.testing.assert_array_equal(
    values['mask_embeddings'], clip[1]['visual/positional_embedding'][0]
  )
  assert sorted(values.drawn) == sorted(
    ['mask_embeddings']
    + [f'new_q_proj/{i}/{leaf}' for i in range(3) for leaf in ('kernel', 'bias')]
  )
  # PyTorch's default for a linear layer of 128 inputs.
  drawn = values['new_q_proj/1/kernel']
  assert 0.95 * 128**-0.5 < np.abs(drawn).max() <= 128**-0.5
  assert abs(drawn.mean()) < 0.005
  other = starting_values(masq, start, seed=1)
  assert not np.array_equal(other['new_q_proj/1/kernel'], drawn)
  same = starting_values(masq, start, seed=0)
  np.testing.assert_array_equal(same['new_q_proj/1/kernel'], drawn)


def test_a_student_starts_as_its_teacher(proposals):
  task = make_task(tiny_stages.stage('student'))
  values = starting_values(
    task, [StartFrom(proposals[0], target_prefix='teacher')], seed=0
  )
  for path in proposals[1]:
    np.testing.assert_array_equal(values[path], values[f'teacher/{path}'])


def test_a_part_of_a_source(masq, tmp_path, proposals):
  flat = tiny_stages.random_bundle(tmp_path / 'whole', 'masqclip_tiny')
  start = [
    StartFrom(str(tmp_path / 'whole'), source_prefix='clip', target_prefix='clip'),
    StartFrom(proposals[0], target_prefix='proposals'),
  ]
  values = starting_values(masq, start, seed=0)
  path = 'clip/visual/proj/kernel'
  np.testing.assert_array_equal(values[path], flat[path])
  with pytest.raises(ValueError, match="has no part 'clop'"):
    starting_values(masq, [StartFrom(str(tmp_path / 'whole'), source_prefix='clop')], 0)


def test_the_checkpoint_of_another_system(masq, clip):
  with pytest.raises(
    ValueError, match=r'does not fit what is trained:\s+\d+ missing: proposals/backbone'
  ):
    starting_values(masq, [StartFrom(clip[0], target_prefix='proposals')], 0)


def test_other_sizes_are_named(masq, tmp_path):
  tiny_stages.random_bundle(tmp_path / 'other', 'proposals_tiny', queries=5)
  with pytest.raises(ValueError, match='query_feat/embedding is 5x64, expected 10x64'):
    starting_values(
      masq, [StartFrom(str(tmp_path / 'other'), target_prefix='proposals')], 0
    )


def test_what_is_left_out_is_drawn(tmp_path):
  """A network with classes starts one without."""
  tiny_stages.random_bundle(tmp_path / 'coco', 'mask2former_tiny')
  task = make_task(tiny_stages.stage('teacher'))
  start = StartFrom(str(tmp_path / 'coco'), keep_random=('predictor/class_embed/.*',))
  values = starting_values(task, [start], seed=0)
  assert values['predictor/class_embed/kernel'].shape == (64, 2)
  assert set(values.drawn) == {
    'predictor/class_embed/kernel',
    'predictor/class_embed/bias',
  }


def test_missing_sources(masq, tmp_path):
  with pytest.raises(FileNotFoundError):
    starting_values(masq, [StartFrom(str(tmp_path / 'nothing'))], 0)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ValueError, match='is a directory without weights'):
    starting_values(masq, [StartFrom(str(tmp_path / 'empty'))], 0)


def test_drawn_values_are_the_modules_own(masq):
  """Norm scales are one and embeddings have their spread."""
  values = starting_values(masq, [], seed=0)
  assert (values['proposals/predictor/decoder_norm/scale'] == 1).all()
  spread = values['proposals/predictor/query_feat/embedding'].std()
  # 640 draws of a standard normal.
  assert abs(spread - 1) < 0.1
  assert values['proposals/backbone/stem/conv1/norm/var'].dtype == jnp.float32
