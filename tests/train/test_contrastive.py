"""Contrastive training of a CLIP: the loss, what it refuses, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_stages
from flax import nnx

from maskclip_jax import zoo
from maskclip_jax.checkpoints import restore
from maskclip_jax.data.pipeline import train_stream
from maskclip_jax.losses.terms import contrastive
from maskclip_jax.nn.clip import CLIP_SIZES, VisionTower, normalize_pixels, unit
from maskclip_jax.systems.maskclip.model import MaskCLIP
from maskclip_jax.train.loop import train
from maskclip_jax.train.task import make_task
from maskclip_jax.train.tasks.contrastive import (
  ContrastiveConfig,
  embed_small,
  read_mosaics,
  some_patches,
)


def keys(seed, photos):
  return jax.random.split(jax.random.key(seed), photos)


def plain_loss(logits: np.ndarray, match: np.ndarray) -> float:
  """Both cross-entropies, written out in float64."""
  total = 0.0
  for x, m in ((logits, match), (logits.T, match.T)):
    for row, targets in zip(x.astype(np.float64), m, strict=True):
      p = np.exp(row - row.max())
      p /= p.sum()
      total -= np.log(p[targets]).mean() / (2 * len(logits))
  return total


@pytest.mark.parametrize('equal', [[], [(0, 3)], [(0, 3), (1, 4), (3, 5), (0, 5)]])
def test_the_loss_is_both_cross_entropies(equal):
  logits = 5 * np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
  match = np.eye(6, dtype=bool)
  for i, j in equal:
    match[i, j] = match[j, i] = True
  # Six float32 sums of numbers up to 20.
  expected = plain_loss(logits, match)
  np.testing.assert_allclose(contrastive(logits, match), expected, rtol=2e-6)


def test_it_is_the_loss_of_clip_where_texts_differ():
  # Known by hand: two pairs, similarity s with the own text and 0 with the other.
  s = 3.0
  loss = contrastive(s * jnp.eye(2), jnp.eye(2, dtype=bool))
  np.testing.assert_allclose(loss, np.log1p(np.exp(-s)), rtol=1e-6)


def test_a_small_photo_lies_anywhere_on_the_grid():
  """All its patches are there, with the positions of a square of the grid."""
  config = CLIP_SIZES['vit_tiny']
  tower = VisionTower(config, rngs=nnx.Rngs(0))
  table = jnp.arange(17.0)[:, None] * jnp.ones(config.vision_width)
  tower.positional_embedding[...] = 100 * table
  pixels = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
  tokens = embed_small(tower, pixels, config.grid, keys(1, len(pixels)))
  assert tokens.shape == (8, 5, config.vision_width)
  contents = tower.conv1(pixels).reshape(8, 4, -1)
  places = np.asarray((tokens[:, 1:] - contents).mean(-1) / 100)
  # Rows of the table after the class token's: squares of 2 x 2 of a grid of 4 x 4.
  first = places[:, :1]
  np.testing.assert_allclose(places, first + np.array([0, 1, 4, 5]), atol=1e-4)
  corners = {round(float(x)) for x in first[:, 0]}
  assert corners <= {1, 2, 3, 5, 6, 7, 9, 10, 11}
  assert len(corners) > 2
  centred = embed_small(tower, pixels, config.grid, None)
  places = np.asarray((centred[:, 1:] - contents).mean(-1) / 100)
  np.testing.assert_allclose(places, [[6, 7, 10, 11]] * 8, atol=1e-4)
  np.testing.assert_allclose(
    tokens[:, 0], jnp.broadcast_to(tower.class_embedding[...], (8, 128)), rtol=1e-6
  )


def photos(tower: VisionTower, side: int, key: int, **settings) -> jax.Array:
  """Image vectors of noise by a task with settings."""
  pixels = jax.random.normal(jax.random.key(0), (8, side, side, 3))
  task = make_task(tiny_stages.stage('clip', settings=settings))
  return task.photos(tower, pixels, keys(key, len(pixels)))


def test_a_small_photo_lies_where_the_settings_say():
  tower = VisionTower(CLIP_SIZES['vit_tiny'], rngs=nnx.Rngs(0))
  centre = [photos(tower, 32, key, placement='centre') for key in (1, 2)]
  anywhere = [photos(tower, 32, key, placement='anywhere') for key in (1, 2)]
  np.testing.assert_array_equal(*centre)
  assert not np.allclose(*anywhere)


def test_a_share_of_the_patches():
  tokens = jnp.broadcast_to(jnp.arange(17.0)[:, None], (6, 17, 2))
  kept = some_patches(tokens, 0.5, keys(0, len(tokens)))
  assert kept.shape == (6, 9, 2)
  rows = np.asarray(kept[..., 0])
  assert not rows[:, 0].any()  # The class token stays.
  assert all(len(set(row)) == 9 for row in rows.tolist())
  assert len({tuple(sorted(row)) for row in rows.tolist()}) == 6
  assert some_patches(tokens, 0.01, keys(0, len(tokens))).shape == (6, 2, 2)
  with pytest.raises(ValueError, match='seen must be above 0'):
    ContrastiveConfig(seen=0.0)


def test_a_tower_sees_a_share_of_a_photo():
  tower = VisionTower(CLIP_SIZES['vit_tiny'], rngs=nnx.Rngs(0))
  pixels = jax.random.normal(jax.random.key(0), (8, 64, 64, 3))
  np.testing.assert_array_equal(photos(tower, 64, 1, seen=1.0), tower(pixels))
  half = [photos(tower, 64, key, seen=0.5) for key in (1, 1, 2)]
  np.testing.assert_array_equal(half[0], half[1])
  assert not np.allclose(half[0], half[2])


def test_photos_of_a_mosaic_are_read_as_masks_of_a_scene():
  """The vectors of MaskCLIP's untrained mask tokens, of masks that are quarters."""
  preset = zoo.find_preset('maskclip_tiny')
  config = dataclasses.replace(preset.config, rma_blocks=())
  model = MaskCLIP(config, rngs=nnx.Rngs(0))
  scenes = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
  quarters = np.full((4, 64, 64), -1.0)
  parts = []
  for number, (row, column) in enumerate(np.ndindex(2, 2)):
    where = np.s_[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
    quarters[number][where] = 1.0
    parts.append(scenes[(slice(None), *where)])
  masks = jnp.broadcast_to(quarters, (2, *quarters.shape))
  expected, _ = model.encode_squares(scenes, masks)
  found = read_mosaics(model.clip.visual, jnp.stack(parts, 1).reshape(8, 32, 32, 3), 2)
  # Float32, two towers that sum in another order.
  np.testing.assert_allclose(found, expected.reshape(8, -1), rtol=1e-4, atol=1e-5)


def test_a_mosaic_is_read_alike_in_parts():
  """As `accumulate` takes them: no photo sees those of another square."""
  tower = VisionTower(CLIP_SIZES['vit_tiny'], rngs=nnx.Rngs(0))
  pixels = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
  data = {'batch_size': 8, 'canvas': 32}
  task = make_task(tiny_stages.stage('clip', data=data, settings={'mosaic': 2}))
  whole = task.photos(tower, pixels, keys(0, 8))
  parts = [task.photos(tower, pixels[i : i + 4], keys(0, 4)) for i in (0, 4)]
  # Float32: a batch of another size is summed in another order.
  np.testing.assert_allclose(whole, jnp.concatenate(parts), rtol=1e-4, atol=1e-5)
  assert len(np.unique(np.asarray(whole).round(4), axis=0)) == 8


def test_sines_as_positions():
  task = make_task(tiny_stages.stage('clip', settings={'sine_positions': True}))
  table = task.derive({}, 'visual/positional_embedding')
  assert table.shape == (17, 128)
  assert not table[0].any()
  assert len(np.unique(np.asarray(table[1:]).round(4), axis=0)) == 16
  assert task.derive({}, 'visual/class_embedding') is None
  assert make_task(tiny_stages.stage('clip')).derive({}, 'x') is None


def first_batch(data):
  with train_stream(data) as stream:
    return next(stream)


def test_batches_are_photos_and_texts():
  config = tiny_stages.stage('clip')
  batch = first_batch(config.data)
  assert batch['image'].shape == (2, 64, 64, 3)
  assert batch['tokens'].shape == (2, 16)
  # Every text begins and ends, and the pictures' texts differ.
  assert (batch['tokens'][:, 0] == 49406).all()
  assert (batch['tokens'] == 49407).sum() == 2
  assert 'segments' not in batch


@pytest.mark.parametrize(
  ('stage', 'changes', 'message'),
  [
    ('clip', {'data': {'caption_tokens': 0}}, 'must be more than 0 for contrastive'),
    ('masq', {'data': {'caption_tokens': 16}}, 'must be 0 for query_tuning'),
    ('clip', {'data': {'canvas': 96}}, 'canvas is 96 and this CLIP sees 64 pixels'),
    ('clip', {'data': {'canvas': 40}}, 'in patches of 16: choose as much or less'),
    ('clip', {'data': {'caption_tokens': 99}}, 'is 99 and this CLIP reads at most 77'),
    (
      'clip',
      {'preset': 'clip_convnext_tiny', 'settings': {'seen': 0.5}},
      'this one has a ConvNeXt: leave them out',
    ),
    (
      'clip',
      {'settings': {'mosaic': 3}, 'data': {'canvas': 16}},
      'so many photos of config.data.canvas, 16 pixels, do not fill the 64',
    ),
    (
      'clip',
      {'settings': {'mosaic': 2}, 'data': {'canvas': 32, 'batch_size': 6}},
      'must be a multiple of 4, the photos of a square, not 6',
    ),
    (
      'clip',
      {
        'settings': {'mosaic': 2},
        'data': {'canvas': 32, 'batch_size': 8},
        'optim': {'accumulate': 4},
      },
      'must be a multiple of 4, the photos of a square, not 2',
    ),
    ('clip', {'settings': {'mosaic': 2, 'seen': 0.5}}, 'leave out mosaic or seen'),
    ('clip', {'settings': {'mosaic': 0}}, 'mosaic'),
    ('clip', {'remat': True}, 'remat is for proposal networks'),
  ],
)
def test_what_does_not_fit_is_refused(stage, changes, message, tmp_path):
  config = tiny_stages.stage(stage, **changes)
  with pytest.raises(ValueError, match=message):
    train(config, tmp_path / 'run')


@pytest.mark.slow
def test_photos_find_their_texts_again(tmp_path):
  """Eight pictures are learned by heart, at half the size of the tower's square."""
  config = tiny_stages.stage(
    'clip',
    data={'batch_size': 8, 'canvas': 32},
    total_steps=60,
    settings={'sine_positions': True, 'equal_texts_match': True},
    optim={'lr': 1e-3, 'clip_norm': 1.0},
    checkpoint={'every': 60},
    log={'every': 60},
  )
  result = train(config, tmp_path / 'run')
  model, preset, _ = restore.load_model(result.bundle)
  assert preset.system == 'clip'
  batch = first_batch(config.data)
  pixels = normalize_pixels(jnp.asarray(batch['image'], jnp.float32), model.config)

  @nnx.jit
  def similarities(model, pixels, texts):
    tower = model.visual
    tokens = embed_small(tower, pixels, model.config.grid, keys(5, len(pixels)))
    photos = tower.project(tower.transformer(tower.ln_pre(tokens))[:, 0])
    return unit(photos) @ unit(model.text(texts)).T

  best = np.asarray(similarities(model, pixels, batch['tokens'])).argmax(1)
  right = (batch['tokens'][best] == batch['tokens']).all(1)
  # Chance is one in eight.
  assert right.mean() >= 0.75


@pytest.mark.slow
def test_a_clip_starts_from_a_clip(tmp_path):
  source = tmp_path / 'clip'
  tiny_stages.random_bundle(source, 'clip_vit_tiny')
  config = tiny_stages.stage(
    'clip', total_steps=1, optim={'lr': 0.0}, start={'clip': {'source': str(source)}}
  )
  trained = train(config, tmp_path / 'run')
  ours, theirs = (
    restore.load_model(path)[2].fingerprint for path in (trained.bundle, source)
  )
  assert ours == theirs
