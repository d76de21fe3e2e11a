"""Masks that stand as who owns which pixel: the same results as of their logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from maskclip_jax.postprocess import (
  ClassScores,
  Geometry,
  PostprocessConfig,
  postprocess,
)
from maskclip_jax.postprocess.partition import OUTSIDE, Partition

REGIONS, PARTS, CLASSES = 3, 5, 4
SIZE = (40, 56)


def partition() -> Partition:
  """Two regions side by side, and one that overlaps both by halves."""
  rng = np.random.default_rng(0)
  owner = rng.integers(0, PARTS, (REGIONS, 5, 7)).astype(np.int8)
  owner = owner.repeat(8, 1).repeat(8, 2)
  inside = np.full(SIZE, 50.0, np.float32)
  owner[0, :, 28:], owner[1, :, :28] = -1, -1
  owner[2, :, :20], owner[2, :, 36:] = -1, -1
  inside[:, 20:36] = 0.0
  return Partition(jnp.asarray(owner), jnp.asarray(inside), PARTS)


def test_logits_are_those_of_the_owner():
  masks = partition()
  logits = np.asarray(masks)
  assert logits.shape == masks.shape == (REGIONS * PARTS, *SIZE)
  assert len(masks) == REGIONS * PARTS
  region, part, row, column = 2, 3, 11, 25
  own = masks.owner[region, row, column] == part
  assert logits[region * PARTS + part, row, column] == (0.0 if own else OUTSIDE)
  # Halves of two and a whole of one: every pixel is given away once.
  np.testing.assert_allclose(jax.nn.sigmoid(logits).sum(0), 1, atol=1e-6)


@pytest.mark.parametrize(
  ('order', 'task'), [('masks_first', 'instance'), ('scores_first', 'semantic')]
)
def test_results_are_those_of_the_logits(order, task):
  masks = partition()
  rng = np.random.default_rng(1)
  probabilities = rng.uniform(size=(len(masks), CLASSES)).astype(np.float32)
  scores = ClassScores(
    jnp.asarray(probabilities), jnp.zeros(len(masks)), jnp.ones(CLASSES, bool)
  )
  geometry = Geometry(SIZE, SIZE, (37, 50), (61, 83))
  config = PostprocessConfig(semantic_order=order, object_threshold=0.0)
  thing = jnp.ones(CLASSES, bool)

  def results(logits):
    found = postprocess(logits, scores, thing, geometry, config, [task], tile=32)
    return found.semantic if task == 'semantic' else found.instances.scores

  np.testing.assert_array_equal(results(masks), results(masks.logits()))


def test_a_stored_program_gives_it_back():
  batched = jax.tree.map(lambda x: x[None], partition())
  program = jax.jit(lambda masks: masks)
  stored = export.export(program)(batched).serialize()
  found = export.deserialize(stored).call(batched)[0]
  assert found.parts == PARTS
  np.testing.assert_array_equal(np.asarray(found), np.asarray(partition()))
