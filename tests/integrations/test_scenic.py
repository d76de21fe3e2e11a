"""Scenic: our CLIP under its names, and a model that its trainers' steps drive."""

import importlib
import sys
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.integrations.scenic.module import (
  FROZEN,
  ScenicModule,
  semantic_logits,
)
from maskclip_jax.integrations.scenic.variables import (
  flattened,
  from_scenic,
  scenic_arguments,
  to_scenic,
)
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.zoo import find_preset

WORDS = 'cat; sofa; stuff:floor'


@pytest.fixture(scope='module')
def clip():
  return random_model('clip', find_preset('clip_vit_tiny').config)


def test_clip_variables_there_and_back(clip):
  variables = to_scenic(clip)
  block = variables['params']['visual']['transformer']['resblocks.0']
  assert set(block) == {'ln_1', 'attn', 'ln_2', 'mlp'}
  assert set(block['attn']) == {'query', 'key', 'value', 'out'}
  assert variables['params']['logit_scale'].shape == ()
  for tree in (variables, variables['params']):
    again = params.flatten(from_scenic(tree))
    for path, array in params.flatten(clip).items():
      np.testing.assert_array_equal(again[path], array)


def test_variables_that_do_not_fit_are_named(clip):
  variables = to_scenic(clip)
  del variables['params']['text']['ln_final']['bias']
  with pytest.raises(ValueError, match='text/ln_final/bias'):
    from_scenic(variables)
  gelu = find_preset('clip_vit_tiny').config
  object.__setattr__(gelu, 'activation', 'gelu')
  try:
    with pytest.raises(ValueError, match='activation quick_gelu alone'):
      scenic_arguments(gelu)
  finally:
    object.__setattr__(gelu, 'activation', 'quick_gelu')


def test_scenics_own_clip_says_the_same(clip):
  layers = pytest.importorskip('scenic.projects.baselines.clip.layers')
  config = clip.config
  random = np.random.default_rng(0)
  side = config.image_size
  pixels = random.normal(size=(2, side, side, 3)).astype(np.float32)
  tokens = np.zeros((2, config.context_length), np.int32)
  tokens[:, :4] = [[1, 5, 7, config.vocab_size - 1], [1, 9, config.vocab_size - 1, 0]]
  theirs = layers.CLIP(**scenic_arguments(config))
  image, text = theirs.apply(to_scenic(clip), pixels, tokens, normalize=False)
  # float32 sums in another order.
  np.testing.assert_allclose(clip.visual(pixels), image, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(clip.text(tokens), text, rtol=1e-5, atol=1e-5)


class Stub:
  """What `SegmentationModel` of Scenic offers a subclass."""

  def __init__(self, config, dataset_meta_data):
    self.config = config or self.default_flax_model_config()
    self.dataset_meta_data = dataset_meta_data
    self.flax_model = self.build_flax_model()

  def loss_function(self, logits, batch, model_params=None):
    labels = jax.nn.one_hot(batch['label'], logits.shape[-1])
    weights = batch['batch_mask']
    losses = optax.softmax_cross_entropy(logits, labels) * weights
    return losses.sum() / weights.sum()


@pytest.fixture
def words_model(monkeypatch):
  """`WordsModel` on Scenic's own base where it is installed, else on the stub."""
  name = 'scenic.model_lib.base_models'
  try:
    importlib.import_module(f'{name}.segmentation_model')
  except ImportError:
    module = types.SimpleNamespace(SegmentationModel=Stub)
    parts = ('scenic', 'scenic.model_lib', name)
    for part in parts:
      monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, f'{name}.segmentation_model', module)
    monkeypatch.setattr(sys.modules[name], 'segmentation_model', module, raising=False)
  ours = 'maskclip_jax.integrations.scenic.model'
  monkeypatch.delitem(sys.modules, ours, raising=False)
  return importlib.import_module(ours).WordsModel


def configured(**changes):
  fields = {'model': 'masqclip_tiny', 'random_weights': 0, 'words': WORDS, **changes}
  return ml_collections.ConfigDict(fields)


def test_words_are_the_classes_of_the_data_set(words_model):
  config = configured()
  with pytest.raises(ValueError, match='3 classes and the data set 150'):
    words_model(config, {'num_classes': 150})
  config.trainable = ('proposal/.*',)
  with pytest.raises(ValueError, match='no parameter matches'):
    words_model(config, {'num_classes': 3})


@pytest.mark.slow
def test_scenics_steps_train_and_evaluate(words_model):
  """The calls of Scenic's classification trainer, on a made-up batch."""
  config = configured(
    model='mask2former_tiny',
    words=None,
    trainable=('predictor/.*',),
    input_scale=255.0,
  )
  model = words_model(config, {'num_classes': 133})
  random = np.random.default_rng(0)
  batch = {
    'inputs': random.uniform(size=(2, 64, 64, 3)).astype(np.float32),
    'label': np.zeros((2, 64, 64), np.int32),
    'batch_mask': np.ones((2, 64, 64), np.float32),
  }
  variables = model.flax_model.init({'params': jax.random.key(0)}, batch['inputs'])
  state = {name: tree for name, tree in variables.items() if name != 'params'}
  trained = dict(flattened(variables['params']))
  assert trained
  assert set(state) == {FROZEN}
  assert not set(trained) & set(dict(flattened(state[FROZEN])))
  optimizer = optax.adam(1e-3)

  def train_step(parameters, state, optimum, batch):
    def loss(parameters):
      logits, changed = model.flax_model.apply(
        {'params': parameters, **state},
        batch['inputs'],
        mutable=['batch_stats'],
        train=True,
        rngs={'dropout': jax.random.key(0)},
        debug=False,
      )
      return model.loss_function(logits, batch, parameters), changed

    (cost, state), slope = jax.value_and_grad(loss, has_aux=True)(parameters)
    updates, optimum = optimizer.update(jax.lax.pmean(slope, 'batch'), optimum)
    return optax.apply_updates(parameters, updates), state, optimum, cost

  step = jax.pmap(train_step, axis_name='batch')
  carry = (variables['params'], state, optimizer.init(variables['params']))
  stack = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
  carry, costs = stack(carry), []
  for _ in range(4):
    *carry, cost = step(*carry, stack(batch))
    costs.append(float(cost[0]))
  assert costs[-1] < costs[0]
  first = dict(flattened(state))
  for path, array in flattened(carry[1]):
    np.testing.assert_array_equal(array[0], first[path])
  logits = model.flax_model.apply(
    jax.tree.map(lambda x: x[0], {'params': carry[0], **carry[1]}),
    batch['inputs'],
    train=False,
    mutable=False,
  )
  assert logits.shape == (2, 64, 64, 133)


@pytest.mark.slow
def test_pixels_have_the_class_of_the_semantic_result():
  segmenter = Segmenter.from_preset('mask2former_tiny')
  coarse = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
  photo = coarse.repeat(8, 0).repeat(8, 1)
  expected = segmenter(photo, None, 'semantic', short_edge=64, long_edge=96).semantic
  _, weights = segmenter.as_function()
  module = ScenicModule(semantic_logits(segmenter, None), weights)
  logits = jax.jit(module.apply)(module.init(None), photo[None])
  # A pixel may differ only where two classes tie to float32 rounding.
  assert (np.asarray(logits[0].argmax(-1)) != expected).mean() < 1e-3
