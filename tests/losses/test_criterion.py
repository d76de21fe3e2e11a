"""The set-prediction loss against the official criterion and its recorded points."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_points
import truths

from maskclip_jax.losses import criterion
from maskclip_jax.losses.criterion import CriterionConfig, Predictions
from maskclip_jax.losses.matching import Weights, matching_cost
from maskclip_jax.losses.terms import PointSampling

CASES = [
  'a',
  'empty_image',
  # Each compiles for as long again.
  pytest.param('class_agnostic', marks=pytest.mark.slow),
  pytest.param('more_targets', marks=pytest.mark.slow),
]


class Recorded:
  """A case of the recording, in our order: the final layer first."""

  def __init__(self, name: str):
    everything = golden.load('criterion')
    self.g = {
      k.removeprefix(f'{name}/'): v
      for k, v in everything.items()
      if k.startswith(f'{name}/')
    }
    g = self.g
    points = g['meta/num_classes_queries_layers_points'][-1]
    void_weight, *weights = (float(w) for w in g['meta/eos_class_mask_dice_weights'])
    self.order = [int(i) for i in g['meta/call_order_of_layers']]
    self.batch = sum(k.endswith('/labels') for k in g)
    self.config = CriterionConfig(
      Weights(*weights), void_weight, PointSampling(int(points))
    )
    images = range(self.batch)
    self.truth = truths.packed(
      [g[f'in/img{i}/masks'] for i in images], [g[f'in/img{i}/labels'] for i in images]
    )
    self.predictions = Predictions(
      self.stack('pred_masks'), jax.nn.log_softmax(self.stack('pred_logits'))
    )

  def stack(self, name: str):
    layers = [self.g[f'in/layer{i}/{name}'] for i in self.order]
    return jnp.stack(layers, axis=1)

  def query_of(self, position: int) -> np.ndarray:
    """Recorded query of every row in a layer: [image, row], -1 where none."""
    out = np.full((self.batch, self.truth.rows), -1)
    for i in range(self.batch):
      where = f'out/layer{self.order[position]}/img{i}'
      out[i, self.g[f'{where}/match_target']] = self.g[f'{where}/match_query']
    return out

  def points(self) -> criterion.Points:
    """The recorded draws, laid out by row of the ground truth."""
    draws = [
      self.g[f'rand/{i}'] for i in range(sum(k.startswith('rand') for k in self.g))
    ]
    query_of = np.stack([self.query_of(i) for i in range(len(self.order))], axis=1)
    return recorded_points.lay_out(draws, query_of, self.config.sampling)


@pytest.fixture(scope='module', params=CASES)
def case(request):
  return Recorded(request.param)


def test_costs_matches_losses_and_gradients(case):
  points = case.points()

  def run(masks, logits):
    predictions = Predictions(masks, jax.nn.log_softmax(logits))
    fixed = jax.lax.stop_gradient(predictions)
    query_of = criterion.match(fixed, case.truth, points, case.config)
    cost = jax.vmap(functools.partial(matching_cost, weights=case.config.weights))(
      fixed.log_p[:, 0], fixed.mask_logits[:, 0], case.truth, points.matching[:, 0]
    )
    total, terms = criterion.matched_loss(
      predictions, query_of, case.truth, points, case.config
    )
    return total, (terms, query_of, cost)

  inputs = case.stack('pred_masks'), case.stack('pred_logits')
  program = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
  (total, (terms, query_of, cost)), gradients = program(*inputs)
  for position in range(len(case.order)):
    np.testing.assert_array_equal(query_of[:, position], case.query_of(position))
  for i in range(case.batch):
    official = case.g[f'out/layer{case.order[0]}/img{i}/cost']
    if official.size:
      golden.assert_close(cost[i, :, : official.shape[1]], official, name=f'cost {i}')
  golden.assert_close(total, case.g['out/total_weighted'], name='total')
  weights = case.config.weights
  scale = {'ce': weights.label, 'mask': weights.mask, 'dice': weights.dice}
  recorded = {k for k in case.g if k.startswith('out/losses/')}
  assert {f'out/losses/{k}' for k in terms} == recorded
  for name, value in terms.items():
    official = case.g[f'out/losses/{name}'] * scale[name.split('_')[1]]
    golden.assert_close(value, official, name=name)
  for name, found in zip(('pred_masks', 'pred_logits'), gradients, strict=True):
    for position, layer in enumerate(case.order):
      official = case.g[f'out/layer{layer}/grad_{name}']
      golden.assert_close(found[:, position], official, name=f'{name} of layer {layer}')


CONFIG = CriterionConfig(sampling=PointSampling(64))
MASKCLIP = CriterionConfig(void_weight=0.0, sampling=PointSampling(64))


def small_problem(rows: int = 5):
  """Two images of 16 x 24 with four disjoint segments, and random predictions."""
  rng = np.random.default_rng(0)
  segments = np.repeat(np.repeat(rng.integers(-1, 4, (2, 4, 6)), 4, 1), 4, 2)
  classes = np.tile(np.arange(rows) % 3, (2, 1))
  valid = np.tile(np.arange(rows) < 4, (2, 1))
  predictions = Predictions(
    jnp.asarray(rng.normal(size=(2, 2, 6, 8, 12)), jnp.float32),
    jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 2, 6, 4)), jnp.float32)),
  )
  return predictions, segments, classes, valid


@jax.jit
def loss_of(predictions, truth, key):
  return criterion.set_criterion(predictions, truth, key, CONFIG)[0]


@functools.partial(jax.jit, static_argnames='config')
def gradient_of(predictions, truth, config):
  """((total, terms), gradients)."""
  return jax.value_and_grad(criterion.set_criterion, has_aux=True)(
    predictions, truth, jax.random.key(0), config
  )


def test_points_are_not_chosen_again_for_the_gradient():
  predictions, segments, classes, valid = small_problem()
  truth = truths.mapped(segments, classes, valid)
  traced = gradient_of.trace(predictions, truth, CONFIG)
  assert str(traced.jaxpr).count('top_k') == 1


def test_segment_map_and_packed_masks_are_the_same_truth():
  predictions, segments, classes, valid = small_problem()
  key = jax.random.key(3)
  masks = [segments[i] == np.arange(4)[:, None, None] for i in range(2)]
  packed = truths.packed(masks, list(classes[:, :4]), 5)
  as_map = loss_of(predictions, truths.mapped(segments, classes, valid), key)
  as_bits = loss_of(predictions, packed, key)
  np.testing.assert_allclose(as_map, as_bits, rtol=1e-6)


def test_padding_rows_change_nothing():
  """Rows beyond the segments, also more than are judged at a time."""
  predictions, segments, classes, valid = small_problem()
  key = jax.random.key(3)
  short = loss_of(predictions, truths.mapped(segments, classes, valid), key)
  _, _, classes, valid = small_problem(40)
  long = loss_of(predictions, truths.mapped(segments, classes, valid), key)
  # The order of summation differs.
  np.testing.assert_allclose(long, short, rtol=1e-6)


def test_the_loss_of_an_image_does_not_depend_on_its_place_in_the_batch():
  predictions, segments, classes, valid = small_problem()
  truth = truths.mapped(segments, classes, valid)
  keys = criterion._image_keys(jax.random.key(0), 2, 2)

  @jax.jit
  def sums(predictions, truth, keys):
    query_of = criterion.match(predictions, truth, keys, CONFIG)
    return criterion.judge_masks(predictions, query_of, truth, keys, CONFIG)

  def swap(tree):
    return jax.tree.map(lambda x: x[::-1], tree)

  plain = sums(predictions, truth, keys)
  swapped = sums(swap(predictions), swap(truth), swap(keys))
  for a, b in zip(plain, swapped, strict=True):
    np.testing.assert_array_equal(a, b[::-1])


def test_no_targets_anywhere():
  """Mask losses are zero; the class loss still applies; gradients are finite."""
  predictions, segments, classes, valid = small_problem()
  truth = truths.mapped(segments, classes, np.zeros_like(valid))
  (total, terms), gradient = gradient_of(predictions, truth, CONFIG)
  assert terms['loss_mask'] == terms['loss_dice_0'] == 0
  assert total > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_void_weight_zero_without_targets_gives_zero_and_no_nan():
  """MaskCLIP's class loss on a batch without a match: 0 / 0 in the official code."""
  predictions, segments, classes, valid = small_problem()
  truth = truths.mapped(segments, classes, np.zeros_like(valid))
  (total, _), gradient = gradient_of(predictions, truth, MASKCLIP)
  assert total == 0
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_nan_predictions_do_not_hang_the_matching():
  predictions, segments, classes, valid = small_problem()
  truth = truths.mapped(segments, classes, valid)
  broken = Predictions(
    predictions.mask_logits.at[0, 0, 2].set(jnp.nan), predictions.log_p
  )
  keys = criterion._image_keys(jax.random.key(0), 2, 2)
  found = jax.jit(lambda *a: criterion.match(*a, CONFIG))(broken, truth, keys)
  matched = np.sort(found[0, 0][:4])
  assert len(set(matched)) == 4
  # The query with NaN is the last choice.
  assert 2 not in matched


def test_canvas_beyond_the_photo_is_never_looked_at():
  predictions, segments, classes, valid = small_problem()
  truth = truths.mapped(segments, classes, valid)
  key = jax.random.key(1)
  plain = loss_of(predictions, truth, key)
  masks = jnp.pad(
    predictions.mask_logits, ((0, 0),) * 3 + ((0, 4), (0, 2)), constant_values=jnp.nan
  )
  wide = truths.mapped(
    np.pad(segments, ((0, 0), (0, 8), (0, 4)), constant_values=3), classes, valid
  )
  inside = Predictions(
    masks, predictions.log_p, jnp.array([[8, 12]] * 2), jnp.array([[16, 24]] * 2)
  )
  found = loss_of(inside, wide, key)
  np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_batch_must_divide_into_means():
  predictions, segments, classes, valid = small_problem()
  config = CriterionConfig(images_per_mean=3, sampling=PointSampling(8))
  with pytest.raises(ValueError, match='batch of 2 does not divide'):
    criterion.set_criterion(
      predictions, truths.mapped(segments, classes, valid), jax.random.key(0), config
    )
