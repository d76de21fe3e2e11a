"""What is a loop for a TPU gives what its parts give one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.nn.layers import compiling_for, in_turn

WIDTH = 4


@pytest.fixture(autouse=True)
def tpu():
  with compiling_for('tpu'):
    yield


def blocks(count: int) -> nnx.List:
  return nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(i)) for i in range(count)])


def run(block, x):
  x = jnp.sin(block(x))
  return x, {'sum': x.sum()}


def one_by_one(parts, x):
  outputs = []
  for part in parts:
    x, output = run(part, x)
    outputs.append(output)
  return x, outputs


def test_results_and_outputs():
  parts, x = blocks(5), np.linspace(-1, 1, 2 * WIDTH, dtype=np.float32).reshape(2, -1)
  expected, outputs = one_by_one(parts, x)
  found, others = in_turn(run, parts, x)
  # The order of float32 sums may differ.
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
  assert len(others) == 5
  for a, b in zip(outputs, others, strict=True):
    np.testing.assert_allclose(b['sum'], a['sum'], rtol=1e-5)


def test_gradients_reach_every_block():
  x = np.ones((2, WIDTH), np.float32)

  def gradients(apply):
    return nnx.grad(lambda parts: (apply(parts)[0] ** 2).sum())(blocks(3))

  looped = gradients(lambda parts: in_turn(run, parts, x))
  single = gradients(lambda parts: one_by_one(parts, x))
  for a, b in zip(jax.tree.leaves(looped), jax.tree.leaves(single), strict=True):
    assert np.abs(b).max() > 0
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_alike_neighbours_are_one_loop():
  traced = []

  def counting(block, x):
    traced.append(block.use_bias)
    return block(x), None

  def linear(seed, **kwargs):
    return nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(seed), **kwargs)

  parts = [linear(0), linear(1), linear(2, use_bias=False), linear(3), linear(4)]

  def loops():
    program = jax.make_jaxpr(lambda x: in_turn(counting, parts, x)[0])
    eqns = program(np.ones((1, WIDTH))).eqns
    return [e.params['length'] for e in eqns if e.primitive.name == 'scan']

  assert loops() == [2, 2]
  assert traced.count(False) == 1
  with compiling_for('cpu'):
    assert loops() == []


def test_parts_may_be_several_modules():
  left, right = blocks(4), blocks(4)
  pairs = [((left[i], right[i]), (left[i + 1], right[i + 1])) for i in (0, 2)]

  def lap(parts, x):
    for a, b in parts:
      x = a(x) * b(x)
    return x, x

  x = np.full((1, WIDTH), 0.5, np.float32)
  expected = x
  for a, b in zip(left, right, strict=True):
    expected = a(expected) * b(expected)
  np.testing.assert_allclose(in_turn(lap, pairs, x)[0], expected, rtol=1e-5)


def test_one_part_and_none():
  x = np.ones((1, WIDTH), np.float32)
  np.testing.assert_allclose(in_turn(run, blocks(1), x)[0], run(blocks(1)[0], x)[0])
  assert in_turn(run, [], x)[0] is x
