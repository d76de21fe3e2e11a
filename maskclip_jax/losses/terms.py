"""Losses of mask classification, and the points at which masks are compared.

Masks are compared at points instead of pixels: three quarters of them where the
prediction is least certain, the rest anywhere (PointRend; [masqclip 3.3]). Class
losses are weighted means in which the void class counts less [masqclip 3.3, 5.4].
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.ops.sampling import sample_points

_FOCAL_BALANCE = 0.25


@dataclasses.dataclass(frozen=True)
class PointSampling:
  """How many points a mask is judged by.

  Attributes:
    points: per mask.
    oversample: candidates drawn per point.
    importance: share of the points that are the most uncertain candidates; the rest
      are drawn afresh.
  """

  points: int = 12544
  oversample: float = 3.0
  importance: float = 0.75

  def __post_init__(self):
    if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
      raise ValueError(
        'point sampling needs points >= 1, oversample >= 1 and importance in 0..1, '
        f'not {self.points}, {self.oversample} and {self.importance}'
      )

  @property
  def candidates(self) -> int:
    """Points drawn, of which the most uncertain are kept."""
    return int(self.points * self.oversample)

  @property
  def uncertain(self) -> int:
    """Candidates that are kept."""
    return int(self.importance * self.points)


def uncertain_points(
  maps: Float[Array, 'k h w'],
  candidates: Float[Array, 'k c 2'],
  fresh: Float[Array, 'k f 2'],
  keep: int,
  hw: Int[Array, '2'] | None = None,
) -> Float[Array, 'k p 2']:
  """The candidates whose logits are nearest to zero, and after them the fresh points.

  Args:
    maps: mask logits.
    candidates: points to choose from.
    fresh: points that are taken as they are.
    keep: number of candidates to keep.
    hw: the real part of the maps.
  """
  certainty = jnp.abs(sample_points(maps, candidates, hw))
  _, index = jax.lax.top_k(-certainty, keep)
  kept = jnp.take_along_axis(candidates, index[..., None], axis=1)
  return jnp.concatenate([kept, fresh], axis=1)


def bce(
  logits: Float[Array, '*k p'], targets: Float[Array, '*k p']
) -> Float[Array, '*k']:
  """Mean binary cross-entropy over the points."""
  return (jax.nn.softplus(logits) - logits * targets).mean(-1)


def focal_parts(
  logits: Float[Array, '*k'],
) -> tuple[Float[Array, '*k'], Float[Array, '*k']]:
  """The focal loss of each logit if it should be one, and if it should be zero.

  Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with MaskFormer's
  balance 0.25 and exponent 2 [ovseg 4.3].
  """
  p = jax.nn.sigmoid(logits)
  one = _FOCAL_BALANCE * jnp.square(1 - p) * jax.nn.softplus(-logits)
  zero = (1 - _FOCAL_BALANCE) * jnp.square(p) * jax.nn.softplus(logits)
  return one, zero


def focal(
  logits: Float[Array, '*k p'], targets: Float[Array, '*k p']
) -> Float[Array, '*k']:
  """Mean focal loss over the pixels."""
  one, zero = focal_parts(logits)
  return (zero + targets * (one - zero)).mean(-1)


def dice(
  logits: Float[Array, '*k p'], targets: Float[Array, '*k p']
) -> Float[Array, '*k']:
  """1 - (2 |a b| + 1) / (|a| + |b| + 1) of the probabilities at the points."""
  p = jax.nn.sigmoid(logits)
  overlap = 2 * (p * targets).sum(-1) + 1
  return 1 - overlap / (p.sum(-1) + targets.sum(-1) + 1)


def log_probabilities(
  logits: Float[Array, '*b k'], valid: Bool[Array, ' k'] | None = None
) -> Float[Array, '*b k']:
  """Log-softmax over the columns that exist; the others are very unlikely."""
  logits = logits.astype(jnp.float32)
  if valid is not None:
    logits = jnp.where(valid, logits, jnp.finfo(jnp.float32).min / 2)
  return jax.nn.log_softmax(logits, axis=-1)


def weighted_nll(
  log_p: Float[Array, 'b *q k'],
  labels: Int[Array, 'b *q'],
  void: Int[Array, ''] | int,
  void_weight: float,
  images_per_mean: int | None = None,
) -> Float[Array, '']:
  """Weighted mean of -log p(label), in which the void class weighs less.

  The official code takes the mean over the images of one device and then the mean over
  devices. Here `images_per_mean` says how many images that is, so that the loss does
  not depend on the devices it is computed on.

  Args:
    log_p: log-probabilities.
    labels: the right column of each query.
    void: the column of queries that are not an object.
    void_weight: weight of such queries; all others weigh 1.
    images_per_mean: images in one mean; all of the batch by default. A mean over
      nothing is 0.

  Raises:
    ValueError: the batch does not divide into such groups.
  """
  groups = mean_groups(len(labels), images_per_mean)
  nll = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
  weight = jnp.where(labels == void, void_weight, 1.0)
  total = (weight * nll).reshape(groups, -1).sum(-1)
  weights = weight.reshape(groups, -1).sum(-1)
  return jnp.where(weights > 0, total / jnp.where(weights > 0, weights, 1), 0).mean()


def contrastive(
  logits: Float[Array, 'n n'], match: Bool[Array, 'n n']
) -> Float[Array, '']:
  """Cross-entropy of photos over texts and of texts over photos, averaged.

  Args:
    logits: similarity of every photo (row) and every text (column), scaled.
    match: which belong together; each row and column has one or more, of equal weight.
  """

  def one_way(logits, match):
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
    return -(jnp.where(match, log_p, 0.0).sum(1) / match.sum(1)).mean()

  return (one_way(logits, match) + one_way(logits.T, match.T)) / 2


def mean_groups(batch: int, images_per_mean: int | None) -> int:
  """Into how many means a batch is divided.

  Raises:
    ValueError: it does not divide.
  """
  size = images_per_mean or batch
  if batch % size:
    raise ValueError(f'a batch of {batch} does not divide into means of {size} images')
  return batch // size
