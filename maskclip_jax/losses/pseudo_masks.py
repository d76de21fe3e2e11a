"""Pseudo masks of progressive distillation: what a teacher adds to the ground truth.

A frozen teacher proposes masks; those that are confident, overlap no annotated segment
and no better proposal become targets of the student beside the annotated ones. Shapes
are fixed: every proposal keeps its row and most rows are not valid (MasQCLIP, section
3.1; [masqclip 5.2]).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from maskclip_jax.losses.ground_truth import GroundTruth, pack
from maskclip_jax.ops.resize import resize

# Masks that are at the size of the photo at a time.
_CHUNK = 8
_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class PseudoMaskRule:
  """When a proposal becomes a target.

  Attributes:
    score: least score (exclusive), the paper's alpha.
    overlap: how overlap is measured at the points: 'dice' as released, or 'iou', as
      the paper says.
    limit: overlap must stay below this, the paper's beta.
    points: at which overlaps are measured.
    detections: proposals that are considered, by their object probability.
  """

  score: float = 0.8
  overlap: Literal['dice', 'iou'] = 'dice'
  limit: float = 0.1
  points: int = 12544
  detections: int = 100

  def __post_init__(self):
    if self.overlap not in ('dice', 'iou'):
      raise ValueError(f"overlap must be 'dice' or 'iou', not {self.overlap!r}")


PSEUDO_MASK_RULES = {
  'released': PseudoMaskRule(),
  'paper': PseudoMaskRule(overlap='iou'),
}


def binary_masks(
  mask_logits: Float[Array, 'q h w'],
  size: tuple[int, int],
  *,
  mask_hw: Int[Array, '2'] | None = None,
  padded_hw: Int[Array, '2'] | None = None,
  image_hw: Int[Array, '2'] | None = None,
) -> tuple[UInt8[Array, 'q h2 w2/8'], Float[Array, ' q']]:
  """Masks of one image at the size of its canvas, and their confidence.

  Args:
    mask_logits: one map per query.
    size: height and width of the canvas.
    mask_hw: the real part of the maps; all by default.
    padded_hw: the part of the canvas they cover; all by default.
    image_hw: the photo's part of the canvas, beyond which masks are empty; all by
      default.

  Returns:
    Bit-packed masks, and the mean probability inside each (0 for an empty one).
  """
  inside = jnp.ones(size, bool)
  if image_hw is not None:
    inside = jnp.arange(size[0])[:, None] < image_hw[0]
    inside = inside & (jnp.arange(size[1]) < image_hw[1])

  def one(logits: Float[Array, 'h w']):
    logits = resize(logits, size, in_hw=mask_hw, out_hw=padded_hw)
    mask = (logits > 0) & inside
    total = jnp.where(mask, jax.nn.sigmoid(logits), 0.0).sum()
    return pack(mask), total / (mask.sum() + 1e-6)

  return jax.lax.map(one, mask_logits, batch_size=min(_CHUNK, len(mask_logits)))


def overlap_matrix(
  a: Float[Array, 'm p'], b: Float[Array, 'n p'], rule: PseudoMaskRule
) -> Float[Array, 'm n']:
  """Overlap of masks sampled at points."""
  shared = jnp.einsum('mp,np->mn', a, b, precision=_HIGHEST)
  both = a.sum(-1, keepdims=True) + b.sum(-1)
  if rule.overlap == 'dice':
    return (2 * shared + 1) / (both + 1)
  return shared / jnp.maximum(both - shared, 1e-6)


def suppress(
  overlap: Float[Array, 'q q'],
  score: Float[Array, ' q'],
  eligible: Bool[Array, ' q'],
  limit: float,
) -> Bool[Array, ' q']:
  """Greedy choice by descending score of what overlaps nothing chosen before."""
  order = jnp.argsort(jnp.where(eligible, -score, jnp.inf), stable=True)

  def step(i, chosen):
    candidate = order[i]
    free = ~(chosen & (overlap[candidate] >= limit)).any()
    return chosen.at[candidate].set(eligible[candidate] & free)

  return jax.lax.fori_loop(0, len(score), step, jnp.zeros(len(score), bool))


def choose(
  masks: UInt8[Array, 'q h w/8'],
  probability: Float[Array, ' q'],
  confidence: Float[Array, ' q'],
  truth: GroundTruth,
  points: Float[Array, '2 p 2'],
  rule: PseudoMaskRule,
  image_hw: Int[Array, '2'] | None = None,
) -> Bool[Array, ' q']:
  """Which proposals of one image become targets.

  Args:
    masks: bit-packed proposals at the size of the ground truth.
    probability: that a proposal is an object.
    confidence: mean probability inside its mask.
    truth: annotated segments.
    points: (x, y) in [0, 1], for the overlap with the truth and among proposals.
    rule: thresholds.
    image_hw: the part that the points span; all by default.
  """
  queries = len(probability)
  rank = jnp.argsort(jnp.argsort(-probability, stable=True))
  score = probability * confidence
  eligible = (score > rule.score) & (rank < rule.detections)
  proposals = GroundTruth(
    jnp.zeros(queries, jnp.int32), eligible, truth.size, masks=masks
  )
  with_truth = overlap_matrix(
    proposals.sample(points[0], image_hw), truth.sample(points[0], image_hw), rule
  )
  # Without annotations every confident proposal is new.
  eligible &= jnp.where(truth.valid, with_truth, -jnp.inf).max(-1) < rule.limit
  sampled = proposals.sample(points[1], image_hw)
  return suppress(overlap_matrix(sampled, sampled, rule), score, eligible, rule.limit)


def extend(
  truth: GroundTruth, masks: UInt8[Array, 'b q h w/8'], chosen: Bool[Array, 'b q']
) -> GroundTruth:
  """A batch's ground truth with chosen proposals as further rows; every class is 0."""
  valid = jnp.concatenate([truth.valid, chosen], axis=-1)
  if truth.masks is not None:
    masks = jnp.concatenate([truth.masks, masks], axis=-3)
  return GroundTruth(
    jnp.zeros(valid.shape, jnp.int32), valid, truth.size, truth.segments, masks
  )
