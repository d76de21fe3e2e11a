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
from maskclip_jax.postprocess.one_pass import QUERY_BLOCK
from maskclip_jax.postprocess.partition import OUTSIDE, ArrangedPartition, Partition
from maskclip_jax.postprocess.semantic import semantic

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
  ('order', 'task'),
  [
    ('masks_first', 'instance'),
    ('masks_first', 'semantic'),
    ('scores_first', 'semantic'),
  ],
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

  # Scores are sums over tiles, which are larger where masks are fine: rounding.
  rtol = 1e-6 if task == 'instance' else 0
  np.testing.assert_allclose(results(masks), results(masks.logits()), rtol=rtol)


def windows(side: int, count: int) -> Partition:
  """Square regions beside each other, which overlap by a third."""
  rng = np.random.default_rng(2)
  step = 2 * side // 3
  size = side + step * (count - 1)
  owner = np.full((count**2, size, size), -1, np.int8)
  share = np.zeros((size, size), np.float32)
  for region, (row, column) in enumerate(np.ndindex(count, count)):
    where = np.s_[row * step : row * step + side, column * step : column * step + side]
    owner[region][where] = rng.integers(0, PARTS, (side, side))
    share[where] += 1
  inside = np.where(share > 1, -np.log(np.maximum(share - 1, 1)), 50.0)
  return Partition(jnp.asarray(owner), jnp.asarray(inside, jnp.float32), PARTS)


def test_a_tile_is_made_of_the_regions_that_reach_it(monkeypatch):
  """And is the same as if it were made of all."""
  masks = windows(24, 8)
  side = masks.shape[-1]
  rng = np.random.default_rng(3)
  probabilities = rng.uniform(size=(len(masks), CLASSES)).astype(np.float32)
  scores = ClassScores(
    jnp.asarray(probabilities), jnp.zeros(len(masks)), jnp.ones(CLASSES, bool)
  )
  geometry = Geometry.same(side, side)
  seen, near = [], ArrangedPartition.near

  def watched(self, *given):
    seen.append(near(self, *given))
    return seen[-1]

  monkeypatch.setattr(ArrangedPartition, 'near', watched)
  found = semantic(masks, scores, geometry, tile=16)
  (blocks,) = seen
  whole = ArrangedPartition.of(masks, np.arange(len(masks)), QUERY_BLOCK)
  assert blocks.shape[1] < whole.shape[0] / 2
  np.testing.assert_array_equal(found, semantic(masks.logits(), scores, geometry))


def test_a_region_has_up_to_128_parts():
  parts = 128
  owner = np.random.default_rng(4).integers(0, parts, (1, 16, 24)).astype(np.int8)
  masks = Partition(jnp.asarray(owner), jnp.full((16, 24), 50.0), parts)
  probabilities = np.random.default_rng(5).uniform(size=(parts, CLASSES))
  scores = ClassScores(
    jnp.asarray(probabilities, jnp.float32), jnp.zeros(parts), jnp.ones(CLASSES, bool)
  )
  found = semantic(masks, scores, Geometry.same(16, 24))
  np.testing.assert_array_equal(found, probabilities.argmax(1)[owner[0]])


def test_regions_without_a_pixel_are_near_nothing():
  masks = windows(24, 2)
  empty = Partition(masks.owner.at[1].set(-1), masks.inside, PARTS)
  arranged = ArrangedPartition.of(empty, np.arange(len(empty)), PARTS)
  corners = np.array([[0, 0], [0, 20], [30, 30], [20, 20]])
  # Regions begin at 0 and 16 and end at 24 and 40.
  expected = [[0, -1, -1, -1], [0, -1, -1, -1], [3, -1, -1, -1], [0, 2, 3, -1]]
  np.testing.assert_array_equal(arranged.near(corners, (4, 4)), expected)
  chosen = arranged.select(np.array([3, -1]))
  assert chosen.shape == (2, 40, PARTS, 40)
  outside = chosen.window(1, jnp.zeros(2, int), (40, 40))
  assert (outside == OUTSIDE).all()


def test_a_stored_program_gives_it_back():
  batched = jax.tree.map(lambda x: x[None], partition())
  program = jax.jit(lambda masks: masks)
  stored = export.export(program)(batched).serialize()
  found = export.deserialize(stored).call(batched)[0]
  assert found.parts == PARTS
  np.testing.assert_array_equal(np.asarray(found), np.asarray(partition()))
