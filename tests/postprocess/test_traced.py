"""Semantic results made inside one program are those of the tiles."""

import functools

import jax
import numpy as np
import pytest

from maskclip_jax.postprocess import Geometry, class_probabilities, semantic
from maskclip_jax.postprocess.traced import OUTSIDE, semantic_ids

MASKS, CANVAS = (128, 160), (300, 400)
GEOMETRIES = {
  'as the network saw it': ((100, 120), (200, 240), (190, 230), (190, 230)),
  'shrunk far': ((100, 120), (800, 960), (790, 950), (31, 44)),
  'enlarged': ((20, 30), (64, 96), (60, 90), (300, 399)),
  'masks as fine as the photo': ((128, 160), (128, 160), (120, 155), (170, 150)),
  'one pixel': ((8, 8), (32, 32), (1, 1), (1, 1)),
}


@functools.partial(jax.jit, static_argnames='order')
def traced(masks, logits, sizes, order):
  return semantic_ids(masks, class_probabilities(logits), sizes, CANVAS, order)


@pytest.mark.parametrize('order', ['masks_first', 'scores_first'])
def test_ids_are_those_of_the_tiles(order):
  random = np.random.default_rng(0)
  masks = random.normal(0, 4, (11, *MASKS)).astype(np.float32)
  logits = random.normal(0, 2, (11, 70)).astype(np.float32)
  for name, sides in GEOMETRIES.items():
    geometry = Geometry(*sides)
    known = masks.copy()
    known[:, geometry.mask[0] :] = np.nan  # not real: must not matter
    expected = semantic(known, class_probabilities(logits), geometry, order=order)
    ids = np.asarray(traced(known, logits, geometry.sizes(), order))
    height, width = geometry.original
    # A pixel may differ only where two classes tie to float32 rounding.
    differ = (ids[:height, :width] != expected).mean()
    assert differ < 1e-3, (name, differ)
    assert (ids[height:] == OUTSIDE).all()
    assert (ids[:, width:] == OUTSIDE).all()
