"""Semantic metrics against detectron2's recorded numbers and hand-made cases."""

import cv2
import golden
import numpy as np
import pytest

from maskclip_jax.eval.metrics import boundary, semantic
from maskclip_jax.eval.metrics.semantic import SemanticMetrics

# Both sides are quotients of the same integers in double precision.
EXACT = 1e-9
NAMES = (
  'person',
  'dog',
  'grass',
  'sky',
  'dining table',
  'teddy bear',
  'wall',
  'never-in-gt',
)


def recorded():
  g = golden.load('evaluators')
  for i in range(6):
    truth = g[f'semseg/in/img{i}/gt'].astype(int)
    yield g[f'semseg/in/img{i}/logits'].argmax(0), np.where(truth == 255, -1, truth)


def accumulate(pairs, **kwargs):
  metrics = SemanticMetrics(8, **kwargs)
  for predicted, truth in pairs:
    metrics.add(predicted, truth)
  return metrics


def test_equals_detectron2():
  g = golden.load('evaluators')
  metrics = accumulate(recorded(), boundary='detectron2')
  np.testing.assert_array_equal(metrics.confusion(), g['semseg/out/confusion_matrix'])
  result = metrics.result()
  pairs = [
    (result.values['mIoU_gt'], 'mIoU'),
    *((result.values[name], name) for name in ('fwIoU', 'mACC', 'pACC')),
  ]
  for i, name in enumerate(NAMES):
    pairs += [
      (result.per_class['IoU'][i], f'IoU-{name}'),
      (result.per_class['ACC'][i], f'ACC-{name}'),
      (result.per_class['BoundaryIoU'][i], f'BoundaryIoU-{name}'),
    ]
  for ours, name in pairs:
    np.testing.assert_allclose(
      ours, g[f'metrics/semseg/{name}'], atol=EXACT, err_msg=name
    )


def test_the_older_denominator_counts_what_is_only_predicted():
  # The last class is predicted and never true: eight classes instead of seven.
  values = accumulate(recorded()).result().values
  assert values['mIoU_gt_or_pred'] == pytest.approx(
    values['mIoU_gt'] * 7 / 8, abs=EXACT
  )


def test_chunks_and_the_move_to_64_bits_change_nothing(monkeypatch):
  expected = accumulate(recorded()).confusion()
  monkeypatch.setattr(semantic, '_CHUNK', 1000)
  monkeypatch.setattr(semantic, '_MOST_PIXELS', 2500)
  np.testing.assert_array_equal(accumulate(recorded()).confusion(), expected)


def test_merged_parts_are_the_whole():
  pairs = list(recorded())
  whole, parts = accumulate(pairs), SemanticMetrics(8)
  for part in (pairs[:1], pairs[1:5], pairs[5:]):
    parts.merge(accumulate(part).state())
  for key, value in whole.state().items():
    np.testing.assert_array_equal(parts.state()[key], value)
  assert parts.result().values == whole.result().values


def test_groups_average_over_their_classes():
  truth = np.array([[0, 0, 1, 1], [2, 2, -1, -1]])
  predicted = np.array([[0, 0, 1, 0], [3, 2, 0, 0]])
  metrics = SemanticMetrics(5, {'seen': (0, 1), 'unseen': (2, 3, 4)})
  metrics.add(predicted, truth)
  values = metrics.result().values
  assert values['mIoU_gt[seen]'] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
  assert values['mIoU_gt[unseen]'] == pytest.approx(50)
  assert values['mIoU_gt_or_pred[unseen]'] == pytest.approx(25)
  assert values['pACC'] == pytest.approx(100 * 4 / 6)


def test_pixels_without_a_prediction_are_missed():
  metrics = SemanticMetrics(2)
  metrics.add(np.array([[0, -1, -1, 1]]), np.array([[0, 0, -1, 1]]))
  result = metrics.result()
  np.testing.assert_allclose(result.per_class['IoU'], [50, 100])


def test_nothing_to_judge_is_nan_not_zero():
  metrics = SemanticMetrics(3)
  assert all(np.isnan(value) for value in metrics.result().values.values())
  metrics.add(np.zeros((4, 4), int), np.full((4, 4), -1))
  assert np.isnan(metrics.result().values['mIoU_gt'])


def eroded_boundary(mask, reach):
  """The paper's: a mask minus itself eroded."""
  framed = np.pad(mask.astype(np.uint8), 1)
  eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)
  return mask & ~eroded[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize('size', [(1, 1), (1, 90), (60, 80), (300, 200)])
def test_boundaries_are_each_mask_minus_its_erosion(size):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 4, (5, 6)).astype(np.uint8)
  labels = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST).astype(int)
  near = boundary.class_boundaries(labels, 4)
  for label in range(4):
    expected = eroded_boundary(labels == label, boundary.boundary_width(*size))
    np.testing.assert_array_equal(near == label, expected)


def test_boundary_iou_is_that_of_the_masks():
  rng = np.random.default_rng(1)
  coarse = rng.integers(0, 3, (2, 4, 4)).astype(np.uint8)
  truth, predicted = (
    cv2.resize(c, (90, 70), interpolation=cv2.INTER_NEAREST).astype(int) for c in coarse
  )
  metrics = SemanticMetrics(3)
  metrics.add(predicted, truth)
  reach = boundary.boundary_width(70, 90)
  for label, value in enumerate(metrics.result().per_class['BoundaryIoU']):
    a, b = (eroded_boundary(m == label, reach) for m in (truth, predicted))
    assert value == pytest.approx(100 * (a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(
  ('predicted', 'truth', 'message'),
  [
    (np.zeros((2, 2), int), np.zeros((2, 3), int), 'for a truth of'),
    (np.full((2, 2), 9), np.zeros((2, 2), int), 'predicted class 9 does not exist'),
    (np.zeros((2, 2), int), np.full((2, 2), 255), 'true class 255 does not exist'),
  ],
)
def test_maps_that_do_not_fit_are_errors(predicted, truth, message):
  with pytest.raises(ValueError, match=message):
    SemanticMetrics(3).add(predicted, truth)


def test_states_and_groups_of_other_classes_are_errors():
  with pytest.raises(ValueError, match='another vocabulary'):
    SemanticMetrics(3).merge(SemanticMetrics(4).state())
  with pytest.raises(ValueError, match="group 'novel'"):
    SemanticMetrics(3, {'novel': (3,)})
  with pytest.raises(ValueError, match='boundary must be one of'):
    SemanticMetrics(3, boundary='dilated')
