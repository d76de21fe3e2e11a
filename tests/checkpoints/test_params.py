"""Flat parameters of a module: names, round trips, filling, counting."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.checkpoints import params


class Leaf(nnx.Module):
  def __init__(self, *, rngs: nnx.Rngs):
    self.dense = nnx.Linear(2, 3, rngs=rngs)
    self.mean = nnx.Variable(jnp.arange(3.0))


class Tree(nnx.Module):
  def __init__(self, *, rngs: nnx.Rngs):
    self.blocks = nnx.List([Leaf(rngs=rngs) for _ in range(11)])
    self.scale = nnx.Param(jnp.asarray(2.0))

  def __call__(self, x):
    for block in self.blocks:
      x = self.scale[...] * (block.dense(x) + block.mean[...])[:, :2]
    return x


def build(seed: int = 0) -> Tree:
  return Tree(rngs=nnx.Rngs(seed))


def arrays(module) -> dict[str, np.ndarray]:
  return {path: np.asarray(value) for path, value in params.flatten(module).items()}


def test_names_list_parameters_and_constants():
  shapes = {path: leaf.shape for path, leaf in params.flatten(build()).items()}
  assert len(shapes) == 34
  assert shapes['blocks/10/dense/kernel'] == (2, 3)
  assert shapes['blocks/0/mean'] == (3,)
  assert shapes['scale'] == ()


def test_abstract_has_shapes_and_no_arrays():
  for leaf in params.flatten(params.abstract(build)).values():
    assert isinstance(leaf, jax.ShapeDtypeStruct)
    assert leaf.dtype == jnp.float32


def test_a_loaded_module_computes_what_the_first_did():
  first = build(0)
  loaded = params.load_into(params.abstract(build), arrays(first))
  x = jnp.ones((4, 2))
  np.testing.assert_array_equal(loaded(x), first(x))
  assert type(loaded.blocks[0].mean) is nnx.Variable
  assert not np.array_equal(build(1)(x), first(x))


def test_the_order_of_the_flat_dictionary_does_not_matter():
  first = build(0)
  shuffled = dict(sorted(arrays(first).items(), reverse=True))
  loaded = params.load_into(params.abstract(build), shuffled)
  np.testing.assert_array_equal(loaded(jnp.ones((4, 2))), first(jnp.ones((4, 2))))


def test_unflatten_inverts_flatten():
  state = nnx.state(build(3))
  again = params.unflatten(params.flatten(state), state)
  assert jax.tree.structure(again) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, again, state)


def test_narrow_floats_are_widened():
  half = {p: a.astype(ml_dtypes.bfloat16) for p, a in arrays(build()).items()}
  loaded = params.flatten(params.load_into(params.abstract(build), half))
  for path, value in loaded.items():
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, half[path].astype(np.float32))


def test_every_misfit_is_named_at_once():
  flat = arrays(build())
  del flat['scale']
  flat['blocks/11/mean'] = flat['blocks/0/mean']
  with pytest.raises(
    ValueError, match=r'1 missing: scale\n  1 unknown: blocks/11/mean'
  ):
    params.load_into(params.abstract(build), flat)
  flat = arrays(build())
  flat['blocks/0/mean'] = np.zeros(4, np.float32)
  flat['blocks/1/mean'] = np.zeros(3, np.float64)
  with pytest.raises(ValueError, match=r'^model\.safetensors:') as error:
    params.load_into(params.abstract(build), flat, source='model.safetensors')
  assert '1 misshapen: blocks/0/mean is 4, expected 3' in str(error.value)
  assert 'blocks/1/mean is float64, not float32' in str(error.value)


def test_unflatten_refuses_other_paths():
  state = nnx.state(build())
  flat = params.flatten(state)
  flat['other'] = flat.pop('scale')
  with pytest.raises(ValueError, match=r'1 missing: scale\n  1 unknown: other'):
    params.unflatten(flat, state)


def test_counting_by_pattern():
  flat = params.flatten(params.abstract(build))
  assert params.count(flat) == 11 * (2 * 3 + 3 + 3) + 1
  assert params.count(flat, r'blocks/\d+/mean', 'scale') == 34
  assert params.count(flat, 'scale', 'scal.') == 1


def test_selection_keeps_the_order_and_fails_on_a_pattern_without_match():
  paths = ['b/kernel', 'a/kernel', 'a/bias']
  assert params.select(paths, 'a/.*', '.*/kernel') == paths
  assert params.select(paths) == []
  with pytest.raises(ValueError, match="no parameter matches 'kernel'; there are b/"):
    params.select(paths, '.*/bias', 'kernel')


@pytest.mark.slow
def test_works_in_the_other_nnx_mode():
  """The tests run in the default mode; this repeats them in tree mode."""
  if os.environ.get('NNX_GRAPH_MODE') == 'false':
    pytest.skip('already in tree mode')
  environment = os.environ | {'NNX_GRAPH_MODE': 'false', 'NNX_GRAPH_UPDATES': 'false'}
  run = subprocess.run(
    [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__],
    env=environment,
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stdout
  assert ' 1 skipped' in run.stdout, run.stdout
