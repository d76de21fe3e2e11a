"""Checkpoints of a small state: kept, restored elsewhere, and never half."""

import collections
import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskclip_jax.train import mesh as meshes
from maskclip_jax.train.checkpoint import DIRECTORY, Checkpoints
from maskclip_jax.train.config import CheckpointSettings
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.step import TrainState

SIZES = {'a/kernel': (16, 8), 'b/bias': (3,)}


def state_at(step: int, config: MeshConfig | None = None, sizes=SIZES) -> TrainState:
  """A state whose numbers follow from the step, laid over a mesh."""
  rng = np.random.default_rng(step)
  params = {
    path: jnp.asarray(rng.normal(size=s), jnp.float32) for path, s in sizes.items()
  }
  opt = optax.adam(1e-3).init(params)
  opt = jax.tree.map(lambda x: x + step, opt)
  state = TrainState(jnp.int32(step), params, opt, {'c/kernel': jnp.ones((8, 8))})
  config = config or MeshConfig()
  placed = meshes.shardings(state, make_mesh(config), config)
  return jax.device_put(state, placed)


def assert_same(a: TrainState, b: TrainState):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.fixture
def opened(tmp_path):
  made = []

  def make(**settings) -> Checkpoints:
    made.append(Checkpoints(tmp_path, CheckpointSettings(**settings)))
    return made[-1]

  yield make
  for checkpoints in made:
    checkpoints.close()


def test_what_was_saved_comes_back(opened):
  first = opened()
  first.save(state_at(3), {'images': 48}, {'loss': 1.0})
  first.close()
  checkpoints = opened()
  like = state_at(0)
  restored = checkpoints.restore(like)
  assert_same(restored, dataclasses.replace(state_at(3), frozen=like.frozen))
  assert checkpoints.info(3) == {'images': 48, 'metrics': {'loss': 1.0}}


@pytest.mark.eight_devices
@pytest.mark.parametrize(
  ('before', 'after'),
  [
    (MeshConfig(data=8), MeshConfig(data=1, fsdp=8, min_size=1)),
    (MeshConfig(data=1, fsdp=8, min_size=1), MeshConfig(data=2, fsdp=2, model=2)),
  ],
)
def test_onto_another_mesh(opened, before, after):
  checkpoints = opened()
  checkpoints.save(state_at(5, before), {}, {})
  like = state_at(0, after)
  restored = checkpoints.restore(like)
  assert_same(restored, dataclasses.replace(state_at(5), frozen=like.frozen))
  kernel = 'a/kernel'
  assert restored.params[kernel].sharding == like.params[kernel].sharding


def test_latest_and_best_are_kept(opened):
  checkpoints = opened(keep=2, best='loss', mode='min')
  for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0], start=1):
    checkpoints.save(state_at(step), {}, {'loss': loss})
  assert checkpoints.steps() == [2, 4, 5]
  assert (checkpoints.latest(), checkpoints.best()) == (5, 2)


def test_a_kill_while_deleting_leaves_no_half_checkpoint(opened, monkeypatch):
  """What is not kept leaves its place by one rename; its files go afterwards."""
  checkpoints = opened(keep=1)
  checkpoints.save(state_at(1), {}, {})
  checkpoints.wait()
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', lambda *_, **__: None)  # Killed before.
    checkpoints.save(state_at(2), {}, {})
    checkpoints.close()
  directory = checkpoints.directory
  assert {p.name for p in directory.iterdir()} == {'step_00000002', 'deleted'}
  again = opened(keep=1)
  assert again.steps() == [2]
  assert {p.name for p in directory.iterdir()} == {'step_00000002'}


def test_saving_does_not_see_later_changes(opened):
  """The next step writes into the memory of the state that is being saved."""
  checkpoints = opened()
  state = state_at(1)
  expected = jax.tree.map(np.array, state)
  step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  checkpoints.save(state, {}, {})
  for _ in range(5):
    state = step(state)
  restored = checkpoints.restore(state_at(0))
  np.testing.assert_array_equal(
    restored.params['a/kernel'], expected.params['a/kernel']
  )


def test_what_a_killed_run_left_is_not_taken_for_a_checkpoint(opened, tmp_path):
  checkpoints = opened()
  checkpoints.save(state_at(2), {}, {})
  checkpoints.close()
  done = tmp_path / DIRECTORY / 'step_00000002'
  half = tmp_path / DIRECTORY / 'step_00000004.orbax-checkpoint-tmp'
  shutil.copytree(done, half)
  again = opened()
  assert again.steps() == [2]
  again.save(state_at(4), {}, {})
  assert again.latest() == 4
  assert not half.exists()


def test_a_checkpoint_of_another_model(opened):
  first = opened()
  first.save(state_at(1), {}, {})
  first.close()
  checkpoints = opened()
  other = state_at(0, sizes={'a/kernel': (16, 9), 'z/bias': (3,)})
  with pytest.raises(ValueError, match='step 1 is of another model') as error:
    checkpoints.restore(other)
  assert 'params/z/bias' in str(error.value)
  assert '16x9' in str(error.value)


def test_no_such_step(opened):
  checkpoints = opened()
  with pytest.raises(ValueError, match=r'no checkpoint of step None: there are \[\]'):
    checkpoints.restore(state_at(0))


def test_a_full_disk_is_told_before_it_is_written(opened, monkeypatch):
  checkpoints = opened()
  checkpoints.save(state_at(1), {}, {})
  usage = collections.namedtuple('usage', 'total used free')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(10, 9, 1))
  with pytest.raises(OSError, match=r'no room for the checkpoint of step 2: .*step 1'):
    checkpoints.save(state_at(2), {}, {})
  monkeypatch.undo()
  assert checkpoints.steps() == [1]
  assert_same(
    checkpoints.restore(state_at(0)),
    dataclasses.replace(state_at(1), frozen=state_at(0).frozen),
  )
