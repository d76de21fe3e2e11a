"""Post-processing against the plain rules, by hand, and at every awkward size."""

import golden
import jax.numpy as jnp
import numpy as np
import plain_postprocess as plain
import pytest

from maskclip_jax.postprocess import PostprocessConfig, postprocess
from maskclip_jax.postprocess.class_scores import ClassScores, class_probabilities
from maskclip_jax.postprocess.instances import instances
from maskclip_jax.postprocess.panoptic import panoptic
from maskclip_jax.postprocess.semantic import best_class, semantic, semantic_scores
from maskclip_jax.postprocess.tiles import Geometry


@pytest.fixture(params=list(plain.GEOMETRIES))
def geometry(request):
  return plain.GEOMETRIES[request.param]


@pytest.mark.parametrize('order', ['masks_first', 'scores_first'])
def test_semantic_follows_the_rule_at_any_size(geometry, order):
  masks, scores, _ = plain.random_case(0, geometry, canvas=(168, 80))
  expected = plain.scores(scores.probabilities, masks, geometry, order)
  maps = semantic_scores(masks, scores, geometry, order=order, tile=32)
  golden.assert_close(maps, expected, name='score maps')
  ranked = np.sort(expected, axis=0)
  plain.near_ties(
    semantic(masks, scores, geometry, order=order, tile=32),
    expected.argmax(0),
    ranked[-1] - ranked[-2],
    name=f'semantic {order}',
  )


def test_panoptic_follows_the_rule_at_any_size(geometry):
  masks, scores, thing = plain.random_case(1, geometry, canvas=(168, 80))
  p = scores.probabilities
  ids, segments = panoptic(
    masks,
    scores,
    thing,
    geometry,
    object_threshold=0.4,
    overlap_threshold=0.3,
    tile=32,
  )
  expected, rows, margin = plain.panoptic(
    p, plain.full_logits(masks, geometry), p.max(-1) > 0.4, thing, 0.3
  )
  plain.near_ties(ids, expected, margin, name='panoptic')
  assert [(s.id, s.thing, s.class_index) for s in segments] == rows
  for segment in segments:
    assert segment.area == (ids == segment.id).sum()
    assert segment.score >= p[segment.query].max()


def test_instances_follow_the_rule_at_any_size(geometry):
  masks, scores, thing = plain.random_case(2, geometry, canvas=(168, 80))
  found = instances(
    masks, scores, thing, geometry, top_k=20, things_only=False, tile=32
  )
  logits = plain.full_logits(masks, geometry)
  soft = plain.sigmoid(logits)
  order = np.argsort(-scores.probabilities.ravel(), kind='stable')[:20]
  queries, classes = np.divmod(order, scores.probabilities.shape[1])
  pairs = {(int(q), int(c)) for q, c in zip(queries, classes, strict=True)}
  ours = list(zip(found.queries.tolist(), found.classes.tolist(), strict=True))
  assert set(ours) == pairs
  assert (np.diff(found.scores) <= 0).all()
  for i, (query, label) in enumerate(ours):
    mask = logits[query] > 0
    plain.near_ties(found.mask(i), mask, np.abs(logits[query]), name='mask')
    inside = (soft[query] * mask).sum(dtype=np.float64) / (mask.sum() + 1e-6)
    expected = scores.probabilities[query, label] * inside
    # Sums of up to 50,000 float32 values: relative 1e-5.
    assert found.scores[i] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert found.areas[i] == found.mask(i).sum()


@pytest.mark.parametrize('tile', [32, 64, 128, 256])
def test_tiles_leave_no_trace(tile):
  geometry = plain.GEOMETRIES['enlarged']
  masks, scores, thing = plain.random_case(3, geometry)
  config = PostprocessConfig(object_threshold=0.2, things_only=False, top_k=30)
  tasks = ('semantic', 'panoptic', 'instance')
  whole = postprocess(masks, scores, thing, geometry, config, tasks, tile=512)
  tiled = postprocess(masks, scores, thing, geometry, config, tasks, tile=tile)
  np.testing.assert_array_equal(tiled.semantic, whole.semantic)
  np.testing.assert_array_equal(tiled.panoptic, whole.panoptic)
  assert tiled.segments == whole.segments
  np.testing.assert_array_equal(tiled.instances.classes, whole.instances.classes)
  for i in range(len(whole.instances)):
    np.testing.assert_array_equal(tiled.instances.mask(i), whole.instances.mask(i))


@pytest.mark.parametrize('queries', [1, 7, 12, 20])
def test_results_are_the_same_alone_and_together(queries):
  geometry = plain.GEOMETRIES['enlarged']
  masks, scores, thing = plain.random_case(4, geometry, queries=queries)
  config = PostprocessConfig(object_threshold=0.6, things_only=False, top_k=5)
  tasks = ('semantic', 'panoptic', 'instance')
  together = postprocess(masks, scores, thing, geometry, config, tasks, tile=64)
  semantic_alone, panoptic_alone, instance_alone = (
    postprocess(masks, scores, thing, geometry, config, (task,), tile=64)
    for task in tasks
  )
  np.testing.assert_array_equal(together.semantic, semantic_alone.semantic)
  np.testing.assert_array_equal(together.panoptic, panoptic_alone.panoptic)
  assert together.segments == panoptic_alone.segments
  ours, alone = together.instances, instance_alone.instances
  np.testing.assert_array_equal(ours.queries, alone.queries)
  np.testing.assert_array_equal(ours.classes, alone.classes)
  np.testing.assert_array_equal(ours.areas, alone.areas)
  np.testing.assert_allclose(ours.scores, alone.scores, rtol=1e-6)
  for i in range(len(alone)):
    np.testing.assert_array_equal(ours.mask(i), alone.mask(i))


def test_orders_may_differ_between_the_results_of_one_call():
  geometry = plain.GEOMETRIES['enlarged']
  masks, scores, thing = plain.random_case(9, geometry)
  config = PostprocessConfig(semantic_order='scores_first')
  tasks = ('semantic', 'panoptic')
  found = postprocess(masks, scores, thing, geometry, config, tasks, tile=64)
  ids, segments = panoptic(masks, scores, thing, geometry, tile=64)
  labels = semantic(masks, scores, geometry, order='scores_first', tile=64)
  np.testing.assert_array_equal(found.semantic, labels)
  np.testing.assert_array_equal(found.panoptic, ids)
  assert found.segments == segments


# From scores that one class dominates to scores that all classes share.
@pytest.mark.parametrize('sharpness', [0.0, 0.05, 1.0, 8.0])
@pytest.mark.parametrize('order', ['masks_first', 'scores_first'])
def test_classes_that_are_left_out_could_not_win(sharpness, order):
  geometry = plain.GEOMETRIES['enlarged']
  masks, _, _ = plain.random_case(10, geometry, queries=21)
  rng = np.random.default_rng(11)
  logits = (sharpness * rng.standard_normal((21, 1024))).astype(np.float32)
  scores = class_probabilities(logits, np.arange(1024) < 848, np.arange(1024) == 847)
  maps = plain.scores(np.asarray(scores.probabilities), masks, geometry, order)
  maps[847:] = -1
  expected = maps.argmax(0)
  ranked = np.sort(maps, axis=0)
  # Where all classes are alike, float32 decides every pixel, and it may be any class.
  most = 1e-3 if sharpness else 1.0
  plain.near_ties(
    semantic(masks, scores, geometry, order=order, tile=64),
    expected,
    ranked[-1] - ranked[-2],
    name=f'{order}, sharpness {sharpness}',
    most=most,
  )


def test_no_class_is_left_out_where_all_masks_are_weak():
  """From pixels of sure masks to such that no mask has anything of."""
  rng = np.random.default_rng(13)
  strength = 10.0 ** -rng.integers(0, 8, 64)
  mask_p = (rng.random((21, 64)) ** 4 * strength).astype(np.float32)
  mask_p[:, 60:] = 0
  logits = 6 * rng.standard_normal((21, 1024), np.float32)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  classes = np.arange(1024) != 3
  scores = np.where(classes[:, None], p.T.astype(float) @ mask_p, -1.0)
  # Nothing is left out on all pixels, for the last ones.
  for count in (60, 64):
    inside = (np.arange(64) < count).reshape(8, 8)
    winner, best = best_class(
      (jnp.asarray(p), classes, None), jnp.asarray(mask_p), inside
    )
    most, rows = scores.max(0), np.asarray(winner).reshape(-1)
    found = scores[rows, np.arange(64)]
    np.testing.assert_allclose(best[inside], most[:count], rtol=1e-5, atol=0)
    np.testing.assert_allclose(found[:count], most[:count], rtol=1e-6, atol=0)
  assert (rows[60:] == 0).all()


def test_of_equal_classes_the_first_wins():
  geometry = plain.GEOMETRIES['same']
  masks, _, _ = plain.random_case(12, geometry)
  p = np.zeros((12, 300), np.float32)
  # Twins far apart, and some in between that score less.
  p[:, 20] = p[:, 290] = 0.4
  p[:, 100:180] = 0.01
  scores = ClassScores(p, np.zeros(12, np.float32), np.ones(300, bool))
  assert (semantic(masks, scores, geometry) == 20).all()
  nothing = ClassScores(p * 0, np.zeros(12, np.float32), np.arange(300) >= 7)
  assert (semantic(masks, nothing, geometry) == 7).all()


# --- merging, by hand -----------------------------------------------------------------


def boxes_to_logits(boxes, shape, *, inside=20.0, outside=-20.0):
  """Sharp masks from (top, left, bottom, right)."""
  masks = np.full((len(boxes), *shape), outside, np.float32)
  for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
    mask[top:bottom, left:right] = inside
  return masks


def toy(labels, columns=4, score=0.9):
  p = np.zeros((len(labels), columns), np.float32)
  p[np.arange(len(labels)), labels] = score
  return ClassScores(p, np.zeros(len(labels), np.float32), np.ones(columns, bool))


THING = np.array([True, True, False, False])


def test_stuff_of_a_class_merges_and_things_do_not():
  boxes = [(0, 0, 4, 4), (0, 4, 4, 8), (4, 0, 8, 4), (4, 4, 8, 8)]
  ids, segments = panoptic(
    boxes_to_logits(boxes, (8, 10)), toy([2, 0, 2, 0]), THING, Geometry.same(8, 10)
  )
  assert [(s.id, s.class_index, s.area, s.query) for s in segments] == [
    (1, 2, 32, 0),
    (2, 0, 16, 1),
    (3, 0, 16, 3),
  ]
  assert (ids[:, :4] == 1).all()
  assert (ids[:4, 4:8] == 2).all()
  assert (ids[4:, 4:8] == 3).all()
  assert (ids[:, 8:] == 0).all()


def test_merged_stuff_keeps_the_best_score():
  boxes = [(0, 0, 4, 8), (4, 0, 8, 8)]
  scores = toy([2, 2])
  scores.probabilities[0] *= 0.5
  _, segments = panoptic(
    boxes_to_logits(boxes, (8, 8)), scores, THING, Geometry.same(8, 8)
  )
  assert [(s.id, s.query) for s in segments] == [(1, 0)]
  assert segments[0].score == np.float32(0.9)


@pytest.mark.parametrize(('threshold', 'kept'), [(0.5, True), (0.51, False)])
def test_overlap_rule_is_strict(threshold, kept):
  # The second mask loses half of its pixels to the first, which scores higher.
  boxes = [(0, 0, 4, 8), (2, 0, 6, 8)]
  scores = toy([0, 1])
  scores.probabilities[1] *= 0.9
  _, segments = panoptic(
    boxes_to_logits(boxes, (8, 8)),
    scores,
    THING,
    Geometry.same(8, 8),
    overlap_threshold=threshold,
  )
  assert [s.class_index for s in segments] == ([0, 1] if kept else [0])


def test_pixels_won_below_one_half_count_for_the_overlap_and_stay_void():
  # One mask wins all 64 pixels but covers 8 of them: won / covered is 8, not 1.
  masks = boxes_to_logits([(0, 0, 1, 8)], (8, 8), outside=-1.0)
  ids, segments = panoptic(
    masks, toy([0]), THING, Geometry.same(8, 8), overlap_threshold=1.0
  )
  assert [s.area for s in segments] == [8]
  assert (ids[0] == 1).all()
  assert not ids[1:].any()


def test_a_query_without_a_region_makes_no_segment():
  # Queries 1 (covers nothing) and 2 (never wins) leave no gap in the ids.
  boxes = [(0, 0, 8, 4), (0, 0, 0, 0), (0, 0, 8, 4), (0, 4, 8, 8)]
  scores = toy([0, 1, 1, 0])
  scores.probabilities[2] *= 0.9
  ids, segments = panoptic(
    boxes_to_logits(boxes, (8, 8)), scores, THING, Geometry.same(8, 8)
  )
  assert [(s.id, s.query) for s in segments] == [(1, 0), (2, 3)]
  assert set(np.unique(ids)) == {1, 2}


@pytest.mark.parametrize('reject', [True, False])
def test_void_column_rejects_queries_where_asked(reject):
  logits = np.log(np.array([[0.35, 0.05, 0.2, 0.4], [0.6, 0.1, 0.1, 0.2]], np.float32))
  scores = class_probabilities(logits, void=np.arange(4) == 3)
  boxes = [(0, 0, 8, 4), (0, 4, 8, 8)]
  _, segments = panoptic(
    boxes_to_logits(boxes, (8, 8)),
    scores,
    np.ones(4, bool),
    Geometry.same(8, 8),
    reject_void=reject,
  )
  assert [s.query for s in segments] == ([1] if reject else [0, 1])


# --- degenerate inputs ----------------------------------------------------------------


def test_no_query_kept_is_all_void():
  masks, scores, thing = plain.random_case(5, Geometry.same(16, 16))
  ids, segments = panoptic(
    masks, scores, thing, Geometry.same(16, 16), object_threshold=1.0
  )
  assert not ids.any()
  assert segments == ()


def test_one_mask_and_one_word():
  masks = boxes_to_logits([(2, 2, 6, 6)], (8, 8))
  geometry = Geometry.same(8, 8)
  thing = np.array([True])
  config = PostprocessConfig()
  found = postprocess(
    masks,
    toy([0], 1),
    thing,
    geometry,
    config,
    ('semantic', 'panoptic', 'instance'),
  )
  assert not found.semantic.any()
  np.testing.assert_array_equal(found.panoptic, masks[0] > 0)
  np.testing.assert_array_equal(found.instances.mask(0), masks[0] > 0)
  assert found.instances.scores[0] == pytest.approx(0.9, rel=1e-5)


def test_an_empty_mask_is_a_detection_that_scores_zero():
  masks = boxes_to_logits([(0, 0, 0, 0), (0, 0, 4, 4)], (8, 8))
  found = instances(masks, toy([0, 1]), THING, Geometry.same(8, 8), top_k=2)
  assert found.scores.tolist() == pytest.approx([0.9, 0.0], rel=1e-5)
  assert found.areas.tolist() == [16, 0]
  assert not found.mask(1).any()


def test_no_detections_where_all_classes_are_stuff():
  masks, scores, _ = plain.random_case(6, Geometry.same(16, 16))
  found = instances(masks, scores, np.zeros(9, bool), Geometry.same(16, 16))
  assert len(found) == 0
  assert len(found.masks) == 0


def test_more_detections_than_pairs():
  masks = boxes_to_logits([(0, 0, 4, 4)], (8, 8))
  found = instances(masks, toy([1]), THING, Geometry.same(8, 8), things_only=False)
  assert sorted(found.classes.tolist()) == [0, 1, 2, 3]


def test_columns_that_are_no_classes_are_never_a_result():
  logits = np.zeros((3, 64), np.float32)
  valid, void = np.arange(64) < 4, np.arange(64) == 3
  logits[:, 3:] = 9.0
  scores = class_probabilities(logits, valid, void)
  masks = plain.smooth_masks(np.random.default_rng(0), 3, 16, 16)
  geometry = Geometry.same(16, 16)
  assert set(np.unique(semantic(masks, scores, geometry))) <= {0, 1, 2}
  found = instances(masks, scores, np.ones(64, bool), geometry, things_only=False)
  assert set(found.classes.tolist()) == {0, 1, 2}


# --- class scores ---------------------------------------------------------------------


def test_class_probabilities_of_both_kinds():
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((5, 8)).astype(np.float32)
  logits[:, 6:] = np.nan
  valid, void = np.arange(8) < 6, np.arange(8) == 5
  e = np.exp(logits[:, :6])
  softmax = e / e.sum(-1, keepdims=True)
  stock = class_probabilities(logits, valid, void)
  np.testing.assert_allclose(stock.probabilities[:, :5], softmax[:, :5], rtol=1e-6)
  np.testing.assert_allclose(stock.void, softmax[:, 5], rtol=1e-6)
  assert not np.asarray(stock.probabilities[:, 5:]).any()
  objects = np.log(np.linspace(0.1, 0.9, 5, dtype=np.float32))
  theirs = class_probabilities(logits, valid, void, objects)
  expected = softmax[:, :5] * np.exp(objects)[:, None]
  np.testing.assert_allclose(theirs.probabilities[:, :5], expected, rtol=1e-5)
  alone = class_probabilities(None, objectness=objects)
  np.testing.assert_allclose(alone.probabilities[:, 0], np.exp(objects), rtol=1e-6)


def test_scores_need_something():
  with pytest.raises(ValueError, match='class logits, objectness, or both'):
    class_probabilities(None)


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('task', ['semantic', 'panoptic', 'instance'])
def test_masks_that_are_not_finite_are_refused(task, value):
  masks, scores, thing = plain.random_case(7, Geometry.same(16, 16))
  masks = masks.copy()
  masks[3, 5, 5] = value
  with pytest.raises(ValueError, match='mask logits contain NaN'):
    postprocess(
      masks, scores, thing, Geometry.same(16, 16), PostprocessConfig(), [task]
    )


@pytest.mark.parametrize('task', ['semantic', 'panoptic', 'instance'])
def test_scores_that_are_nan_are_refused(task):
  masks, _, thing = plain.random_case(7, Geometry.same(16, 16))
  logits = np.zeros((12, 9), np.float32)
  logits[2, 1] = np.nan
  scores = class_probabilities(logits)
  with pytest.raises(ValueError, match='class scores contain NaN'):
    postprocess(
      masks, scores, thing, Geometry.same(16, 16), PostprocessConfig(), [task]
    )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'object_threshold': 1.5}, r'object_threshold must be in \[0, 1\]'),
    ({'overlap_threshold': -0.1}, r'overlap_threshold must be in \[0, 1\]'),
    ({'overlap_threshold': float('nan')}, r'overlap_threshold must be in \[0, 1\]'),
    ({'top_k': 0}, 'top_k must be at least 1'),
    ({'semantic_order': 'first'}, 'semantic_order must be one of'),
  ],
)
def test_configuration_is_checked(change, message):
  with pytest.raises(ValueError, match=message):
    PostprocessConfig(**change)


def test_sizes_that_do_not_fit_are_refused():
  masks, scores, thing = plain.random_case(8, Geometry.same(16, 16))
  with pytest.raises(ValueError, match='do not fit in arrays of'):
    semantic(masks, scores, Geometry.same(17, 16))
  with pytest.raises(ValueError, match='5 thing flags for 9 columns'):
    panoptic(masks, scores, thing[:5], Geometry.same(16, 16))
  with pytest.raises(ValueError, match='12 rows of scores for 11 masks'):
    semantic(masks[:11], scores, Geometry.same(16, 16))
  with pytest.raises(ValueError, match='does not fit its padded size'):
    Geometry((8, 8), (32, 32), (33, 32), (33, 32))
  with pytest.raises(ValueError, match='must be \\(height, width\\) >= 1'):
    Geometry((8, 8), (32, 32), (32, 32), (0, 32))
  with pytest.raises(ValueError, match='tasks must be some of'):
    postprocess(
      masks, scores, thing, Geometry.same(16, 16), PostprocessConfig(), ['boxes']
    )
