"""Groups, schedules and clipping [masqclip 10, 13]."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax import zoo
from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.params import abstract_model
from maskclip_jax.train.optim import (
  NO_DECAY,
  OptimConfig,
  Schedule,
  clip_by_global_norm,
  factors,
  make_optimizer,
)


def test_published_step_schedule():
  """MasQ-tuning: 1e-4, and a tenth from step 9,000 of 10,000 on."""
  schedule = Schedule('step', milestones=(0.9,))
  rates = [1e-4 * float(schedule.factor(s, 10_000)) for s in (0, 8_999, 9_000)]
  np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5], rtol=1e-6)


@pytest.mark.parametrize(
  ('schedule', 'step', 'expected'),
  [
    (Schedule(), 99, 1.0),
    (Schedule('poly'), 0, 1.0),
    (Schedule('poly'), 50, 0.5**0.9),
    (Schedule('cosine'), 50, 0.5),
    (Schedule('cosine', warmup=0.1), 5, 0.5 * 0.5 * (1 + np.cos(np.pi * 0.05))),
    (Schedule('step', milestones=(0.2, 0.5), gamma=0.5), 50, 0.25),
    # Steps count from 1 here, so the 15th of 100 ends the warm-up [segclip 6.1].
    (Schedule('cosine_after', warmup=0.15), 0, 1 / 15),
    (Schedule('cosine_after', warmup=0.15), 14, 1.0),
    (Schedule('cosine_after', warmup=0.2), 59, 0.5),
  ],
)
def test_schedules(schedule, step, expected):
  np.testing.assert_allclose(schedule.factor(step, 100), expected, rtol=1e-5)


def test_a_cosine_after_the_warm_up_ends_at_zero():
  np.testing.assert_allclose(Schedule('cosine_after').factor(99, 100), 0, atol=1e-6)


def test_unknown_schedule_is_refused():
  with pytest.raises(ValueError, match="not 'linear'"):
    Schedule('linear')


def test_what_does_not_decay():
  """Norms and embedding tables of the published networks, and nothing else."""
  paths = params.flatten(
    abstract_model('mask2former', zoo.find_preset('proposals_r50').config)
  )
  rates = factors(paths, OptimConfig().decay_factors)
  free = {re.sub(r'\d+', '#', path) for path, rate in rates.items() if rate == 0}
  assert {p.rpartition('/')[0] for p in free} == {
    'backbone/res#/#/conv#/norm',
    'backbone/res#/#/shortcut/norm',
    'backbone/stem/conv#/norm',
    'pixel_decoder/adapter_#/norm',
    'pixel_decoder/input_proj/#/norm',
    'pixel_decoder/layer_#/norm',
    'pixel_decoder/transformer/encoder/layers/#/norm#',
    'predictor/decoder_norm',
    'predictor/level_embed',
    'predictor/query_embed',
    'predictor/query_feat',
    'predictor/transformer_cross_attention_layers/#/norm',
    'predictor/transformer_ffn_layers/#/norm',
    'predictor/transformer_self_attention_layers/#/norm',
  }
  # A raw parameter, and biases, do.
  assert rates['pixel_decoder/transformer/level_embed'] == 1
  assert rates['predictor/class_embed/bias'] == 1


def test_learning_rates_by_path():
  rules = (('(.*/)?backbone/.*', 0.1),)
  paths = ['backbone/stem/conv1/kernel', 'predictor/class_embed/bias']
  assert list(factors(paths, rules).values()) == [0.1, 1.0]
  config = OptimConfig(lr_factors=(('backbon/.*', 0.1),))
  with pytest.raises(ValueError, match=r"'backbon/\.\*' matches no trained parameter"):
    make_optimizer(config, paths, 10)


def test_update_by_hand():
  """First AdamW step: -lr f (sign(g) + decay d theta), after clipping."""
  config = OptimConfig(
    lr=0.1,
    weight_decay=0.5,
    clip_norm=1.0,
    lr_factors=(('backbone/.*', 0.1),),
    decay_factors=tuple((p, 0.0) for p in NO_DECAY),
  )
  values = {
    'backbone/kernel': jnp.array([2.0]),
    'head/kernel': jnp.array([2.0]),
    'head/norm/scale': jnp.array([2.0]),
  }
  gradients = {path: jnp.array([30.0]) for path in values}
  tx = make_optimizer(config, values, 10)
  updates, _ = tx.update(gradients, tx.init(values), values)
  ours = {path: float(update[0]) for path, update in updates.items()}
  expected = {
    'backbone/kernel': -0.01 * (1 + 1.0),
    'head/kernel': -0.1 * (1 + 1.0),
    'head/norm/scale': -0.1,
  }
  assert ours == pytest.approx(expected, rel=1e-5)


def test_what_has_a_limit_is_set_to_it():
  config = OptimConfig(lr=1.0, weight_decay=0.0, limits=(('scale', 2.0),))
  values = {name: jnp.array(1.5) for name in ('scale', 'other')}
  tx = make_optimizer(config, values, 10)
  for gradient, scale in ((-1.0, 2.0), (1.0, 0.5)):
    gradients = dict.fromkeys(values, jnp.array(gradient))
    updates, _ = tx.update(gradients, tx.init(values), values)
    found = float(values['scale'] + updates['scale'])
    assert found == pytest.approx(scale, rel=1e-4)
    assert float(updates['other']) == pytest.approx(-gradient, rel=1e-4)


def test_clip_reaches_the_limit_and_leaves_small_gradients():
  clip = clip_by_global_norm(1.0)
  large, _ = clip.update({'a': jnp.array([3.0, 4.0])}, clip.init(None))
  np.testing.assert_allclose(large['a'], [0.6, 0.8], rtol=1e-5)
  small, _ = clip.update({'a': jnp.array([0.3, 0.4])}, clip.init(None))
  np.testing.assert_array_equal(small['a'], jnp.array([0.3, 0.4]))


def test_schedule_counts_updates():
  config = OptimConfig(lr=1.0, weight_decay=0.0, schedule=Schedule('step', (0.5,)))
  values = {'a': jnp.ones(1)}
  tx = make_optimizer(config, values, 4)
  state, sizes = tx.init(values), []
  for _ in range(4):
    updates, state = jax.jit(tx.update)({'a': jnp.ones(1)}, state, values)
    sizes.append(float(-updates['a'][0]))
  np.testing.assert_allclose(sizes, [1, 1, 0.1, 0.1], rtol=1e-4)
