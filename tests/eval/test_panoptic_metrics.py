"""Panoptic quality against panopticapi's recorded numbers and awkward cases."""

import golden
import numpy as np
import pytest

from maskclip_jax.eval.metrics.panoptic import PanopticMetrics, Segments, match

# The same quotients; ours are added in steps of 1e-12, to be exact in any order.
EXACT = 1e-9


def recorded():
  g = golden.load('evaluators')
  index = {int(c): i for i, (c, _) in enumerate(g['pq/in/categories_id_isthing'])}
  for i in range(6):
    ids, categories, crowd, areas = g[f'pq/in/img{i}/gt_segments'].T
    truth = Segments.from_ids(
      g[f'pq/in/img{i}/gt'], ids, [index[c] for c in categories.tolist()], crowd, areas
    )
    ids, categories = g[f'pq/in/img{i}/pred_segments'].T
    predicted = Segments.from_ids(
      g[f'pq/in/img{i}/pred'], ids, [index[c] for c in categories.tolist()]
    )
    yield predicted, truth


def accumulate(pairs):
  thing = golden.load('evaluators')['pq/in/categories_id_isthing'][:, 1]
  metrics = PanopticMetrics(thing.astype(bool))
  for predicted, truth in pairs:
    metrics.add(predicted, truth)
  return metrics


def test_equals_panopticapi():
  g = golden.load('evaluators')
  result = accumulate(recorded()).result()
  for group, suffix in (('All', ''), ('Things', 'th'), ('Stuff', 'st')):
    for name in ('pq', 'sq', 'rq'):
      ours = result.values[name.upper() + suffix]
      official = 100 * g[f'metrics/pq/{group}/{name}']
      assert ours == pytest.approx(official, abs=EXACT), (group, name)
  for i, (category, _) in enumerate(g['pq/in/categories_id_isthing']):
    for name in ('pq', 'sq', 'rq'):
      ours = result.per_class[name.upper()][i]
      official = 100 * g[f'metrics/pq/per_class/{category}/{name}']
      assert ours == pytest.approx(official, abs=EXACT), (category, name)


def test_merged_parts_are_the_whole():
  pairs = list(recorded())
  whole, parts = accumulate(pairs), accumulate([])
  for part in (pairs[4:], pairs[:4]):
    parts.merge(accumulate(part).state())
  assert parts.result().values == whole.result().values


def one_row(text, classes, **kwargs):
  """Segments drawn as a row of letters; '.' is void and 'a' the first segment."""
  rows = np.array([[ord(c) - ord('a') if c != '.' else -1 for c in text]])
  return Segments(rows, np.array(classes, np.int32), **kwargs)


def judged(predicted, truth):
  m = match(predicted, truth)
  return m.pairs.tolist(), m.missed.tolist(), m.wrong.tolist()


def test_an_iou_of_exactly_one_half_does_not_match():
  truth = one_row('aaaa..', [0])
  assert judged(one_row('aa....', [0]), truth) == ([], [0], [0])
  assert judged(one_row('aaa...', [0]), truth) == ([[0, 0]], [], [])


def test_void_leaves_the_union():
  found = match(one_row('aaaaaa', [0]), one_row('aaa...', [0]))
  np.testing.assert_allclose(found.iou, [1.0])


def test_a_prediction_mostly_in_void_is_excused():
  truth = one_row('aa....', [1])
  assert judged(one_row('.aaa..', [0]), truth) == ([], [0], [])
  assert judged(one_row('aaa...', [0]), truth) == ([], [0], [0])


def test_a_crowd_is_neither_missed_nor_matched_and_excuses_its_class():
  truth = one_row('aaaa', [0], crowd=np.array([True]))
  assert judged(one_row('aaaa', [0]), truth) == ([], [], [])
  assert judged(one_row('aaaa', [1]), truth) == ([], [], [0])


def test_of_two_crowds_of_a_class_the_last_excuses():
  truth = one_row('aaabbb', [0, 0], crowd=np.array([True, True]))
  assert judged(one_row('aa....', [0]), truth) == ([], [], [0])
  assert judged(one_row('....aa', [0]), truth) == ([], [], [])


def test_stated_areas_decide_the_union():
  # A segment stated larger than what is left of it (covered by others) fails to match.
  predicted = one_row('aa..', [0])
  assert judged(predicted, one_row('aa..', [0])) == ([[0, 0]], [], [])
  truth = one_row('aa..', [0], areas=np.array([4.0]))
  assert judged(predicted, truth) == ([], [0], [0])


def test_a_true_segment_without_a_pixel_is_missed():
  truth = one_row('aa', [0, 1], areas=np.array([2.0, 5.0]))
  assert judged(one_row('aa', [0]), truth) == ([[0, 0]], [1], [])


def test_no_prediction_and_no_truth():
  metrics = PanopticMetrics([True, False])
  assert all(np.isnan(v) for v in metrics.result().values.values())
  empty = one_row('....', [])
  metrics.add(empty, empty)
  assert np.isnan(metrics.result().values['PQ'])
  metrics.add(empty, one_row('aabb', [0, 1]))
  values = metrics.result().values
  assert (values['PQ'], values['PQth'], values['PQst']) == (0, 0, 0)
  metrics.add(one_row('aabb', [0, 1]), one_row('aabb', [0, 1]))
  values = metrics.result().values
  # One match and one miss in each class: 1 / (1 + 1/2).
  assert values['PQ'] == pytest.approx(100 / 1.5)
  assert values['SQ'] == pytest.approx(100)


def test_groups_of_classes():
  metrics = PanopticMetrics([True, True], {'novel': (1,)})
  metrics.add(one_row('aa..', [0]), one_row('aabb', [0, 1]))
  values = metrics.result().values
  assert (values['PQ'], values['PQ[novel]']) == (50, 0)


def test_what_does_not_fit_is_an_error():
  metrics = PanopticMetrics([True])
  with pytest.raises(ValueError, match='for a truth of'):
    metrics.add(one_row('aa', [0]), one_row('a', [0]))
  with pytest.raises(ValueError, match='predicted segment 1 has no pixel'):
    metrics.add(one_row('aa', [0, 0]), one_row('aa', [0]))
  with pytest.raises(ValueError, match='class outside 0 to 0'):
    metrics.add(one_row('aa', [1]), one_row('aa', [0]))
  with pytest.raises(ValueError, match='names segment 1 of 1'):
    one_row('ab', [0])
  with pytest.raises(ValueError, match='ids that no segment has'):
    Segments.from_ids(np.array([[5, 6]]), [5], [0])
  with pytest.raises(ValueError, match='same id'):
    Segments.from_ids(np.array([[5]]), [5, 5], [0, 0])
  with pytest.raises(ValueError, match='another vocabulary'):
    metrics.merge(PanopticMetrics([True, False]).state())
