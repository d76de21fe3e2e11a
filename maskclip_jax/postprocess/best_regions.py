"""Of each class the region that fits it best, and nothing else: OVSeg's demo, for free
vocabularies, where words that are not in a photo are asked for [ovseg 2.8].
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from maskclip_jax.ops.resize import resize
from maskclip_jax.postprocess.class_scores import ClassScores, checked
from maskclip_jax.postprocess.one_pass import one_pass
from maskclip_jax.postprocess.partition import Partition
from maskclip_jax.postprocess.semantic import ScoredSemanticCollector
from maskclip_jax.postprocess.tiles import TILE, Geometry

# In a semantic map: the pixel belongs to no class.
NO_CLASS = -1
# Regions are compiled for in multiples of this.
_STEP = 8
# As a logit: certainly inside.
_INSIDE = 1e4


def best_regions(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  geometry: Geometry,
  threshold: float,
  *,
  rest: Bool[np.ndarray, ' k'] | None = None,
  tile: int = TILE,
) -> tuple[Int32[np.ndarray, 'height width'], Float32[np.ndarray, 'height width']]:
  """The class of every pixel, or `NO_CLASS`; and its score.

  Each class proposes the query of its highest score. Scores of the proposed queries are
  added up where their masks are, cut at a threshold before they are enlarged; a
  region's class is that of its own highest score, which need not be the one that
  proposed it.

  Args:
    mask_logits: one map per query.
    scores: from `class_probabilities`; zero for queries that are no result.
    geometry: how the maps lie on the photo.
    threshold: probability above which a pixel is in a mask.
    rest: classes that propose nothing, and may still be what a region is.
    tile: side of the tiles the work is cut into.

  Raises:
    ValueError: NaN in masks or scores, sizes that do not fit, or a partition.
  """
  if isinstance(mask_logits, Partition):
    raise ValueError(
      'the best regions are among proposed masks, and this model divides photos among '
      'words: leave region_threshold out'
    )
  queries = proposed(scores, len(mask_logits), rest)
  rows = np.resize(queries, -(-len(queries) // _STEP) * _STEP)
  probabilities = scores.probabilities[rows]
  alone = dataclasses.replace(
    scores,
    # What only fills up the last rows adds nothing.
    probabilities=probabilities.at[len(queries) :].set(0.0),
    void=scores.void[rows],
  )
  canvas = tuple(
    int(-(-side * whole // part))
    for side, whole, part in zip(
      geometry.padded, mask_logits.shape[1:], geometry.mask, strict=True
    )
  )
  masks = _cut(
    mask_logits, rows, threshold, geometry.mask, geometry.padded, canvas=canvas
  )
  geometry = dataclasses.replace(geometry, mask=geometry.padded)
  found = ScoredSemanticCollector(alone, geometry, len(rows))
  one_pass([found], masks, geometry, order='scores_first', tile=tile)
  return np.where(found.scores() > 0, found.result(), NO_CLASS), found.scores()


def proposed(
  scores: ClassScores, queries: int, rest: Bool[np.ndarray, ' k'] | None = None
) -> Int[np.ndarray, ' n']:
  """The queries that classes propose, in ascending order; the first of equal ones.

  Raises:
    ValueError: NaN in the scores, or another number of them.
  """
  probabilities, _ = checked(scores, queries)
  classes = np.asarray(scores.classes)
  if rest is not None:
    classes = classes & ~rest
  return np.unique(probabilities[:, classes].argmax(0))


@functools.partial(jax.jit, static_argnames='canvas')
def _cut(
  mask_logits: Float[Array, 'q h w'],
  rows: Int[Array, ' n'],
  threshold: Float[Array, ''],
  mask_hw: tuple[int, int],
  padded_hw: tuple[int, int],
  *,
  canvas: tuple[int, int],
) -> Float[Array, 'n y x']:
  """Masks of some queries at the size the network saw, as logits of 0 and 1."""
  least = jnp.log(threshold) - jnp.log1p(-threshold)
  enlarged = resize(
    mask_logits[rows],
    canvas,
    in_hw=jnp.asarray(mask_hw),
    out_hw=jnp.asarray(padded_hw),
  )
  return jnp.where(enlarged > least, _INSIDE, -_INSIDE)
