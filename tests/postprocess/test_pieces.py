"""Objects made of a semantic map: which pixels are one piece, and what it scores."""

import numpy as np

from maskclip_jax.postprocess.pieces import (
  NO_QUERY,
  find_pieces,
  piece_instances,
  piece_segments,
)

# 0 is stuff in two places; 1 two things, one of which touches itself at a corner.
SEMANTIC = np.array(
  [
    [1, 1, 0, 0, 1],
    [1, 0, 0, 0, 1],
    [0, 1, 0, 2, 2],
    [0, 0, 0, 2, 2],
  ],
  np.int32,
)
SCORES = np.where(SEMANTIC == 2, 0.1, 0.5).astype(np.float32)
SCORES[:2, 4] = 0.9
THING = np.array([False, True, True])


def pieces(threshold=0.0):
  return find_pieces(SEMANTIC, SCORES, THING, threshold)


def test_things_are_cut_apart_and_stuff_is_one():
  ids, segments = piece_segments(pieces(), THING)
  found = [(s.id, s.class_index, s.thing, s.area, s.query) for s in segments]
  assert found == [
    (1, 0, False, 10, NO_QUERY),
    (2, 1, True, 4, NO_QUERY),
    (3, 1, True, 2, NO_QUERY),
    (4, 2, True, 4, NO_QUERY),
  ]
  np.testing.assert_allclose([s.score for s in segments], [0.5, 0.5, 0.9, 0.1])
  for segment in segments:
    assert (SEMANTIC[ids == segment.id] == segment.class_index).all()
    assert (ids == segment.id).sum() == segment.area


def test_pieces_that_score_too_little_are_dropped():
  ids, segments = piece_segments(pieces(0.5), THING)
  assert [s.score > 0.5 for s in segments] == [True]
  np.testing.assert_array_equal(ids > 0, SCORES > 0.5)


def test_the_best_things_are_detections():
  found = piece_instances(pieces(), THING, 100, True)
  assert found.classes.tolist() == [1, 1, 2]
  np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.1])
  assert found.areas.tolist() == [2, 4, 4]
  for i in range(3):
    np.testing.assert_array_equal(found.mask(i).sum(), found.areas[i])
  np.testing.assert_array_equal(found.mask(0), np.float32(0.9) == SCORES)
  assert len(piece_instances(pieces(), THING, 2, False)) == 2
  assert piece_instances(pieces(), THING, 100, False).classes.tolist() == [1, 0, 1, 2]


def test_a_map_without_a_kept_piece():
  ids, segments = piece_segments(pieces(1.0), THING)
  assert not ids.any()
  assert segments == ()
  assert len(piece_instances(pieces(1.0), THING, 100, True)) == 0
