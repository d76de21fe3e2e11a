"""Which query is responsible for which segment.

Training a proposal network assigns queries to segments one to one, by the sum of a
class, a mask and a dice cost [masqclip 3.2]. Tuning the queries of a frozen network
labels every mask by the segment it covers best, if it covers one well [masqclip 5.4].
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.losses.terms import focal_parts
from maskclip_jax.ops.sampling import sample_points
from maskclip_jax.plain import at_least

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Weights:
  """Weights of the three costs, which are also those of the three losses."""

  label: float = 2.0
  mask: float = 5.0
  dice: float = 5.0

  def __post_init__(self):
    at_least(self, 0, 'label', 'mask', 'dice')


def matching_cost(
  log_p: Float[Array, 'q k'] | None,
  mask_logits: Float[Array, 'q h w'],
  truth: GroundTruth,
  points: Float[Array, 'p 2'],
  weights: Weights,
  *,
  mask_hw: Int[Array, '2'] | None = None,
  truth_hw: Int[Array, '2'] | None = None,
) -> Float[Array, 'q n']:
  """What it costs to give each query to each row of one image's ground truth.

  Args:
    log_p: log-probabilities of the classes; None where only masks are compared.
    mask_logits: one map per query.
    truth: one image's ground truth.
    points: (x, y) in [0, 1], shared by all masks.
    weights: the weights of the costs.
    mask_hw: the real part of the maps; all by default.
    truth_hw: the real part of the ground truth; all by default.
  """
  logits = sample_points(mask_logits, points[None], mask_hw)
  targets = truth.sample(points, truth_hw)

  entropy = jax.nn.softplus(logits).sum(-1, keepdims=True) - _products(logits, targets)
  cost = weights.mask * entropy / points.shape[0]
  cost += weights.dice * _dice_cost(jax.nn.sigmoid(logits), targets)
  return cost - _class_cost(log_p, truth, weights)


def _products(a: Float[Array, 'q p'], b: Float[Array, 'n p']) -> Float[Array, 'q n']:
  return jnp.einsum('qp,np->qn', a, b, precision=_HIGHEST)


def _dice_cost(
  p: Float[Array, 'q p'], targets: Float[Array, 'n p']
) -> Float[Array, 'q n']:
  areas = p.sum(-1, keepdims=True) + targets.sum(-1)
  return 1 - (2 * _products(p, targets) + 1) / (areas + 1)


def _class_cost(
  log_p: Float[Array, 'q k'] | None, truth: GroundTruth, weights: Weights
) -> Float[Array, 'q n'] | float:
  if log_p is None:
    return 0.0
  return weights.label * jnp.exp(log_p[:, truth.classes])


def pixel_cost(
  log_p: Float[Array, 'q k'] | None,
  mask_logits: Float[Array, 'q h w'],
  truth: GroundTruth,
  weights: Weights,
) -> Float[Array, 'q n']:
  """`matching_cost` at every pixel of the predictions, by focal loss [ovseg 4.3].

  The ground truth is brought to their size by torch's nearest rule.
  """
  targets = truth.resized(mask_logits.shape[1:]).astype(jnp.float32)
  logits, targets = (x.reshape(len(x), -1) for x in (mask_logits, targets))
  one, zero = focal_parts(logits)
  mask = _products(one - zero, targets) + zero.sum(-1, keepdims=True)
  cost = weights.mask * mask / logits.shape[1]
  cost += weights.dice * _dice_cost(jax.nn.sigmoid(logits), targets)
  return cost - _class_cost(log_p, truth, weights)


def labels_of_matches(
  query_of: Int[Array, ' n'],
  classes: Int[Array, ' n'],
  queries: int,
  void: Int[Array, ''] | int,
) -> Int[Array, ' q']:
  """The class each query should say: its target's, or void without one.

  Args:
    query_of: the query of each target, -1 where it has none.
    classes: class of each target.
    queries: number of queries.
    void: the column for no object.
  """
  index = jnp.where(query_of < 0, queries, query_of)
  return jnp.full(queries, void, jnp.int32).at[index].set(classes, mode='drop')


@dataclasses.dataclass(frozen=True)
class LabelRule:
  """When a mask carries the label of a segment [masqclip 5.4, 12.1].

  Attributes:
    overlap: 'dice' with one pixel added to both masks, as released, or 'iou', as the
      paper says.
    threshold: the overlap must exceed it. The released code writes dice as a cost
      below 0.40.
  """

  overlap: Literal['dice', 'iou'] = 'dice'
  threshold: float = 0.6

  def __post_init__(self):
    if self.overlap not in ('dice', 'iou'):
      raise ValueError(f"overlap must be 'dice' or 'iou', not {self.overlap!r}")


LABEL_RULES = {'released': LabelRule('dice', 0.6), 'paper': LabelRule('iou', 0.6)}


def overlap_costs(
  masks: Bool[Array, 'q h w'],
  truth: GroundTruth,
  rule: LabelRule,
  truth_hw: Int[Array, '2'] | None = None,
) -> Float[Array, 'q n']:
  """1 - overlap of predicted masks and ground truth of one image."""
  shared, area, truth_area = truth.overlaps(masks, truth_hw)
  both = area[:, None] + truth_area
  if rule.overlap == 'dice':
    return 1 - (2 * shared + 1) / (both + 1)
  return 1 - shared / jnp.maximum(both - shared, 1)


def labels_by_overlap(
  masks: Bool[Array, 'q h w'],
  truth: GroundTruth,
  void: Int[Array, ''] | int,
  rule: LabelRule,
  truth_hw: Int[Array, '2'] | None = None,
) -> tuple[Int[Array, ' q'], Int[Array, ' q']]:
  """Labels every mask of one image by the segment it overlaps most.

  Several masks may carry the label of one segment.

  Args:
    masks: predicted, at the size overlaps are measured at.
    truth: the ground truth of the same part of the image.
    void: label of masks that overlap no segment enough.
    rule: what counts as enough.
    truth_hw: the real part of the ground truth; all by default.

  Returns:
    The class of each mask, and the row of its segment (-1 for void).
  """
  cost = overlap_costs(masks, truth, rule, truth_hw)
  cost = jnp.where(truth.valid, cost, jnp.inf)
  row = jnp.argmin(cost, axis=1).astype(jnp.int32)
  # The official code compares a float32 cost with 0.40; 1 - 0.6 in double is less.
  enough = cost.min(1) < jnp.float32(round(1 - rule.threshold, 6))
  row = jnp.where(enough, row, -1)
  return jnp.where(enough, truth.classes[row], void).astype(jnp.int32), row
