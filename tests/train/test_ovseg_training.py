"""OVSeg's stages: losses and gradients against the official code, and two steps of each
optimiser against its formula."""

import dataclasses
import functools
import re

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import ovseg_golden
import pytest
import truths

from configs import ovseg as configuration
from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.params import ConstantRngs
from maskclip_jax.losses import criterion
from maskclip_jax.mapping.rules import convert
from maskclip_jax.nn.clip import PIXEL_MEAN, PIXEL_STD, CLIPConfig
from maskclip_jax.nn.dropout import Drops, drop_branch, drop_values
from maskclip_jax.systems.contract import Images
from maskclip_jax.systems.ovseg import checkpoint
from maskclip_jax.systems.ovseg.model import OVSeg
from maskclip_jax.systems.system import Preset
from maskclip_jax.train.config import read
from maskclip_jax.train.optim import make_optimizer
from maskclip_jax.train.task import MODEL, Layout, make_task
from maskclip_jax.train.tasks.crop_tuning import CropTuning, CropTuningConfig
from maskclip_jax.train.tasks.mask_prompts import MaskPrompts
from maskclip_jax.train.tasks.set_prediction import stacked
from maskclip_jax.train.tasks.text_proposals import TextProposals, TextProposalsConfig

# Gradients of small programs that run once: compiling well takes longer than running.
FAST = {'xla_backend_optimization_level': 0}


def configured(stage: str, **changes):
  """The published settings of a stage."""
  values = configuration.get_config(f'stage={stage}').to_dict()
  for start in values['start'].values():
    start['source'] = 'somewhere'
  return read({**values, **changes})


class Stage:
  """A task with recorded weights, ready for gradients."""

  def __init__(self, task, flat):
    self.task, self.layout = task, Layout.of(task)
    self.trained = {p: jnp.asarray(flat[p]) for p in self.layout.trained}
    self.frozen = {p: jnp.asarray(flat[p]) for p in self.layout.frozen}

  def model(self, trained):
    return self.layout.merge({**trained, **self.frozen})[MODEL]


def ours(official: dict[str, np.ndarray], config, expected) -> dict[str, np.ndarray]:
  """Official arrays by our paths, in our layout."""
  model = params.abstract(lambda: OVSeg(config, rngs=ConstantRngs()))
  shapes = params.flatten(model)
  return convert(official, checkpoint.rules(7), {p: shapes[p] for p in expected})


# Proposals


@functools.cache
def proposals():
  """The stage, the photos and the ground truth of the recording."""
  g = golden.load('ovseg')
  task = TextProposals(
    Preset('ovseg', ovseg_golden.CONFIG, words='ovseg'),
    # The recording has both images on one device, and no dropout.
    TextProposalsConfig(dropout=0.0, depth=0.0),
  )
  stage = Stage(task, params.flatten(ovseg_golden.model()))
  photos = np.stack([g[f'in/train/img{i}/image_uint8'] for i in range(2)])
  images = Images(jnp.asarray(photos), jnp.array([photos.shape[1:3]] * 2))
  masks = [g[f'in/train/img{i}/gt_masks'] for i in range(2)]
  truth = truths.packed(masks, [g[f'in/train/img{i}/gt_classes'] for i in range(2)])
  return stage, images, truth


def test_proposals_train_what_the_official_code_trains():
  stage, *_ = proposals()
  names = golden.load('ovseg')['meta/train/trainable']
  official = {name.decode() for name in names.tolist()}
  # What is one packed matrix there is three here.
  assert any(name.endswith('.qkv.weight') for name in official)
  assert not any('clip_model' in name for name in official)
  assert 'non_object_embedding' in stage.trained
  assert not any(path.startswith('clip/') for path in stage.trained)
  weights = golden.weights('ovseg')
  total = sum(weights[name].size for name in official)
  assert sum(a.size for a in stage.trained.values()) == total


@pytest.mark.slow
def test_proposals_match_lose_and_learn_as_the_official_ones():
  g = golden.load('ovseg')
  stage, images, truth = proposals()
  bank = ovseg_golden.bank()

  def predict(trained):
    outputs = stage.model(trained).propose(images, bank)
    return outputs, stacked(outputs)

  def loss(trained):
    outputs, predictions = predict(trained)
    value, terms = stage.task.judge(outputs, images, truth, jax.random.key(0))
    keys = jnp.zeros((2, 3, 0))
    found = criterion.match(predictions, truth, keys, stage.task.config.criterion)
    return value, (terms, found)

  program = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)
  (_, (terms, found)), gradient = program(stage.trained)
  # The official code matches the last layer first, as ours lists them.
  for layer in range(3):
    for i in range(2):
      at = f'out/train/match_call{layer}/img{i}'
      query = np.asarray(found[i, layer])
      np.testing.assert_array_equal(query[g[f'{at}/target']], g[f'{at}/query'])
  prefix = 'out/train/losses/'
  expected = {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}
  assert set(terms) == set(expected)
  for name, value in expected.items():
    golden.assert_close(terms[name], value, name=name)
  prefix = 'out/train/grad/'
  grads = {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}
  paths = (
    'non_object_embedding',
    'proposals/backbone/patch_embed/proj/kernel',
    'proposals/backbone/res2/1/attn/relative_position_bias_table',
    'proposals/predictor/query_embed/embedding',
    'proposals/predictor/class_embed/layers/0/kernel',
  )
  for path, value in ours(grads, ovseg_golden.CONFIG, paths).items():
    golden.assert_close(gradient[path], value, name=path)


def test_pixels_are_compared_only_on_whole_canvases():
  predictions = criterion.Predictions(
    jnp.zeros((1, 1, 2, 4, 4)), None, jnp.array([[2, 4]]), jnp.array([[8, 16]])
  )
  truth = truths.mapped(np.zeros((1, 16, 16), int), np.zeros((1, 1), int))
  config = TextProposalsConfig().criterion
  with pytest.raises(ValueError, match='photos fill their canvas'):
    criterion.set_criterion(predictions, truth, jax.random.key(0), config)


def test_maps_of_segments_and_packed_masks_are_compared_alike():
  """The same ground truth in both forms, of an odd number of rows."""
  rng = np.random.default_rng(0)
  segments = rng.integers(-1, 3, (2, 16, 24))
  classes = np.array([[0, 1, 2], [2, 1, 0]])
  masks = [np.stack([one == row for row in range(3)]) for one in segments]
  predictions = criterion.Predictions(
    jnp.asarray(rng.normal(size=(2, 1, 5, 4, 6)), jnp.float32),
    jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 1, 5, 4)), jnp.float32)),
  )
  config, key = TextProposalsConfig().criterion, jax.random.key(0)
  one, _ = criterion.set_criterion(
    predictions, truths.mapped(segments, classes), key, config
  )
  other, _ = criterion.set_criterion(
    predictions, truths.packed(masks, classes), key, config
  )
  np.testing.assert_allclose(one, other, rtol=1e-6)


# Dropout and stochastic depth


def test_dropped_values_and_branches_keep_the_mean():
  keys = jax.random.split(jax.random.key(0), 4000)
  drops = Drops(keys, dropout=0.25, depth=0.5)
  x = jnp.ones((4000, 8))
  values = np.asarray(drop_values(x, drops, 0))
  assert set(np.unique(values)) == {0.0, np.float32(1 / 0.75)}
  # Five standard deviations of a share of 32,000 values, and of 4,000 photos.
  assert abs((values == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / values.size) ** 0.5
  branches = np.asarray(drop_branch(x, drops, 1))
  assert (branches == branches[:, :1]).all()
  assert abs((branches[:, 0] == 0).mean() - 0.5) < 5 * (0.25 / 4000) ** 0.5
  np.testing.assert_array_equal(drop_values(x, None, 0), x)
  np.testing.assert_array_equal(drop_branch(x, None, 0), x)


def test_depth_grows_from_the_first_block_to_the_last():
  drops = Drops(jax.random.split(jax.random.key(0), 2), depth=0.3)
  depths = [float(drops.block(n, 24).depth) for n in range(24)]
  np.testing.assert_allclose(depths, np.linspace(0, 0.3, 24), rtol=1e-6)


def test_what_a_photo_loses_does_not_depend_on_its_batch():
  keys = jax.random.split(jax.random.key(0), 4)
  x = jnp.ones((4, 100))
  whole = drop_values(x, Drops(keys, 0.5).block(2, 3), 1)
  part = drop_values(x[2:], Drops(keys[2:], 0.5).block(2, 3), 1)
  np.testing.assert_array_equal(whole[2:], part)
  assert (np.asarray(whole[0]) != np.asarray(whole[1])).any()


# The tuning of CLIP

CLIP = CLIPConfig(32, 64, 16, 128, 3, 2, 64, 2, 2, vocab_size=512, prompt_depth=3)


@functools.cache
def tuning(prompted: bool):
  """A stage with the recorded CLIP, and the recorded batch.

  The recording counts as tuning without prompts too: its blank patches are then seen.
  """
  g = golden.load('ovseg_mpt')
  depth = 3 if prompted else 0
  clip = dataclasses.replace(CLIP, prompt_depth=depth)
  config = dataclasses.replace(ovseg_golden.CONFIG, clip=clip)
  weights = {
    key: array
    for key, array in golden.weights('ovseg').items()
    if not key.startswith('clip_adapter.clip_model.')
  }
  for key, array in golden.weights('ovseg_mpt').items():
    if prompted or not key.endswith('mask_embedding'):
      weights[f'clip_adapter.clip_model.{key}'] = array
  cls = MaskPrompts if prompted else CropTuning
  task = cls(Preset('ovseg', config, words='ovseg'), cls.defaults('released'))
  stage = Stage(task, params.flatten(ovseg_golden.load(config, weights)))
  pixels = jnp.moveaxis(g['in/image'], 1, -1)
  segments = jnp.where(g['in/mask'][:, 0] > 0, 0, -1)
  image = (pixels * jnp.array(PIXEL_STD) + jnp.array(PIXEL_MEAN)) * 255
  batch = {
    'image': image,
    'segments': segments,
    'tokens': jnp.asarray(g['in/text'], jnp.int32),
  }

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def gradient(trained):
    modules = {MODEL: stage.model(trained)}
    return task.loss(modules, {}, batch, jax.random.key(0))

  return stage, batch, gradient


def test_prompts_lose_and_learn_as_the_official_ones():
  g = golden.load('ovseg_mpt')
  stage, _, gradient = tuning(True)
  assert set(stage.trained) == {'clip/visual/mask_prompts', 'clip/logit_scale'}
  assert len(g['meta/params_with_grad']) == 2
  (loss, terms), found = gradient(stage.trained)
  golden.assert_close(loss, g['out/loss'], name='loss')
  golden.assert_close(terms['scale'], g['out/logit_scale_exp'], name='scale')
  golden.assert_close(
    found['clip/visual/mask_prompts'],
    g['out/grad/visual.mask_embedding'],
    name='gradient of the prompts',
  )


def test_regions_and_nouns_lose_as_the_formula_says():
  """The recorded vectors of the plain tower, and the loss from them in NumPy."""
  g = golden.load('ovseg_mpt')
  stage, _, gradient = tuning(False)
  text = [path for path in stage.trained if path.startswith('clip/text')]
  assert not text
  (loss, _), _ = gradient(stage.trained)
  image = g['out/encode_image_plain'].astype(np.float64)
  image /= np.linalg.norm(image, axis=1, keepdims=True)
  logits = g['out/logit_scale_exp'] * image @ g['out/text_features_normalised'].T

  def cross_entropy(rows):
    return np.mean(np.log(np.exp(rows).sum(1)) - np.diag(rows))

  expected = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
  golden.assert_close(loss, expected, name='loss')


def test_tuning_learns_as_plain_pytorch_does():
  """All gradients, and all parameters after two steps of the whole recipe."""
  torch = pytest.importorskip('torch')
  from plain_tuning import PlainTuning

  g = golden.load('ovseg_mpt')
  stage, _, gradient = tuning(False)
  plain = PlainTuning(golden.weights('ovseg_mpt'), CLIP.patch_size)
  data = [
    torch.tensor(g[name], dtype=torch.float64)
    for name in ('in/image', 'out/text_features_normalised')
  ]

  def by_our_paths(arrays):
    official = {
      f'clip_adapter.clip_model.{name}': array.astype(np.float32)
      for name, array in arrays.items()
    }
    return ours(official, stage.task.preset.config, stage.trained)

  expected, gradients = plain.gradients(*data)
  (loss, _), found = gradient(stage.trained)
  golden.assert_close(loss, expected, name='loss')
  gradients = by_our_paths(gradients)
  largest = max(np.abs(x).max() for x in gradients.values())
  for path, value in gradients.items():
    # Float32 on our side; keys' biases have a gradient of zero.
    np.testing.assert_allclose(
      found[path], value, rtol=1e-3, atol=1e-5 * largest, err_msg=path
    )
  # At a thousand times the published rate, for the steps to show in float32.
  optim = dataclasses.replace(configured('pairs').optim, lr=5e-3)
  total = configured('pairs').total_steps
  tx = make_optimizer(optim, stage.layout.trained, total)
  trained, state = stage.trained, tx.init(stage.trained)
  for _ in range(2):
    _, found = gradient(trained)
    updates, state = tx.update(found, state, trained)
    trained = stage.task.constrained(optax.apply_updates(trained, updates))
  rates = [5e-3 * factor('pairs', step, total) for step in range(2)]
  for path, value in by_our_paths(plain.two_steps(*data, rates)).items():
    # Hundredths of the way, where a gradient is not far above what Adam adds to it.
    np.testing.assert_allclose(
      trained[path], value, rtol=1e-6, atol=0.05 * sum(rates), err_msg=path
    )


def test_the_scale_is_moved_back_after_a_step():
  task = tuning(True)[0].task
  name, largest = 'clip/logit_scale', np.float32(np.log(100.0))
  for value, kept in ((9.0, largest), (-1.0, 0.0), (3.0, 3.0)):
    moved = task.constrained({name: jnp.float32(value), 'other': jnp.float32(-5)})
    assert float(moved[name]) == pytest.approx(kept)
    assert float(moved['other']) == -5
  # At the bound it still learns, downwards.
  stage, _, gradient = tuning(True)
  _, found = gradient({**stage.trained, name: jnp.asarray(largest)})
  assert float(found[name]) != 0


# Two steps of every optimiser


def factor(stage: str, step: int, total: int) -> float:
  """The learning rate's factor [ovseg 4.5, 5.6]."""
  if stage == 'proposals':
    risen = min(step / 1500, 1)
    return (1e-6 * (1 - risen) + risen) * (1 - step / total) ** 0.9
  return min((step + 1) / 100, 1) * 0.5 * (1 + np.cos(np.pi * step / total))


# Learning rate, decay, betas, epsilon, clipping, and what does not decay.
SETTINGS = {
  'proposals': (6e-5, 0.01, (0.9, 0.999), 1e-8, 0.01, 'norm|query_embed|bias_table'),
  'pairs': (5e-6, 0.2, (0.9, 0.98), 1e-6, None, 'ln_|bias|scale|class_embedding'),
  'prompts': (0.05, 0.0, (0.9, 0.98), 1e-6, None, ''),
}
PATHS = {
  'proposals': (
    'non_object_embedding',
    'proposals/backbone/res2/0/mlp/fc1/bias',
    'proposals/backbone/res2/0/mlp/fc1/kernel',
    'proposals/backbone/res2/0/norm1/scale',
    'proposals/backbone/res2/0/attn/relative_position_bias_table',
    'proposals/backbone/norm5/bias',
    'proposals/pixel_decoder/layer_1/norm/scale',
    'proposals/predictor/query_embed/embedding',
  ),
  'pairs': (
    'clip/logit_scale',
    'clip/visual/class_embedding',
    'clip/visual/positional_embedding',
    'clip/visual/ln_post/scale',
    'clip/visual/proj/kernel',
    'clip/visual/transformer/resblocks/0/attn/out/bias',
  ),
  'prompts': ('clip/logit_scale', 'clip/visual/mask_prompts'),
}


@pytest.mark.parametrize('stage', SETTINGS)
def test_two_steps_of_the_published_optimiser(stage):
  """AdamW in NumPy, from random parameters and gradients."""
  lr, decay, betas, eps, limit, undecayed = SETTINGS[stage]
  config, rng = configured(stage), np.random.default_rng(0)
  total, paths = config.total_steps, PATHS[stage]
  assert total == {'proposals': 120_000}.get(stage, 17_270)
  values = {path: rng.normal(size=(3,)) for path in paths}
  tx = make_optimizer(config.optim, paths, total)
  trained = {path: jnp.asarray(x, jnp.float32) for path, x in values.items()}
  state = tx.init(trained)
  first, second = ({path: np.zeros(3) for path in paths} for _ in range(2))
  for step in range(2):
    gradients = {path: rng.normal(size=(3,)) for path in paths}
    given = {path: jnp.asarray(x, jnp.float32) for path, x in gradients.items()}
    updates, state = tx.update(given, state, trained)
    trained = optax.apply_updates(trained, updates)
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    scale = min(1, limit / (norm + 1e-6)) if limit else 1
    rate = lr * factor(stage, step, total)
    for path in paths:
      g = scale * gradients[path]
      first[path] = betas[0] * first[path] + (1 - betas[0]) * g
      second[path] = betas[1] * second[path] + (1 - betas[1]) * g**2
      mean, square = (
        moment[path] / (1 - beta ** (step + 1))
        for moment, beta in zip((first, second), betas, strict=True)
      )
      if decay and not re.search(undecayed, path):
        values[path] = values[path] * (1 - rate * decay)
      values[path] = values[path] - rate * mean / (np.sqrt(square) + eps)
      # Updates are small beside the values: float32 keeps seven digits of the sum.
      np.testing.assert_allclose(trained[path], values[path], rtol=5e-7, err_msg=path)


# Settings that do not fit


@pytest.mark.parametrize(
  ('stage', 'changes', 'message'),
  [
    ('pairs', {'data': {'canvas': 96}}, 'canvas is 96 and this CLIP sees 64 pixels'),
    ('pairs', {'data': {'caption_tokens': 99}}, 'reads at most 77'),
    ('pairs', {'data': {'regions': False}}, 'config.data.regions must be true'),
    (
      'pairs',
      {'model': {'clip': {'prompt_depth': 2}}},
      'prompt_depth is 2 and must be 0 for crop_tuning',
    ),
    (
      'prompts',
      {'model': {'clip': {'prompt_depth': 0}}},
      'prompt_depth is 0 and must be at least 1 for mask_prompts',
    ),
    ('proposals', {'settings': {'depth': 1.0}}, 'shares below 1, not 0.1 and 1.0'),
  ],
)
def test_settings_that_do_not_fit_are_refused(stage, changes, message):
  values = configuration.get_config(f'stage={stage},runlocal').to_dict()
  for name, change in changes.items():
    values[name] = {**values.get(name, {}), **change}
  with pytest.raises(ValueError, match=message):
    make_task(read(values))


def test_largest_scale_is_above_one():
  with pytest.raises(ValueError, match='largest_scale must be above 1'):
    CropTuningConfig(largest_scale=1.0)
