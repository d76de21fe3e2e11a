"""Results made inside one program are those of the tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax.postprocess import (
  Geometry,
  class_probabilities,
  panoptic,
  semantic,
)
from maskclip_jax.postprocess.traced import OUTSIDE, panoptic_ids, semantic_ids

MASKS, CANVAS, COLUMNS = (128, 160), (300, 400), 70
GEOMETRIES = {
  'as the network saw it': ((100, 120), (200, 240), (190, 230), (190, 230)),
  'shrunk far': ((100, 120), (800, 960), (790, 950), (31, 44)),
  'enlarged': ((20, 30), (64, 96), (60, 90), (300, 399)),
  'masks as fine as the photo': ((128, 160), (128, 160), (120, 155), (170, 150)),
  'one pixel': ((8, 8), (32, 32), (1, 1), (1, 1)),
}
THRESHOLDS = {'object_threshold': 0.1, 'overlap_threshold': 0.4}
# Every second class is counted; the last column is void.
THING = np.arange(COLUMNS) % 2 == 0
VALID, VOID = np.ones(COLUMNS, bool), np.arange(COLUMNS) == COLUMNS - 1


@functools.partial(jax.jit, static_argnames='order')
def semantic_inside(masks, logits, sizes, order):
  return semantic_ids(masks, class_probabilities(logits), sizes, CANVAS, order)


@jax.jit
def panoptic_inside(masks, logits, sizes):
  scores = class_probabilities(logits, VALID, VOID)
  thing = jnp.asarray(THING)
  return panoptic_ids(
    masks, scores, thing, sizes, CANVAS, reject_void=True, **THRESHOLDS
  )


def drawn(geometry, scale=4.0):
  """Masks and class logits; what is not real of the masks must not matter."""
  random = np.random.default_rng(0)
  masks = random.normal(0, scale, (11, *MASKS)).astype(np.float32)
  masks[:, geometry.mask[0] :] = np.nan
  return masks, random.normal(0, 2, (11, COLUMNS)).astype(np.float32)


def check_outside(ids, geometry):
  height, width = geometry.original
  assert (ids[height:] == OUTSIDE).all()
  assert (ids[:, width:] == OUTSIDE).all()
  return ids[:height, :width]


@pytest.mark.parametrize('order', ['masks_first', 'scores_first'])
def test_semantic_ids_are_those_of_the_tiles(order):
  for name, sides in GEOMETRIES.items():
    geometry = Geometry(*sides)
    masks, logits = drawn(geometry)
    expected = semantic(masks, class_probabilities(logits), geometry, order=order)
    ids = np.asarray(semantic_inside(masks, logits, geometry.sizes(), order))
    # A pixel may differ only where two classes tie to float32 rounding.
    differ = (check_outside(ids, geometry) != expected).mean()
    assert differ < 1e-3, (name, differ)


def test_panoptic_ids_are_those_of_the_tiles():
  merged = 0
  for name, sides in GEOMETRIES.items():
    geometry = Geometry(*sides)
    masks, logits = drawn(geometry)
    logits[[1, 7, 8, 9], 33] += 9  # four masks of one stuff class, which merge
    masks[10] = -9  # covers nothing
    scores = class_probabilities(logits, VALID, VOID)
    expected, segments = panoptic(
      masks, scores, THING, geometry, reject_void=True, **THRESHOLDS
    )
    found = panoptic_inside(masks, logits, geometry.sizes())
    ids = check_outside(np.asarray(found.ids), geometry)
    assert (ids != expected).mean() < 1e-3, name
    count = len(segments)
    merged += [s.class_index for s in segments].count(33)
    assert (np.asarray(found.classes[count:]) == -1).all()
    assert not np.asarray(found.areas[count:]).any()
    for i, segment in enumerate(segments):
      assert (found.classes[i], segment.id) == (segment.class_index, i + 1)
      assert found.scores[i] == np.float32(segment.score)
      assert abs(int(found.areas[i]) - segment.area) <= 1e-3 * ids.size
  assert 0 < merged <= len(GEOMETRIES)
