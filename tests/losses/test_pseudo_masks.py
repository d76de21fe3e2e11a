"""Pseudo masks against the official choice with its recorded points."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truths

from maskclip_jax.losses import pseudo_masks
from maskclip_jax.losses.pseudo_masks import PseudoMaskRule

SIZE = (64, 80)


def recorded(image: int):
  """Proposals (as bits), scores, ground truth and points of an image."""
  g = golden.load('maskdistill')
  where = f'in/revise/img{image}'
  masks = np.packbits(g[f'{where}/pred_masks'], axis=-1)
  truth = truths.packed(
    [g[f'{where}/gt_masks']], [np.zeros(len(g[f'{where}/gt_masks']), int)], rows=4
  )
  points = np.concatenate([g[f'rand/revise/{2 * image + i}'] for i in (0, 1)])
  one = jax.tree.map(lambda x: x[0], truth)
  return jnp.asarray(masks), jnp.asarray(g[f'{where}/pred_scores']), one, points


@functools.partial(jax.jit, static_argnames='rule')
def choose(masks, scores, truth, points, rule):
  return pseudo_masks.choose(masks, scores, jnp.ones(len(scores)), truth, points, rule)


@pytest.mark.parametrize('image', [0, 1])
def test_official_targets(image):
  """Annotated masks first, then the accepted ones in the order of their scores."""
  g = golden.load('maskdistill')
  score, limit, points = g['meta/revise/score_threshold_nms_threshold_num_points']
  rule = PseudoMaskRule(score, 'dice', limit, int(points))
  masks, scores, truth, points = recorded(image)
  chosen = np.asarray(choose(masks, scores, truth, points, rule))
  order = np.argsort(-np.asarray(scores), kind='stable')
  accepted = [i for i in order if chosen[i]]
  given = g[f'in/revise/img{image}/gt_masks']
  expected = g[f'out/revise/img{image}/gt_masks']
  ours = np.concatenate([given, g[f'in/revise/img{image}/pred_masks'][accepted]])
  np.testing.assert_array_equal(ours, expected)
  assert 0 < len(accepted) < len(scores)


def test_extended_truth_holds_both():
  masks, _, truth, _ = recorded(0)
  batch = jax.tree.map(lambda x: x[None], truth)
  chosen = jnp.arange(10) % 3 == 1
  both = pseudo_masks.extend(batch, masks[None], chosen[None])
  one = jax.tree.map(lambda x: x[0], both)
  y, x = jnp.meshgrid(jnp.arange(SIZE[0]), jnp.arange(SIZE[1]), indexing='ij')
  covered = one.covers(y, x)
  np.testing.assert_array_equal(covered[:4], truth.covers(y, x))
  np.testing.assert_array_equal(
    covered[4:], golden.load('maskdistill')['in/revise/img0/pred_masks']
  )
  np.testing.assert_array_equal(
    both.valid[0], np.concatenate([truth.valid, np.asarray(chosen)])
  )


def test_extending_a_segment_map():
  """Rows of the map come first, and each row is sampled from where it lies."""
  segments = np.full((1, *SIZE), -1)
  segments[0, :32] = 0
  segments[0, 32:, :40] = 1
  truth = truths.mapped(segments, np.array([[3, 4, 0]]), np.array([[1, 1, 0]], bool))
  pseudo = np.zeros((1, 2, *SIZE), bool)
  pseudo[0, 1, 40:, 50:] = True
  both = pseudo_masks.extend(
    truth, jnp.packbits(jnp.asarray(pseudo), axis=-1), jnp.array([[False, True]])
  )
  one = jax.tree.map(lambda x: x[0], both)
  points = jnp.array([[0.1, 0.1], [0.1, 0.9], [0.9, 0.9]])
  np.testing.assert_array_equal(
    one.sample(points), [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
  )
  rows = jnp.array([4, 0])
  own = one.sample_own(rows, jnp.stack([points, points]))
  np.testing.assert_array_equal(own, [[0, 0, 1], [1, 0, 0]])
  np.testing.assert_array_equal(both.valid, [[1, 1, 0, 0, 1]])
  assert not both.classes.any()


def test_profiles_differ_where_they_should():
  """Dice 0.086, IoU 0.045, limit 0.07: a new object for the paper, none as released."""
  segments = np.full((1, *SIZE), -1)
  segments[0, :40, :40] = 0
  truth = truths.mapped(segments, np.zeros((1, 1), int))
  one = jax.tree.map(lambda x: x[0], truth)
  proposal = np.zeros((1, *SIZE), bool)
  proposal[0, 34:, 20:60] = True
  shared = (proposal[0] & (segments[0] == 0)).sum()
  both = proposal.sum() + 1600
  assert 2 * shared / both > 0.08
  assert shared / (both - shared) < 0.05
  masks = jnp.packbits(jnp.asarray(proposal), axis=-1)
  points = jax.random.uniform(jax.random.key(0), (2, 4000, 2))
  for overlap, accepted in (('dice', False), ('iou', True)):
    rule = PseudoMaskRule(overlap=overlap, limit=0.07, points=4000)
    found = choose(masks, jnp.array([0.9]), one, points, rule)
    assert bool(found[0]) == accepted, overlap


def test_suppression_is_greedy_by_score():
  """The middle one overlaps both others, which do not overlap each other."""
  overlap = jnp.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]])
  everyone = jnp.ones(3, bool)
  best_in_the_middle = pseudo_masks.suppress(
    overlap, jnp.array([0.8, 0.9, 0.7]), everyone, 0.1
  )
  np.testing.assert_array_equal(best_in_the_middle, [False, True, False])
  best_outside = pseudo_masks.suppress(
    overlap, jnp.array([0.9, 0.8, 0.7]), everyone, 0.1
  )
  np.testing.assert_array_equal(best_outside, [True, False, True])
  ineligible = pseudo_masks.suppress(
    overlap, jnp.array([0.8, 0.9, 0.7]), jnp.array([True, False, True]), 0.1
  )
  np.testing.assert_array_equal(ineligible, [True, False, True])


def test_binary_masks_and_their_confidence():
  logits = np.full((2, 4, 4), -2.0, np.float32)
  logits[0, :2] = 3.0
  packed, confidence = pseudo_masks.binary_masks(jnp.asarray(logits), (16, 16))
  mask = np.unpackbits(np.asarray(packed), axis=-1).astype(bool)
  # Half-pixel bilinear between 3 and -2 crosses zero 0.6 of a cell below the upper.
  assert mask[0, :8].all()
  assert not mask[0, 9:].any()
  assert not mask[1].any()
  assert 0.8 < confidence[0] < jax.nn.sigmoid(3.0)
  assert confidence[1] == 0


def test_masks_end_where_the_photo_ends():
  logits = jnp.full((1, 4, 4), 5.0)
  packed, confidence = pseudo_masks.binary_masks(
    logits,
    (16, 16),
    mask_hw=jnp.array([2, 4]),
    padded_hw=jnp.array([8, 16]),
    image_hw=jnp.array([7, 13]),
  )
  mask = np.unpackbits(np.asarray(packed), axis=-1).astype(bool)[0]
  assert mask[:7, :13].all()
  assert mask.sum() == 7 * 13
  np.testing.assert_allclose(confidence[0], jax.nn.sigmoid(5.0), rtol=1e-5)
