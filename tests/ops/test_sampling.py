"""Point sampling against loops in plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax.ops.sampling import sample_points, sample_pyramid


def value_at(image: np.ndarray, x: float, y: float) -> np.ndarray:
  """Bilinear value of an (h, w, ...) map at pixel coordinates, zeros outside."""
  height, width = image.shape[:2]
  column, row = int(np.floor(x)), int(np.floor(y))
  total = 0.0
  for i in (row, row + 1):
    for j in (column, column + 1):
      if 0 <= i < height and 0 <= j < width:
        total = total + image[i, j] * (1 - abs(x - j)) * (1 - abs(y - i))
  return np.asarray(total)


def test_points_of_a_map_by_hand():
  image = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
  points = jnp.array([[[0.5, 0.5], [1 / 6, 0.25], [0.0, 0.0], [1.0, 1.0], [2.0, 0.5]]])
  # Centre; first pixel; corners weigh a quarter, the rest is zero; far outside.
  expected = [[3.5, 1.0, 0.25, 1.5, 0.0]]
  np.testing.assert_allclose(sample_points(image, points), expected, atol=1e-6)


def test_points_match_a_loop_and_may_be_shared():
  rng = np.random.default_rng(0)
  maps = rng.standard_normal((2, 3, 5, 7)).astype(np.float32)
  points = rng.uniform(-0.1, 1.1, (2, 1, 11, 2)).astype(np.float32)
  found = sample_points(jnp.asarray(maps), jnp.asarray(points))
  expected = [
    [[value_at(m, x * 7 - 0.5, y * 5 - 0.5) for x, y in own[0]] for m in image]
    for image, own in zip(maps, points, strict=True)
  ]
  # Float32 against float64.
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_points_of_partly_filled_maps():
  rng = np.random.default_rng(1)
  maps = rng.standard_normal((2, 4, 6)).astype(np.float32)
  points = rng.uniform(0, 1, (2, 9, 2)).astype(np.float32)
  hw = (jnp.array([3, 4]), jnp.array([2, 6]))
  found = sample_points(jnp.asarray(maps), jnp.asarray(points), hw)
  cropped = sample_points(jnp.asarray(maps[:1, :3, :2]), jnp.asarray(points[:1]))
  np.testing.assert_array_equal(found[0], cropped[0])
  whole = sample_points(jnp.asarray(maps[1:]), jnp.asarray(points[1:]))
  np.testing.assert_array_equal(found[1], whole[0])


SHAPES = ((2, 3), (4, 5))


@pytest.fixture(scope='module')
def pyramid():
  """Values, points (some far outside) and weights: 2 images, 7 queries, 2 heads."""
  rng = np.random.default_rng(2)
  values = rng.standard_normal((2, 26, 2, 4))
  points = rng.uniform(-3, 7, (2, 7, 2, 2, 3, 2))
  weights = rng.standard_normal((2, 7, 2, 2, 3))
  return tuple(jnp.asarray(x, jnp.float32) for x in (values, points, weights))


def pyramid_by_loop(values, points, weights, real=SHAPES):
  levels = [
    part.reshape(2, *shape, 2, 4)[:, : rows[0], : rows[1]]
    for part, shape, rows in zip(np.split(values, [6], 1), SHAPES, real, strict=True)
  ]
  total = np.zeros((2, 7, 2, 4))
  for b, q, h, level, p in np.ndindex(weights.shape):
    x, y = points[b, q, h, level, p]
    sample = value_at(levels[level][b, :, :, h], x, y)
    total[b, q, h] += weights[b, q, h, level, p] * sample
  return total


def test_pyramid_matches_a_loop(pyramid):
  found = jax.jit(sample_pyramid, static_argnums=1)(pyramid[0], SHAPES, *pyramid[1:])
  np.testing.assert_allclose(
    found, pyramid_by_loop(*map(np.asarray, pyramid)), atol=1e-5
  )


def test_pyramid_is_zero_beyond_its_real_part(pyramid):
  real = ((1, 2), (2, 4))
  values = np.asarray(pyramid[0])
  run = jax.jit(sample_pyramid, static_argnums=1)
  found = run(pyramid[0], SHAPES, *pyramid[1:], jnp.array([real] * 2))
  expected = pyramid_by_loop(values, *map(np.asarray, pyramid[1:]), real)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert not np.allclose(found, pyramid_by_loop(*map(np.asarray, pyramid)), atol=0.1)


@functools.partial(jax.jit, static_argnames='chunk')
@functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
def loss(values, points, weights, chunk=100):
  return (sample_pyramid(values, SHAPES, points, weights, chunk=chunk) ** 2).sum()


def test_chunks_do_not_change_values_or_gradients(pyramid):
  # Three does not divide seven queries.
  whole, part = loss(*pyramid), loss(*pyramid, chunk=3)
  np.testing.assert_allclose(part[0], whole[0], rtol=1e-5)
  for a, b in zip(part[1], whole[1], strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_gradients_are_those_of_the_formula(pyramid):
  """Against finite differences of the loop, in float64."""
  arrays = [np.asarray(x, np.float64) for x in pyramid]
  direction = [np.random.default_rng(3).standard_normal(x.shape) for x in arrays]
  step = 1e-6
  ends = [
    pyramid_by_loop(*(a + s * d for a, d in zip(arrays, direction, strict=True)))
    for s in (step, -step)
  ]
  expected = ((ends[0] ** 2).sum() - (ends[1] ** 2).sum()) / (2 * step)
  _, gradients = loss(*pyramid)
  slope = sum(
    (np.asarray(g) * d).sum() for g, d in zip(gradients, direction, strict=True)
  )
  np.testing.assert_allclose(slope, expected, rtol=1e-4)
