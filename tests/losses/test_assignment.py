"""The assignment solver against SciPy's, and on inputs that training can produce."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from maskclip_jax.losses.assignment import assign

solve = jax.jit(jax.vmap(assign))


def best_total(cost, rows) -> float:
  query, target = linear_sum_assignment(cost[:, rows])
  return cost[:, rows][query, target].sum()


def check(cost, valid):
  """Every assignment is one to one, complete, and as cheap as SciPy's."""
  found = np.asarray(solve(cost, valid))
  for c, v, f in zip(cost, valid, found, strict=True):
    target = np.flatnonzero(f >= 0)
    assert v[target].all()
    assert len(set(f[target])) == len(target) == min(len(c), v.sum())
    total = c[f[target], target].sum()
    # Sums of float32 in another order.
    np.testing.assert_allclose(total, best_total(c, np.flatnonzero(v)), atol=2e-4)


@pytest.mark.parametrize('shape', [(12, 5), (9, 9), (5, 11)])
def test_optimal_on_random_and_on_tied_costs(shape):
  rng = np.random.default_rng(0)
  batch = 60
  cost = rng.normal(size=(batch, *shape)).astype(np.float32)
  cost[20:40] = rng.integers(0, 4, (20, *shape))
  # Queries that are nearly alike: all rows want the same few columns.
  cost[40:] = rng.normal(size=(20, shape[0], 1)) + 0.01 * cost[40:]
  valid = rng.random((batch, shape[1])) < rng.random((batch, 1))
  check(cost, valid)


def test_as_many_targets_as_queries_of_the_published_model():
  rng = np.random.default_rng(1)
  cost = (rng.normal(size=(2, 100, 1)) + rng.normal(size=(2, 100, 100)) * 0.1).astype(
    np.float32
  )
  check(cost, np.ones((2, 100), bool))


def test_without_targets():
  found = solve(np.ones((1, 4, 3), np.float32), np.zeros((1, 3), bool))
  np.testing.assert_array_equal(found, [[-1, -1, -1]])


def test_what_stands_in_rows_that_do_not_exist_is_ignored():
  cost = np.array([[[1.0, np.nan], [2.0, -np.inf], [3.0, 7.0]]], np.float32)
  found = solve(cost, np.array([[True, False]]))
  np.testing.assert_array_equal(found, [[0, -1]])


def test_nan_and_infinity_are_the_last_choice():
  cost = np.array([[np.nan, np.nan], [5.0, np.inf], [6.0, 1.0]], np.float32)
  np.testing.assert_array_equal(assign(jnp.asarray(cost)), [1, 2])


def test_nothing_but_nan_still_ends():
  found = np.asarray(assign(jnp.full((4, 3), jnp.nan)))
  assert len(set(found)) == 3
