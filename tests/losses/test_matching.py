"""Label assignment of MasQ-tuning against the official assigner; hand-made cases."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import truths

from maskclip_jax.losses.matching import (
  LABEL_RULES,
  LabelRule,
  labels_by_overlap,
  labels_of_matches,
)
from maskclip_jax.losses.terms import weighted_nll
from maskclip_jax.ops.resize import resize

VOID = 7
SIZE = 336
RELEASED, PAPER = LABEL_RULES['released'], LABEL_RULES['paper']


@functools.partial(jax.jit, static_argnames='rule')
def labels_of(masks, truth, rule=RELEASED):
  """Labels and rows of a batch of binary masks."""
  return jax.vmap(lambda m, t: labels_by_overlap(m, t, VOID, rule))(
    jnp.asarray(masks), truth
  )


def test_official_labels_loss_and_gradient():
  g = golden.load('masqclip')
  truth = truths.packed(
    [g[f'in/unit/assigner/img{i}/masks'] for i in range(3)],
    [g[f'in/unit/assigner/img{i}/labels'] for i in range(3)],
  )
  logits = resize(jnp.asarray(g['in/unit/assigner/pred_masks']), (SIZE, SIZE))
  labels, rows = labels_of(logits > 0, truth)
  for i in range(3):
    where = f'out/unit/assigner/img{i}'
    np.testing.assert_array_equal(np.flatnonzero(rows[i] >= 0), g[f'{where}/query'])
    np.testing.assert_array_equal(rows[i][rows[i] >= 0], g[f'{where}/target'])
  log_p = jnp.asarray(g['in/unit/assigner/log_probs'])
  judge = jax.jit(jax.value_and_grad(weighted_nll), static_argnums=(2, 3))
  loss, gradient = judge(log_p, labels, VOID, 0.1)
  golden.assert_close(loss, g['out/unit/assigner/loss_ce_unweighted'], name='loss')
  golden.assert_close(gradient, g['out/unit/assigner/grad_log_probs'], name='gradient')


def squares(*boxes, size=20):
  """Masks of (top, left, bottom, right) boxes."""
  masks = np.zeros((len(boxes), size, size), bool)
  for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
    mask[top:bottom, left:right] = True
  return masks


def test_thresholds_differ_by_profile():
  truth = truths.packed([squares((0, 0, 10, 10))], [np.array([3])])
  # 70 of 135 pixels shared with 100: dice is (2 x 70 + 1) / (135 + 100 + 1) = 0.597.
  below, above = np.zeros((20, 20), bool), squares((0, 0, 10, 10))[0]
  below[:10, :7] = below[10:20, :6] = below[10:15, 6] = True
  assert below.sum() == 135
  labels, rows = labels_of(np.stack([below, above])[None], truth)
  np.testing.assert_array_equal(labels, [[VOID, 3]])
  np.testing.assert_array_equal(rows, [[-1, 0]])
  # IoU 0.55: a match by dice (0.71), none for the paper.
  middling = np.zeros((20, 20), bool)
  middling[0:10, 0:5] = middling[0:5, 5:6] = True
  assert 0.5 < middling.sum() / 100 < 0.6
  (released,), (paper,) = (
    labels_of(middling[None, None], truth, rule)[0] for rule in (RELEASED, PAPER)
  )
  assert (released[0], paper[0]) == (3, VOID)


def test_the_best_segment_wins_and_may_serve_many_masks():
  boxes = squares((0, 0, 10, 10), (0, 0, 10, 9))
  truth = truths.packed([boxes], [np.array([1, 2])], rows=4)
  masks = squares((0, 0, 10, 10), (0, 0, 10, 9), (0, 1, 10, 10), (12, 12, 20, 20))
  labels, rows = labels_of(masks[None], truth)
  np.testing.assert_array_equal(labels, [[1, 2, 1, VOID]])
  np.testing.assert_array_equal(rows, [[0, 1, 0, -1]])


@pytest.mark.parametrize('rule', [RELEASED, PAPER])
def test_no_segments_or_no_pixels(rule):
  nothing = truths.packed([np.zeros((0, 20, 20), bool)], [np.zeros(0, int)], rows=3)
  labels, _ = labels_of(np.zeros((1, 2, 20, 20), bool), nothing, rule)
  np.testing.assert_array_equal(labels, [[VOID, VOID]])


def test_an_empty_mask_matches_a_vanished_segment_only_as_released():
  """The official quirk: both empty gives a dice of 1 by the added pixel."""
  truth = truths.packed([np.zeros((1, 20, 20), bool)], [np.array([4])])
  empty = np.zeros((1, 1, 20, 20), bool)
  assert labels_of(empty, truth, RELEASED)[0][0, 0] == 4
  assert labels_of(empty, truth, PAPER)[0][0, 0] == VOID


def test_map_and_bits_overlap_alike_at_another_size():
  rng = np.random.default_rng(0)
  segments = rng.integers(-1, 3, (1, 18, 24))
  classes = np.array([[5, 6, 2]])
  masks = jnp.asarray(rng.random((4, 50, 31)) < 0.5)
  as_map = truths.mapped(segments, classes)
  as_bits = truths.packed([segments[0] == np.arange(3)[:, None, None]], list(classes))
  for truth in (as_map, as_bits):
    one = jax.tree.map(lambda x: x[0], truth)
    shared, area, rows = one.overlaps(masks)
    y = np.arange(50) * 18 // 50
    x = np.arange(31) * 24 // 31
    near = segments[0][y][:, x] == np.arange(3)[:, None, None]
    expected = np.einsum('qhw,nhw->qn', np.asarray(masks, int), near.astype(int))
    np.testing.assert_array_equal(shared, expected)
    np.testing.assert_array_equal(area, np.asarray(masks).sum((1, 2)))
    np.testing.assert_array_equal(rows, near.sum((1, 2)))


def test_labels_of_matches():
  labels = labels_of_matches(jnp.array([2, -1, 0]), jnp.array([5, 6, 7]), 4, 9)
  np.testing.assert_array_equal(labels, [7, 9, 5, 9])


def test_unknown_overlap_is_refused():
  with pytest.raises(ValueError, match="'dice' or 'iou', not 'giou'"):
    LabelRule('giou')
