"""FC-CLIP's training: matches, losses and gradients against the official code."""

import functools
import json

import fcclip_golden
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded_points
import tiny_stages
import truths

from configs import fcclip as configuration
from maskclip_jax.checkpoints import params
from maskclip_jax.losses import criterion
from maskclip_jax.losses.criterion import CriterionConfig
from maskclip_jax.losses.terms import PointSampling
from maskclip_jax.mapping.rules import convert
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import TextBank
from maskclip_jax.systems.fcclip.checkpoint import rules
from maskclip_jax.systems.system import Preset
from maskclip_jax.train.config import read
from maskclip_jax.train.optim import factors
from maskclip_jax.train.task import MODEL, Layout, make_task
from maskclip_jax.train.tasks.fcclip import FCCLIPLossConfig, FCCLIPTraining

# Gradients of small programs that run once: compiling well takes longer than running.
FAST = {'xla_backend_optimization_level': 0}
LAYERS = 5
# Whose gradients are recorded.
RECORDED = (
  'pixel_decoder/input_proj/0/conv/bias',
  'pixel_decoder/mask_features/bias',
  'predictor/class_embed/layers/2/kernel',
  'predictor/logit_scale',
  'predictor/pool_norm/scale',
  'predictor/pool_proj/kernel',
  'predictor/query_feat/embedding',
  'void_embedding/embedding',
)


@functools.cache
def stage() -> tuple[FCCLIPTraining, Layout]:
  """The task of the recording, which has both photos on one device."""
  sampling = PointSampling(points=256)
  config = FCCLIPLossConfig(CriterionConfig(sampling=sampling))
  task = FCCLIPTraining(Preset('fcclip', fcclip_golden.CONFIG, words='fcclip'), config)
  return task, Layout.of(task)


def published_values() -> dict:
  values = configuration.get_config().to_dict()
  values['start']['clip']['source'] = 'somewhere'
  return values


def official_names() -> set[str]:
  return set(golden.load('fcclip')['meta/train/trainable'].tolist())


def test_both_decoders_and_the_void_vector_train():
  _, layout = stage()
  weights = golden.weights('fcclip')
  total = sum(weights[name].size for name in official_names())
  assert params.count({path: layout.shapes[path] for path in layout.trained}) == total
  assert not any(path.startswith('clip/') for path in layout.trained)
  assert 'predictor/logit_scale' in layout.trained
  # The text tower ran before the first step, and the image head never does.
  assert all(path.startswith('clip/visual/trunk/') for path in layout.frozen)


def recorded_truth():
  g = golden.load('fcclip')
  masks = []
  for i, (height, width) in enumerate(
    photo.shape[:2] for photo in fcclip_golden.photos()
  ):
    some = golden.unpack(g[f'in/train/img{i}/gt_masks_packed'], width)
    masks.append(np.pad(some, ((0, 0), (0, 96 - height), (0, 128 - width))))
  return truths.packed(masks, [g[f'in/train/img{i}/gt_classes'] for i in range(2)])


@pytest.mark.slow
def test_matches_losses_and_gradients_are_the_official_ones():
  g = golden.load('fcclip')
  task, layout = stage()
  images, truth = fcclip_golden.images(), recorded_truth()
  words = g['in/train_names'].tolist()
  text = TextBank.build(
    g['out/text/train_bank'],
    [True] * len(words),
    rows=g['out/text/train_num_names_per_class'].tolist(),
    learned_void=True,
  )
  draws = [g[f'rand/train/{i}'] for i in range(4 * LAYERS)]
  flat = params.flatten(fcclip_golden.model())
  trained, frozen = (
    {path: jnp.asarray(flat[path]) for path in paths}
    for paths in (layout.trained, layout.frozen)
  )
  settings = task.config.criterion

  # The official matches, by image, layer and row of the ground truth.
  query_of = np.full((2, LAYERS, truth.rows), -1)
  for layer in range(LAYERS):
    for i in range(2):
      at = f'out/train/match_call{layer}/img{i}'
      query_of[i, layer, g[f'{at}/target']] = g[f'{at}/query']
  points = recorded_points.lay_out(draws, query_of, settings.sampling)

  @functools.partial(jax.jit, compiler_options=FAST)
  @functools.partial(jax.value_and_grad, has_aux=True)
  def gradient(trained, frozen):
    model = layout.merge({**trained, **frozen})[MODEL]
    outputs = task.propose(model, images, text, aux=True)
    loss, terms = task.judge(outputs, images, text, truth, points)
    found = task.predictions(outputs, images, text)
    return loss, (terms, criterion.match(found, truth, points, settings))

  (loss, (terms, matched)), found = gradient(trained, frozen)
  np.testing.assert_array_equal(matched, query_of)
  golden.assert_close(loss, g['out/train/total'], name='loss')
  prefix = 'out/train/losses/'
  expected = {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}
  assert set(terms) == set(expected)
  for name, value in expected.items():
    golden.assert_close(terms[name], value, name=name)
  # Everything that trains has a gradient, as there.
  assert set(g['meta/train/with_grad'].tolist()) == official_names()
  assert all(np.abs(value).max() > 0 for value in found.values())
  prefix = 'out/train/grad/'
  recorded = {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}
  shapes = {path: layout.shapes[path] for path in RECORDED}
  for path, value in convert(recorded, rules(), shapes).items():
    golden.assert_close(found[path], value, name=path)


def test_words_of_training_keep_their_synonyms():
  task = make_task(read(published_values()))
  names, classes = len(task.words.prompts()[1]), len(task.words)
  assert classes == 133
  assert names > 1.5 * classes
  columns = task.constants()['text_bank/columns']
  assert columns.shape == (256,)


def test_the_published_optimiser():
  """No decay of norms, queries and the void vector, but of the temperature."""
  config = read(published_values())
  _, layout = stage()
  decays = factors(layout.trained, config.optim.decay_factors)
  for path, factor in decays.items():
    part = path.split('/')[-2]
    undecayed = 'norm' in part or part in ('query_feat', 'query_embed', 'level_embed')
    assert factor == (0 if undecayed or part == 'void_embedding' else 1), path
  assert decays['predictor/logit_scale'] == 1
  rates = [
    float(config.optim.schedule.factor(step, config.total_steps))
    for step in (0, 327_777, 327_778, 355_091, 355_092, 368_749)
  ]
  np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_a_model_that_changes_words_is_refused():
  changes = {'transfer': 'semantic', 'transfer_heads': 4}
  with pytest.raises(ValueError, match=r'a MAFT\+: .* config.model.transfer=None'):
    make_task(tiny_stages.stage('fcclip', model=changes))


def test_the_model_knows_the_words_it_was_trained_with():
  """They are seen, and CLIP counts less for them; a bundled vocabulary by its name."""
  published = read(published_values())
  assert FCCLIPTraining.exported(published).training == 'coco-panoptic-133'
  # Generated pictures have as many classes as COCO.
  own = '; '.join(f'thing {number}, number {number}' for number in range(133))
  preset = FCCLIPTraining.exported(tiny_stages.stage('fcclip', vocabulary=own))
  assert preset.training[:2] == ('thing 0', 'number 0')
  assert Preset.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
  segmenter = Segmenter.from_preset(preset, seed=0)
  bank = segmenter.text_bank(segmenter.vocabulary('dragon; box, number 7'))
  assert bank.seen[:2].tolist() == [False, True]
