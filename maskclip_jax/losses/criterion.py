"""The loss of set prediction: match, then compare the matched [masqclip 3].

Every decoder layer is matched and judged by itself. The work runs image by image and
layer by layer, so memory does not grow with either, and skips rows of the ground-truth
table that no image has.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskclip_jax.losses.assignment import assign
from maskclip_jax.losses.ground_truth import GroundTruth
from maskclip_jax.losses.matching import (
  Weights,
  labels_of_matches,
  matching_cost,
  pixel_cost,
)
from maskclip_jax.losses.terms import (
  PointSampling,
  bce,
  dice,
  focal,
  mean_groups,
  uncertain_points,
  weighted_nll,
)
from maskclip_jax.ops.resize import resize
from maskclip_jax.ops.sampling import sample_points
from maskclip_jax.plain import at_least

# Runs a function of arrays with a leading batch axis on each device's part of the
# batch; see `train.mesh`. Gathers and data-dependent loops then stay on their device.
Batched = Callable[[Callable], Callable]
# Pairs judged together; a group without a match is skipped.
_GROUP = 16


def whole_batch(function: Callable) -> Callable:
  """The `Batched` of a single device."""
  return function


@dataclasses.dataclass(frozen=True)
class CriterionConfig:
  """What matching and losses are made of.

  Attributes:
    weights: the weights of the costs and of the losses.
    void_weight: weight of unmatched queries in the class loss.
    sampling: points at which masks are compared; None compares all pixels, by focal
      loss in the place of cross-entropy, as MaskFormer does [ovseg 4.3].
    images_per_mean: images per class-loss mean, the official code's images per device;
      all of the batch by default.
    label_every_layer: whether earlier layers have a class loss too.
  """

  weights: Weights = dataclasses.field(default_factory=Weights)
  void_weight: float = 0.1
  sampling: PointSampling | None = dataclasses.field(default_factory=PointSampling)
  images_per_mean: int | None = None
  label_every_layer: bool = True

  def __post_init__(self):
    at_least(self, 1, 'images_per_mean')
    at_least(self, 0, 'void_weight')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Predictions:
  """Predictions of every layer that is judged, the final one first.

  Attributes:
    mask_logits: one map per query.
    log_p: log-probabilities over all columns; None without a class head.
    mask_hw: the real part of the maps; None if all is real.
    truth_hw: the part of the ground truth that it covers; None if all of it.
  """

  mask_logits: Float[Array, 'b l q h w']
  log_p: Float[Array, 'b l q k'] | None = None
  mask_hw: Int[Array, 'b 2'] | None = None
  truth_hw: Int[Array, 'b 2'] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Points:
  """Points that were drawn elsewhere, to reproduce a recorded loss.

  Attributes:
    matching: shared by all masks of an image and layer.
    candidates: points drawn for each row of the ground truth.
    fresh: likewise.
  """

  matching: Float[Array, 'b l p 2']
  candidates: Float[Array, 'b l n c 2']
  fresh: Float[Array, 'b l n f 2']


def _image_keys(key: Array, batch: int, layers: int) -> Array:
  """A key per image and layer that does not depend on the batch's layout."""
  images = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
  fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
  return fold(images, jnp.arange(layers))


def _matching_points(source, sampling: PointSampling) -> Float[Array, 'p 2']:
  if isinstance(source, Points):
    return source.matching
  return jax.random.uniform(jax.random.fold_in(source, 0), (sampling.points, 2))


def _pair_points(source, row: Int[Array, ' k'], sampling: PointSampling):
  """Candidates and fresh points of some rows."""
  if isinstance(source, Points):
    return source.candidates[row], source.fresh[row]
  total = sampling.candidates + sampling.points - sampling.uncertain

  def draw(row):
    return jax.random.uniform(jax.random.fold_in(source, row + 1), (total, 2))

  points = jax.vmap(draw)(row)
  return points[:, : sampling.candidates], points[:, sampling.candidates :]


def match(
  predictions: Predictions,
  truth: GroundTruth,
  source: Array | Points,
  config: CriterionConfig,
) -> Int[Array, 'b l n']:
  """The query of each row of the ground truth in every layer, -1 where none.

  Args:
    predictions: the predictions of a batch.
    truth: the batch's ground truth.
    source: a key per image and layer, or the points themselves.
    config: weights and number of points.
  """

  def image(inputs):
    predictions, truth, source = inputs

    def layer(inputs):
      log_p, masks, source = inputs
      if config.sampling is None:
        return pixel_cost(log_p, masks, truth, config.weights)
      return matching_cost(
        log_p,
        masks,
        truth,
        _matching_points(source, config.sampling),
        config.weights,
        mask_hw=predictions.mask_hw,
        truth_hw=predictions.truth_hw,
      )

    return jax.lax.map(layer, (predictions.log_p, predictions.mask_logits, source))

  cost = jax.lax.map(image, (predictions, truth, source))
  solve = jax.vmap(jax.vmap(assign, (0, None)))
  return solve(cost, truth.valid)


def _chosen_points(
  maps: Float[Array, 'k h w'],
  row: Int[Array, ' k'],
  source: Array | Points,
  predictions: Predictions,
  sampling: PointSampling,
) -> Float[Array, 'k p 2']:
  """Where the pairs of some rows of one image are compared; no gradient."""
  candidates, fresh = _pair_points(source, row, sampling)
  maps = jax.lax.stop_gradient(maps)
  return uncertain_points(
    maps, candidates, fresh, sampling.uncertain, predictions.mask_hw
  )


def _at_points(
  maps: Float[Array, 'k h w'],
  row: Int[Array, ' k'],
  points: Float[Array, 'k p 2'],
  truth: GroundTruth,
  predictions: Predictions,
) -> tuple[Float[Array, ' k'], Float[Array, ' k']]:
  """Mask and dice losses of some pairs of one image at points."""
  logits = sample_points(maps, points, predictions.mask_hw)
  targets = truth.sample_own(row, points, predictions.truth_hw)
  return bce(logits, targets), dice(logits, targets)


def _at_pixels(
  maps: Float[Array, 'k h w'], row: Int[Array, ' k'], truth: GroundTruth
) -> tuple[Float[Array, ' k'], Float[Array, ' k']]:
  """The same at every pixel of the ground truth, by focal loss."""
  logits = resize(maps, truth.size).reshape(len(row), -1)
  targets = truth.own(row).reshape(len(row), -1).astype(jnp.float32)
  return focal(logits, targets), dice(logits, targets)


def _judge_layer(
  masks: Float[Array, 'q h w'],
  query_of: Int[Array, ' n'],
  choose: Callable,
  compare: Callable,
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Sums of mask and dice losses over the matched pairs of one image and layer.

  Args:
    masks: one map per query.
    query_of: the query of each row of the ground truth, -1 where it has none.
    choose: the points at which some maps, each with a row, are compared, or None.
    compare: both losses of some maps, each with a row, there.
  """
  row = jnp.argsort(query_of < 0, stable=True)
  query = query_of[row]
  group = min(_GROUP, len(row))
  spare = -len(row) % group
  row, query = jnp.pad(row, (0, spare)), jnp.pad(query, (0, spare), constant_values=-1)
  maps = masks[jnp.maximum(query, 0)]

  @jax.checkpoint
  def judge_at(points, maps, row, query):
    matched = query >= 0
    return tuple(jnp.where(matched, x, 0.0).sum() for x in compare(maps, row, points))

  def judge(maps, row, query):
    # Kept for the gradient: choosing them costs most of all, and a TPU dearly.
    return judge_at(choose(maps, row), maps, row, query)

  def skip(maps, row, query):
    return jnp.zeros(()), jnp.zeros(())

  def step(total, inputs):
    sums = jax.lax.cond((inputs[2] >= 0).any(), judge, skip, *inputs)
    return jax.tree.map(jnp.add, total, sums), None

  groups = jax.tree.map(
    lambda x: x.reshape(-1, group, *x.shape[1:]), (maps, row, query)
  )
  return jax.lax.scan(step, skip(None, None, None), groups)[0]


def judge_masks(
  predictions: Predictions,
  query_of: Int[Array, 'b l n'],
  truth: GroundTruth,
  source: Array | Points,
  config: CriterionConfig,
) -> tuple[Float[Array, 'b l'], Float[Array, 'b l']]:
  """Sums of the mask and the dice losses over the matched pairs of each layer."""

  def image(inputs):
    predictions, query_of, truth, source = inputs

    def layer(inputs):
      masks, query_of, source = inputs

      def choose(maps, row):
        if config.sampling is None:
          return None
        return _chosen_points(maps, row, source, predictions, config.sampling)

      def compare(maps, row, points):
        if points is None:
          return _at_pixels(maps, row, truth)
        return _at_points(maps, row, points, truth, predictions)

      return _judge_layer(masks, query_of, choose, compare)

    return jax.lax.map(layer, (predictions.mask_logits, query_of, source))

  return jax.lax.map(image, (predictions, query_of, truth, source))


def set_criterion(
  predictions: Predictions,
  truth: GroundTruth,
  source: Array | Points,
  config: CriterionConfig,
  *,
  void: Int[Array, ''] | int = -1,
  batched: Batched = whole_batch,
) -> tuple[Float[Array, ''], Mapping[str, Float[Array, '']]]:
  """The training loss of all layers, and its weighted terms by name.

  Args:
    predictions: the predictions of every layer that is judged.
    truth: the batch's ground truth.
    source: a random key, or recorded points.
    config: weights and points.
    void: the column of `log_p` for no object; the last one by default.
    batched: how per-image work is spread over devices.

  Returns:
    The sum, and `loss_ce`, `loss_mask`, `loss_dice` of the final layer; earlier layers
    have a suffix `_0`, `_1`, ... as in the official logs.

  Raises:
    ValueError: the batch does not divide into means of `images_per_mean`, or all pixels
      of photos that do not fill their canvas are to be compared.
  """
  batch, layers = predictions.mask_logits.shape[:2]
  mean_groups(batch, config.images_per_mean)
  if config.sampling is None and predictions.mask_hw is not None:
    raise ValueError('all pixels are compared only where photos fill their canvas')
  if not isinstance(source, Points):
    source = _image_keys(source, batch, layers)
  query_of = batched(lambda *inputs: match(*inputs, config))(
    jax.lax.stop_gradient(predictions), truth, source
  )
  return matched_loss(
    predictions, query_of, truth, source, config, void=void, batched=batched
  )


def matched_loss(
  predictions: Predictions,
  query_of: Int[Array, 'b l n'],
  truth: GroundTruth,
  source: Array | Points,
  config: CriterionConfig,
  *,
  void: Int[Array, ''] | int = -1,
  batched: Batched = whole_batch,
) -> tuple[Float[Array, ''], Mapping[str, Float[Array, '']]]:
  """`set_criterion` for given matches and keys (or points) per image and layer."""
  batch, layers, queries = predictions.mask_logits.shape[:3]
  masks, dices = batched(lambda *inputs: judge_masks(*inputs, config))(
    predictions, query_of, truth, source
  )
  # The official mean is over the images of a device, at least one mask on each.
  groups = mean_groups(batch, config.images_per_mean)
  count = jnp.maximum(truth.valid.sum(), groups)
  weights = config.weights
  terms = {
    'loss_mask': weights.mask * masks.sum(0) / count,
    'loss_dice': weights.dice * dices.sum(0) / count,
  }
  if predictions.log_p is not None:
    judged = layers if config.label_every_layer else 1
    log_p = predictions.log_p[:, :judged]
    void = void % log_p.shape[-1]
    label = jax.vmap(labels_of_matches, (0, None, None, None))
    label = jax.vmap(label, (0, 0, None, None))
    labels = label(query_of[:, :judged], truth.classes, queries, void)

    def nll(log_p, labels):
      size = config.images_per_mean
      return weighted_nll(log_p, labels, void, config.void_weight, size)

    terms['loss_ce'] = weights.label * jax.vmap(nll, 1)(log_p, labels)
  named = {
    name + ('' if i == 0 else f'_{i - 1}'): value[i]
    for name, value in terms.items()
    for i in range(len(value))
  }
  return sum(value.sum() for value in terms.values()), named
