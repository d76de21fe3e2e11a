"""Point sampling against loops in plain Python."""

import jax.numpy as jnp
import numpy as np

from maskclip_jax.ops.sampling import sample_points


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
  hw = jnp.array([[3, 4], [2, 6]])
  found = sample_points(jnp.asarray(maps), jnp.asarray(points), hw)
  cropped = sample_points(jnp.asarray(maps[:1, :3, :2]), jnp.asarray(points[:1]))
  np.testing.assert_array_equal(found[0], cropped[0])
  whole = sample_points(jnp.asarray(maps[1:]), jnp.asarray(points[1:]))
  np.testing.assert_array_equal(found[1], whole[0])
