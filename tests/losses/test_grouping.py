"""The losses of groups, by hand; with the official draws in systems/test_segclip.py."""

import jax
import jax.numpy as jnp
import numpy as np

from maskclip_jax.losses.grouping import (
  hidden_patch_error,
  patches_of_pixels,
  superpixel_kl,
)


def one_hot(groups):
  return jnp.swapaxes(jax.nn.one_hot(jnp.array(groups), 8), -1, -2)


def test_patches_that_share_their_superpixels_group_cost_nothing():
  groups = [[0, 0, 3, 3, 5]]
  assert superpixel_kl(one_hot(groups), jnp.array([[7, 7, 2, 2, 9]])) == 0
  assert superpixel_kl(one_hot(groups), jnp.array([[7, 7, 7, 2, 9]])) > 0


def test_a_superpixel_spread_over_all_groups():
  """0.00967 a patch: one-hot against uniform, after the softmax, a mean over groups."""
  loss = superpixel_kl(one_hot([list(range(8))]), jnp.zeros((1, 8), jnp.int32))
  np.testing.assert_allclose(loss, 0.00967, atol=5e-6)


def test_both_sides_of_the_divergence_learn():
  superpixels = jnp.array([[0, 0, 1]])
  gradient = jax.grad(lambda a: superpixel_kl(a, superpixels).sum())(
    one_hot([[0, 1, 2]])
  )
  assert np.abs(gradient[0, :, :2]).min(1).max() > 0
  np.testing.assert_allclose(gradient[0, :, 2], np.zeros(8), atol=1e-8)


def test_only_hidden_patches_count():
  pixels = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  patches = patches_of_pixels(pixels, 2)
  np.testing.assert_array_equal(patches[0, 1].reshape(2, 2, 3), pixels[0, :2, 2:])
  hidden = jnp.array([[True, False, True, False]] * 2)
  painted = patches + jnp.where(hidden, 0.5, 100.0)[..., None]
  np.testing.assert_allclose(hidden_patch_error(painted, pixels, hidden), [0.25] * 2)
