"""Losses, gradients and steps of every stage against the official training code."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import mask2former_golden
import numpy as np
import official
import optax
import pytest
import recorded_points
import seeded
import truths

from maskclip_jax.checkpoints import params
from maskclip_jax.losses import criterion
from maskclip_jax.losses.criterion import CriterionConfig
from maskclip_jax.losses.matching import overlap_costs
from maskclip_jax.losses.pseudo_masks import PseudoMaskRule, binary_masks, extend
from maskclip_jax.losses.terms import PointSampling
from maskclip_jax.mapping.rules import convert
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.systems.mask2former import checkpoint as mask2former_table
from maskclip_jax.systems.system import Preset
from maskclip_jax.train.optim import OptimConfig, make_optimizer
from maskclip_jax.train.task import MODEL, Layout
from maskclip_jax.train.tasks.distill import TEACHER, Distill, DistillConfig
from maskclip_jax.train.tasks.mask_attention import (
  CRITERION,
  MaskAttention,
  MaskAttentionConfig,
)
from maskclip_jax.train.tasks.query_tuning import QueryTuning, QueryTuningConfig
from maskclip_jax.train.tasks.set_prediction import stacked
from maskclip_jax.train.words import to_constants


def draws(system: str, run: str) -> list[np.ndarray]:
  g = golden.load(system)
  count = sum(k.startswith(f'rand/{run}/') for k in g)
  return [g[f'rand/{run}/{i}'] for i in range(count)]


def images_of(photos) -> Images:
  pixels = jnp.asarray(np.stack(photos))
  return Images(pixels, jnp.array([pixels.shape[1:3]] * len(pixels)))


class Stage:
  """A task with recorded weights, ready for gradients.

  Programs have all weights as arguments: XLA would compute with constants while it
  compiles, and slowly.
  """

  def __init__(self, task, flat):
    self.task, self.layout = task, Layout.of(task)
    self.trained = {p: jnp.asarray(flat[p]) for p in self.layout.trained}
    self.frozen = {p: jnp.asarray(flat[p]) for p in self.layout.frozen}
    self.weights = self.trained, self.frozen

  def modules(self, trained, frozen):
    return self.layout.merge({**trained, **frozen})


def official_losses(system: str, run: str) -> dict[str, np.ndarray]:
  prefix = f'out/{run}/losses/'
  g = golden.load(system)
  return {k.removeprefix(prefix): v for k, v in g.items() if k.startswith(prefix)}


# MasQ-tuning


@functools.cache
def masq():
  """The stage, its text bank, images and ground truth."""
  g = golden.load('masqclip')
  bank = TextBank.build(
    g['in/text_embeddings_crafted'], [True] * 7, void_last=True, buckets=(16,)
  )
  preset = Preset('masqclip', official.SMALL['masqclip'], words='masqclip')
  task = QueryTuning(
    preset,
    # The recording has all three images on one device.
    QueryTuningConfig(images_per_mean=None),
  )
  stage = Stage(task, params.flatten(official.small('masqclip')))
  pixels = g['in/train/images_uint8']
  masks = [
    golden.unpack(g[f'in/train/img{i}/gt_masks_packed'], pixels.shape[2])
    for i in range(3)
  ]
  truth = truths.packed(masks, [g[f'in/train/img{i}/gt_classes'] for i in range(3)])
  segments = np.zeros((3, *pixels.shape[1:3]), np.int16)
  batch = {
    'image': pixels,
    'image_hw': np.array([pixels.shape[1:3]] * 3),
    'class': truth.classes,
    'valid': truth.valid,
    'crowd': np.zeros(truth.valid.shape, bool),
    'segments': segments,
    'masks': truth.masks,
  }
  return stage, bank, batch, truth


@functools.cache
def masq_gradient():
  stage, bank, batch, _ = masq()

  @jax.jit
  def run(trained, frozen):
    def loss(trained):
      modules = stage.modules(trained, frozen)
      return stage.task.loss(modules, to_constants(bank), batch, jax.random.key(0))

    return jax.value_and_grad(loss, has_aux=True)(trained)

  return run


def masq_name(name: str) -> tuple[str, str]:
  """Our path of an official parameter of the recording, and how its shape maps."""
  if name == 'mask_embeddings':
    return name
  layer, leaf = name.removeprefix('new_q_proj').split('.')
  return f'new_q_proj/{layer}/{"kernel" if leaf == "weight" else "bias"}'


def ours_as_official(path: str, array) -> np.ndarray:
  """Heads merged, inputs last."""
  if path.endswith('kernel'):
    return np.asarray(array).reshape(array.shape[0], -1).T
  return np.asarray(array).reshape(-1)


def test_masq_trains_exactly_the_official_parameters():
  stage, *_ = masq()
  names = golden.load('masqclip')['out/train/params_with_grad']
  assert len(stage.trained) == len(names)
  total = sum(a.size for a in stage.trained.values())
  assert total == 3 * (128 * 128 + 128) + 128


def test_masq_loss_and_gradients():
  g = golden.load('masqclip')
  stage, *_ = masq()
  (loss, _), gradient = masq_gradient()(*stage.weights)
  golden.assert_close(loss, g['out/train/loss_ce'], name='loss_ce')
  checked = 0
  for key in g:
    if key.startswith('out/train/grad/'):
      path = masq_name(key.removeprefix('out/train/grad/'))
      golden.assert_close(ours_as_official(path, gradient[path]), g[key], name=path)
      checked += 1
  assert checked == 5


def test_masq_labels_and_overlap_costs():
  g = golden.load('masqclip')
  stage, bank, batch, truth = masq()
  images = images_of(batch['image'])

  @jax.jit
  def run(trained, frozen):
    found = stage.modules(trained, frozen)[MODEL].proposals(images)
    labels, rows = stage.task.labels(found, images, truth, bank)
    squashed = regions.squash_masks(found.mask_logits, found.mask_hw, 336) > 0
    cost = jax.vmap(lambda m, t: overlap_costs(m, t, stage.task.config.rule))
    return labels, rows, cost(squashed, truth)

  labels, rows, cost = run(*stage.weights)
  for i in range(3):
    query, target = (g[f'out/train/img{i}/match_{n}'] for n in ('query', 'target'))
    np.testing.assert_array_equal(np.flatnonzero(rows[i] >= 0), query)
    np.testing.assert_array_equal(rows[i][query], target)
    void = np.setdiff1d(np.arange(10), query)
    assert (np.asarray(labels[i])[void] == 7).all()
    if i < 2:
      official_cost = g[f'out/train/img{i}/dice_cost']
      ours = cost[i, :, : official_cost.shape[1]]
      golden.assert_close(ours, official_cost, name=f'dice cost {i}')


def test_masq_two_optimizer_steps():
  """Clip, Adam and decay as the official optimiser of [masqclip 10].

  In the official code the class token's position moves with the mask embedding, which
  shares its memory; so does it here, for this comparison only.
  """
  g = golden.load('masqclip')
  stage, *_ = masq()
  tx = make_optimizer(OptimConfig(), stage.trained, 100)
  trained, state = stage.trained, tx.init(stage.trained)
  position = 'clip/visual/positional_embedding'
  step = jax.jit(tx.update)
  for number in (1, 2):
    aliased = stage.frozen[position].at[0].set(trained['mask_embeddings'])
    frozen = {**stage.frozen, position: aliased}
    (loss, _), gradient = masq_gradient()(trained, frozen)
    golden.assert_close(loss, g['out/train/losses_per_step'][number - 1], name='loss')
    updates, state = step(gradient, state, trained)
    trained = optax.apply_updates(trained, updates)
    for key in g:
      prefix = f'out/train/after_step{number}/'
      if key.startswith(prefix) and 'positional' not in key:
        path = masq_name(key.removeprefix(prefix))
        ours = ours_as_official(path, trained[path])
        golden.assert_close(ours, g[key], name=f'{path} after step {number}')
        moved = ours - ours_as_official(path, stage.trained[path])
        was = g[key] - ours_as_official(path, stage.trained[path])
        # Differences of 1e-4 from values near 0.1 keep three digits in float32, and
        # Adam takes as large a step by a gradient that is mostly rounding error.
        golden.assert_close(moved, was, name=f'{path} moved', tolerance=2e-2)


# Progressive distillation


@functools.cache
def distillation():
  g = golden.load('maskdistill')
  score, limit = g['meta/distill/thresholds']
  rule = PseudoMaskRule(float(score), 'dice', float(limit), points=400, detections=8)
  # The recorded model's class weights are a buffer that was seeded like its weights.
  weights = seeded.seeded_array('criterion.empty_weight', (2,), seed=1)
  sampling = PointSampling(400)
  config = DistillConfig(
    CriterionConfig(void_weight=float(weights[1] / weights[0]), sampling=sampling),
    rule=rule,
  )
  task = Distill(Preset('mask2former', mask2former_golden.CONFIG), config)
  teacher = mask2former_golden.model()
  shapes = {k: v.shape for k, v in golden.weights('mask2former').items()}
  student = mask2former_golden.load(
    mask2former_golden.CONFIG, seeded.seeded_state_dict(shapes, seed=1)
  )
  flat = {
    **params.flatten(student),
    **{f'{TEACHER}/{k}': v for k, v in params.flatten(teacher).items()},
  }
  images = images_of([g[f'in/distill/img{i}/image_uint8'] for i in range(2)])
  masks = [g[f'in/distill/img{i}/gt_masks'] for i in range(2)]
  truth = truths.packed(masks, [np.zeros(len(m), int) for m in masks])
  return Stage(task, flat), images, truth


@pytest.fixture(scope='module')
def pseudo():
  """Teacher's masks and choice, with the recorded points."""
  stage, images, truth = distillation()
  points = np.stack(
    [np.concatenate(draws('maskdistill', 'distill')[i : i + 2]) for i in (0, 2)]
  )
  # Draws of the revision: per image, with the truth and among proposals.

  @jax.jit
  def run(trained, frozen):
    teacher = stage.modules(trained, frozen)[TEACHER]
    found = teacher(images)
    masks, chosen = stage.task.pseudo_masks(teacher, images, truth, points)
    _, confidence = jax.vmap(lambda m: binary_masks(m, truth.size))(found.mask_logits)
    return masks, chosen, jnp.exp(found.objectness) * confidence

  return run(*stage.weights)


def test_teacher_masks_scores_and_targets(pseudo):
  g = golden.load('maskdistill')
  masks, chosen, scores = pseudo
  for i in range(2):
    official_scores = g[f'out/distill/img{i}/teacher_scores']
    official_masks = g[f'out/distill/img{i}/teacher_masks']
    ours = np.unpackbits(np.asarray(masks[i]), axis=-1).astype(bool)
    # The official order is unspecified; ours is that of the queries.
    query = [int(np.abs(scores[i] - s).argmin()) for s in official_scores]
    golden.assert_close(scores[i][np.array(query)], official_scores, name='scores')
    np.testing.assert_array_equal(ours[query], official_masks)
    annotated = len(g[f'in/distill/img{i}/gt_masks'])
    new = g[f'out/distill/img{i}/new_gt_masks']
    assert chosen[i].sum() == len(new) - annotated


def test_student_losses_and_gradients(pseudo):
  g = golden.load('maskdistill')
  stage, images, truth = distillation()
  extended = extend(truth, pseudo[0], pseudo[1])
  config = stage.task.config.criterion
  recorded = draws('maskdistill', 'distill')
  # Without annotations and without confident masks nothing is drawn for an image.
  recorded = recorded[len(recorded) - 5 * 4 :]

  def predict(trained, frozen):
    return stacked(stage.modules(trained, frozen)[MODEL](images, aux=True))

  points = recorded_points.matching_only(recorded, 2, 5, extended.rows)

  @jax.jit
  def match(*weights):
    return criterion.match(predict(*weights), extended, points, config)

  query_of = match(*stage.weights)
  points = recorded_points.lay_out(recorded, np.asarray(query_of), config.sampling)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(*weights):
    return criterion.matched_loss(predict(*weights), query_of, extended, points, config)

  (_, terms), gradient = loss(*stage.weights)
  expected = official_losses('maskdistill', 'distill')
  assert set(terms) == set(expected)
  for name, value in expected.items():
    golden.assert_close(terms[name], value, name=name)
  wanted = params.flatten(stage.modules(*stage.weights)[MODEL])
  checked = {
    k.removeprefix('out/distill/grad/'): v
    for k, v in g.items()
    if k.startswith('out/distill/grad/')
  }
  paths = {
    'backbone.stem.conv1.weight': 'backbone/stem/conv1/kernel',
    'sem_seg_head.predictor.query_feat.weight': 'predictor/query_feat/embedding',
    'sem_seg_head.predictor.class_embed.weight': 'predictor/class_embed/kernel',
    'sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.'
    'sampling_offsets.weight': 'pixel_decoder/transformer/encoder/layers/0/self_attn/'
    'sampling_offsets/kernel',
  }
  assert set(paths) == set(checked)
  ours = convert(
    checked,
    mask2former_table.RULES,
    {path: wanted[path] for path in paths.values()},
  )
  for path, value in ours.items():
    golden.assert_close(gradient[path], value, name=path)


# MaskCLIP


@functools.cache
def maskclip():
  g = golden.load('maskclip')
  bank = TextBank.build(
    g['in/txt_embed_train'], [True] * 7, void_last=True, buckets=(16,)
  )
  config = dataclasses.replace(CRITERION, sampling=PointSampling(300))
  task = MaskAttention(
    # The recording was made with a torchvision that antialiases.
    Preset(
      'maskclip',
      dataclasses.replace(official.SMALL['maskclip'], antialias=True),
      words='maskclip',
    ),
    MaskAttentionConfig(config),
  )
  stage = Stage(task, params.flatten(official.small('maskclip')))
  images = images_of([g[f'in/train/img{i}/image_uint8'] for i in range(2)])
  truth = truths.packed(
    [g[f'in/train/img{i}/gt_masks'] for i in range(2)],
    [g[f'in/train/img{i}/gt_classes'] for i in range(2)],
  )
  return stage, bank, images, truth


def test_maskclip_trains_exactly_the_official_parameters():
  stage, *_ = maskclip()
  assert len(stage.trained) == len(
    golden.load('maskclip')['meta/train/trained_parameters']
  )


@pytest.mark.slow
def test_maskclip_losses_and_gradients():
  g = golden.load('maskclip')
  stage, bank, images, truth = maskclip()
  config, recorded = stage.task.config.criterion, draws('maskclip', 'train')

  def predict(trained, frozen):
    outputs = stage.modules(trained, frozen)[MODEL](images, bank)
    return stage.task.predictions(outputs, bank)

  points = recorded_points.matching_only(recorded, 2, 4, truth.rows)

  @jax.jit
  def match(*weights):
    return criterion.match(predict(*weights), truth, points, config)

  query_of = match(*stage.weights)
  points = recorded_points.lay_out(recorded, np.asarray(query_of), config.sampling)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(*weights):
    return criterion.matched_loss(
      predict(*weights), query_of, truth, points, config, void=7
    )

  (_, terms), gradient = loss(*stage.weights)
  expected = official_losses('maskclip', 'train')
  assert set(terms) == set(expected)
  for name, value in expected.items():
    golden.assert_close(terms[name], value, name=name)
  checked = {
    maskclip_path(k.removeprefix('out/train/grad/maskclip.visual.transformer.')): v
    for k, v in g.items()
    if k.startswith('out/train/grad/')
  }
  assert len(checked) == 12
  for path, value in checked.items():
    ours = np.asarray(gradient[path])
    # Outputs first, as in PyTorch.
    ours = ours.transpose(*range(ours.ndim)[::-1]) if ours.ndim == 2 else ours
    ours = ours.transpose(3, 2, 0, 1) if ours.ndim == 4 else ours
    golden.assert_close(ours, value, name=path)


def maskclip_path(name: str) -> str:
  """Our path of an official parameter, without the prefix of the transformer."""
  head, *rest = name.split('.')
  if head != 'resblocks':  # conv1_added_params.0.weight
    leaf = 'kernel' if rest[1] == 'weight' else 'bias'
    return f'rma/{rest[0]}/{head.removesuffix("_added_params")}/{leaf}'
  block, _, layer, leaf = rest  # 5.attn.q_prime_norm_added_params.weight
  layer = layer.removesuffix('_added_params').removesuffix('_weight')
  if leaf == 'weight':
    leaf = 'scale' if 'norm' in layer else 'kernel'
  return f'rma/{int(block) // 6}/{layer}/{leaf}'
