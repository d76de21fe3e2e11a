"""Each class's best region alone, against the rule written out in NumPy [ovseg 2.8]."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax.postprocess import NO_CLASS, ClassScores, Geometry
from maskclip_jax.postprocess.best_regions import best_regions, proposed


def scores_of(probabilities, classes) -> ClassScores:
  p = np.asarray(probabilities, np.float32)
  return ClassScores(jnp.asarray(p), jnp.zeros(len(p)), jnp.asarray(classes))


def plain_map(masks, probabilities, threshold, picked):
  """Scores of all classes at every pixel: binary masks times whole rows, added up."""
  binary = 1 / (1 + np.exp(-masks)) > threshold
  return np.einsum('qk,qyx->kyx', probabilities[picked], binary[picked].astype(float))


def test_rows_of_the_picked_queries_are_added_up():
  rng = np.random.default_rng(0)
  masks = rng.normal(size=(12, 20, 30)).astype(np.float32)
  # Three classes and a column of padding; the last query is no result.
  p = rng.dirichlet(np.ones(3), 12) * (np.arange(12) < 11)[:, None]
  p = np.pad(p, ((0, 0), (0, 1)))
  scores = scores_of(p, [True, True, True, False])
  picked = sorted({int(p[:, c].argmax()) for c in range(3)})
  np.testing.assert_array_equal(proposed(scores, 12), picked)
  expected = plain_map(masks, p, 0.6, picked)
  found, best = best_regions(jnp.asarray(masks), scores, Geometry.same(20, 30), 0.6)
  np.testing.assert_allclose(best, expected.max(0), rtol=1e-6)
  blank = expected.max(0) == 0
  assert 0 < blank.sum() < blank.size
  np.testing.assert_array_equal(found, np.where(blank, NO_CLASS, expected.argmax(0)))


def test_the_rest_proposes_nothing_and_may_win():
  masks = jnp.asarray(np.full((2, 4, 4), -9.0, np.float32)).at[:, :2].set(9.0)
  scores = scores_of([[0.4, 0.6], [0.1, 0.9]], [True, True])
  rest = np.array([False, True])
  assert proposed(scores, 2).tolist() == [0, 1]
  assert proposed(scores, 2, rest).tolist() == [0]
  found, best = best_regions(masks, scores, Geometry.same(4, 4), 0.5, rest=rest)
  np.testing.assert_array_equal(found[:2], 1)
  np.testing.assert_array_equal(found[2:], NO_CLASS)
  np.testing.assert_allclose(best[:2], 0.6, rtol=1e-6)


def test_no_region_at_all():
  masks, nothing = jnp.zeros((3, 4, 4)), scores_of(np.zeros((3, 2)), [True, True])
  found, _ = best_regions(masks, nothing, Geometry.same(4, 4), 0.5)
  assert (found == NO_CLASS).all()
  with pytest.raises(ValueError, match='3 rows of scores for 2 masks'):
    best_regions(masks[:2], nothing, Geometry.same(4, 4), 0.5)
