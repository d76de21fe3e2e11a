"""Meshes and placements on eight fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from maskclip_jax.losses.assignment import assign
from maskclip_jax.train import mesh as meshes
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.optim import OptimConfig, make_optimizer

pytestmark = pytest.mark.eight_devices


def spec_of(name, shape, config):
  return meshes.parameter_sharding(name, shape, make_mesh(config), config).spec


@pytest.mark.parametrize(
  ('config', 'shape'),
  [
    (MeshConfig(), (8, 1, 1)),
    (MeshConfig(data=2, fsdp=2, model=2), (2, 2, 2)),
    (MeshConfig(data=1, fsdp=-1, model=2), (1, 4, 2)),
  ],
)
def test_shapes(config, shape):
  assert tuple(make_mesh(config).shape.values()) == shape


@pytest.mark.parametrize(
  'config', [MeshConfig(data=3), MeshConfig(model=3), MeshConfig(data=-1, fsdp=-1)]
)
def test_a_mesh_that_does_not_fit_is_refused(config):
  with pytest.raises(ValueError, match='does not fit 8 devices'):
    make_mesh(config)


def test_placements():
  config = MeshConfig(data=1, fsdp=4, model=2, min_size=1)
  block = 'clip/visual/transformer/resblocks/0'
  assert spec_of(f'{block}/attn/query/kernel', (64, 2, 32), config) == P(
    'fsdp', 'model', None
  )
  assert spec_of(f'{block}/attn/out/kernel', (2, 32, 64), config) == P(
    'model', None, 'fsdp'
  )
  assert spec_of('new_q_proj/3/kernel', (64, 3, 32), config) == P('fsdp', None, None)
  assert spec_of(f'{block}/mlp/c_fc/kernel', (64, 256), config) == P('fsdp', 'model')
  # The largest dimension that divides; none where none does.
  assert spec_of('predictor/query_feat/embedding', (10, 64), config) == P(None, 'fsdp')
  assert spec_of('a/bias', (7,), config) == P()
  assert spec_of('text_bank/embeddings', (64, 32), config) == P()


def test_small_parameters_are_copied_and_unknown_names_refused():
  assert spec_of('a/kernel', (8, 8), MeshConfig(data=1, fsdp=8)) == P()
  with pytest.raises(ValueError, match='no sharding rule matches a/kernel'):
    spec_of('a/kernel', (8, 8), MeshConfig(rules=(('b/.*', 'fsdp'),), min_size=1))
  with pytest.raises(ValueError, match="placement 'rows' is neither"):
    spec_of('a/kernel', (8, 8), MeshConfig(rules=(('.*', 'rows'),), min_size=1))


def test_moments_lie_where_their_parameter_lies():
  config = MeshConfig(data=1, fsdp=8, min_size=1)
  params = {'a/kernel': jnp.zeros((16, 8)), 'b/bias': jnp.zeros(3)}
  state = jax.eval_shape(make_optimizer(OptimConfig(), params, 10).init, params)
  placed = meshes.shardings(state, make_mesh(config), config)
  adam = optax.tree.get(placed, 'mu')
  assert adam['a/kernel'].spec == P('fsdp')
  assert adam['b/bias'].spec == P()
  count = jax.tree.leaves(optax.tree.get_all_with_path(placed, 'count'))
  assert all(c.spec == P() for c in count if hasattr(c, 'spec'))


def test_batches_must_divide():
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
  meshes.check_batch(mesh, 8, 2)
  with pytest.raises(ValueError, match='batch of 6 does not divide over 4 devices'):
    meshes.check_batch(mesh, 6)
  with pytest.raises(ValueError, match='x 4 accumulation steps'):
    meshes.check_batch(mesh, 8, 4)


def test_one_process_reads_the_whole_batch():
  for config in (MeshConfig(), MeshConfig(data=2, fsdp=2, model=2)):
    assert meshes.host_rows(make_mesh(config)) == (0, 1)


def test_matching_stays_on_its_device():
  """No collective inside the loop, and the same result as on one device."""
  mesh = make_mesh(MeshConfig(data=4, fsdp=2))
  cost = np.random.default_rng(0).normal(size=(16, 12, 5)).astype(np.float32)
  program = jax.jit(meshes.batched(mesh)(jax.vmap(assign)))
  batch = meshes.to_devices({'cost': cost}, mesh)['cost']
  text = program.lower(batch).compile().as_text()
  assert not any(c in text for c in ('all-reduce', 'all-gather', 'collective-permute'))
  np.testing.assert_array_equal(program(batch), jax.vmap(assign)(cost))


def test_half_given_coordinates_are_refused():
  with pytest.raises(ValueError, match='--process_id together'):
    meshes.start_processes('localhost:1', 2)
