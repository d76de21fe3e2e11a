"""The masked decoder against the official outputs, stage by stage."""

import functools

import golden
import jax
import jax.numpy as jnp
import mask2former_golden
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.nn.mask_decoder import MaskedDecoder, open_positions
from maskclip_jax.nn.pixel_decoder import PixelFeatures


@pytest.fixture(scope='module')
def predictor():
  return mask2former_golden.model().predictor


@pytest.fixture(scope='module')
def features():
  g = golden.load('mask2former')

  def read(name):
    return jnp.asarray(mask2former_golden.channels_last(g[f'out/pixel_decoder/{name}']))

  levels = tuple(read(f'multi_scale{i}') for i in range(3))
  return PixelFeatures(read('mask_features'), levels, ())


@functools.cache
def program(aux: bool = True):
  """The recorded decoder, compiled once for all tests."""
  predictor = mask2former_golden.model().predictor
  return jax.jit(lambda features: predictor(features, aux=aux))


def test_every_prediction(features):
  g = golden.load('mask2former')
  predictions = program()(features)
  assert len(predictions) == 5
  for i, found in enumerate(predictions):
    where = f'decoder/layer{i}'
    golden.assert_close(
      found.class_logits, g[f'out/{where}/pred_logits'], name=f'{where}/pred_logits'
    )
    golden.assert_close(
      found.mask_logits, g[f'out/{where}/pred_masks'], name=f'{where}/pred_masks'
    )


def test_the_last_prediction_is_the_same_without_the_earlier_ones(features):
  (alone,) = program(aux=False)(features)
  last = program()(features)[-1]
  golden.assert_close(alone.mask_logits, last.mask_logits, name='last masks')
  golden.assert_close(alone.class_logits, last.class_logits, name='last logits')


@pytest.fixture(scope='module')
def stages(predictor, features):
  """Attention masks of all predictions, and the queries within the first layer."""

  @jax.jit
  def run(features):
    levels = predictor.memory(features)
    positions = predictor.query_embed.embedding[...]
    x = jnp.broadcast_to(predictor.query_feat.embedding[...], (2, 10, 64))
    queries, masks = [], []
    for i in range(4):
      mask = predictor.attention_mask(x, levels[i % 3])
      cross = predictor.transformer_cross_attention_layers[i]
      x = cross(x, positions, levels[i % 3], mask)
      queries.append(x)
      x = predictor.transformer_self_attention_layers[i](x, positions)
      queries.append(x)
      x = predictor.transformer_ffn_layers[i](x)
      queries.append(x)
      masks.append(mask)
    masks.append(predictor.attention_mask(x, levels[4 % 3]))
    return queries[:3], masks

  return run(features)


def test_stages_of_the_first_layer(stages):
  g = golden.load('mask2former')
  for name, ours in zip(('cross', 'self', 'ffn'), stages[0], strict=True):
    official = np.swapaxes(g[f'out/decoder/layer1_after_{name}'], 0, 1)
    golden.assert_close(ours, official, name=f'decoder/layer1_after_{name}')


def test_attention_masks_are_the_official_bits(stages):
  g = golden.load('mask2former')
  for i, mask in enumerate(stages[1]):
    blocked = g[f'out/decoder/attn_mask{i}']
    # The record precedes the rule that opens an empty mask.
    expected = ~blocked | blocked.all(-1, keepdims=True)
    np.testing.assert_array_equal(mask, expected)


def test_empty_masks_look_everywhere(features):
  g = golden.load('mask2former')
  shifted = features._replace(mask_features=features.mask_features + 0.8)
  found = program()(shifted)
  assert g['out/edge/rows_all_masked'].min() > 0
  for name in ('logits', 'masks'):
    ours = getattr(found[-1], {'logits': 'class_logits', 'masks': 'mask_logits'}[name])
    golden.assert_close(ours, g[f'out/edge/pred_{name}'], name=f'edge/pred_{name}')


def test_open_positions():
  logits = jnp.array([[[-1.0, 0.0, 2.0, -3.0], [-1.0, -1.0, -1.0, 5.0]]])
  np.testing.assert_array_equal(
    open_positions(logits, None), [[[0, 1, 1, 0], [0, 0, 0, 1]]]
  )
  real = jnp.array([[True, True, False, False]])
  # The second query has nothing on the photo, so it sees the photo, and no more.
  np.testing.assert_array_equal(
    open_positions(logits, real), [[[0, 1, 0, 0], [1, 1, 0, 0]]]
  )


def test_no_gradient_through_the_attention_mask(predictor, features):
  def through_masks(x):
    memory = predictor.memory(features)[0]
    return jnp.sum(predictor.attention_mask(x, memory) * 1.0)

  gradient = jax.jit(jax.grad(through_masks))(jnp.ones((2, 10, 64)))
  np.testing.assert_array_equal(gradient, 0)


def test_without_a_class_head():
  build = lambda: MaskedDecoder(
    None, width=32, mask_dim=16, heads=4, ffn=32, layers=2, queries=3, rngs=nnx.Rngs(0)
  )
  assert not [
    path for path in params.flatten(params.abstract(build)) if 'class_embed' in path
  ]
  levels = tuple(jnp.ones((1, 2**i, 2**i, 32)) for i in range(3))
  features = PixelFeatures(jnp.ones((1, 8, 8, 16)), levels, ())
  (found,) = jax.eval_shape(lambda: build()(features))
  assert found.class_logits is None
  assert found.mask_logits.shape == (1, 3, 8, 8)


def test_initial_weights_have_the_published_spread():
  decoder = MaskedDecoder(1, layers=1, queries=400, rngs=nnx.Rngs(0))
  flat = {k: np.asarray(v) for k, v in params.flatten(decoder).items()}
  attention = 'transformer_cross_attention_layers/0/multihead_attn'
  bounds = {
    f'{attention}/query/kernel': (6 / (256 + 768)) ** 0.5,
    f'{attention}/out/kernel': (6 / 512) ** 0.5,
    'transformer_ffn_layers/0/linear1/kernel': (6 / (256 + 2048)) ** 0.5,
    'transformer_ffn_layers/0/linear2/bias': 2048**-0.5,
    'class_embed/kernel': 1 / 16,
    'mask_embed/layers/2/bias': 1 / 16,
  }
  for path, bound in bounds.items():
    assert 0.95 * bound < np.abs(flat[path]).max() <= bound, path
  assert np.abs(flat[f'{attention}/query/bias']).max() == 0
  # 102,400 draws: the standard error is 0.002.
  assert abs(flat['query_feat/embedding'].std() - 1) < 0.01
