"""The two-stage tower: what may mix, what must not matter, and what is counted."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maskclip_jax.nn import group_vit
from maskclip_jax.nn.group_vit import Grouping, hard_assignment

WIDTH, HEADS, CENTRES = 32, 2, 4


@functools.cache
def grouping() -> Grouping:
  return Grouping(
    WIDTH,
    HEADS,
    centres=CENTRES,
    layers=2,
    temperature=0.9,
    dtype=jnp.float32,
    rngs=nnx.Rngs(0),
  )


def random(shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def test_a_photo_is_grouped_alone_whatever_else_is_in_its_batch():
  graphdef, state = nnx.split(grouping())
  group = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x))
  patches = random((2, 9, WIDTH))
  together = group(state, patches)
  for i in range(2):
    alone = group(state, patches[i : i + 1])
    np.testing.assert_allclose(together.tokens[i], alone.tokens[0], atol=1e-5)
    np.testing.assert_array_equal(together.hard[i], alone.hard[0])


def test_mixing_is_pytorchs_reading_of_a_batch_first_array():
  """Photo n of B sees the tokens n, n + B, n + 2B, ... of all photos in a row."""
  tokens = random((6, 5, 2))
  mixed = group_vit.mix_photos(tokens, 3)
  for part in (slice(0, 3), slice(3, 6)):
    read = tokens[part].reshape(5, 3, 2)
    for n in range(3):
      np.testing.assert_array_equal(mixed[part][n], read[:, n])
  np.testing.assert_array_equal(group_vit.mix_photos(tokens, 1), tokens)
  with pytest.raises(ValueError, match='6 does not divide into 4 mixed photos'):
    group_vit.mix_photos(tokens, 4)


def test_every_patch_belongs_wholly_to_one_group():
  scores = random((2, CENTRES, 9))
  hard = hard_assignment(scores)
  np.testing.assert_array_equal(hard.sum(1), np.ones((2, 9)))
  np.testing.assert_array_equal(hard.argmax(1), scores.argmax(1))
  # Of equals the first wins.
  np.testing.assert_array_equal(hard_assignment(jnp.zeros((1, 3, 2)))[0, 0], [1, 1])


def test_the_gradient_of_an_assignment_is_that_of_the_noisy_soft_one():
  scores, noise, weight = (random((1, CENTRES, 9), seed) for seed in range(3))

  def soft(s):
    return (weight * jax.nn.softmax((s + noise) / 0.5, axis=1)).sum()

  def hard(s):
    return (weight * hard_assignment(s, noise, 0.5)).sum()

  np.testing.assert_allclose(jax.grad(hard)(scores), jax.grad(soft)(scores), rtol=1e-6)


def test_an_empty_group_is_zero_and_a_group_of_one_has_the_whole_gradient():
  values = random((1, 3, WIDTH))
  hard = jnp.array([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
  gathered = group_vit.gather_patches(hard, values)
  np.testing.assert_allclose(gathered[0, 0], values[0, :2].mean(0), rtol=1e-6)
  np.testing.assert_array_equal(gathered[0, 1], values[0, 2])
  np.testing.assert_array_equal(gathered[0, 2], np.zeros(WIDTH))

  def total(h):
    return group_vit.gather_patches(h, values)[0, 1].sum()

  # d (h v / h) / dh = 0, if the division takes its full part.
  assert abs(jax.grad(total)(hard)[0, 1, 2]) < 1e-6


def test_which_patches_are_hidden():
  assert group_vit.visible_patches(196, 0.75) == 48
  order = group_vit.shuffled_patches(jax.random.uniform(jax.random.key(0), (2, 196)))
  hidden = group_vit.hidden_patches(order, 48)
  np.testing.assert_array_equal(hidden.sum(1), [148, 148])
  assert not hidden[0, order[0, :48]].any()
  patches = random((2, 196, 3))
  shuffled = group_vit.take_patches(patches, order)
  back = group_vit.take_patches(shuffled, jnp.argsort(order, axis=1))
  np.testing.assert_array_equal(back, patches)


def test_the_decoders_positions_are_the_official_table():
  table = golden.weights('segclip')['vis_mae_decoder.decoder_pos_embed']
  # The official table is computed in double precision and rounded.
  np.testing.assert_allclose(group_vit.sine_table(4, 64), table, atol=1e-6)
