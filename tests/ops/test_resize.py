"""Resizing against hand-computed taps and Pillow."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskclip_jax.ops import resize as r

# Operation by operation every size would compile a dozen programs.
resize = jax.jit(r.resize, static_argnums=(1, 2))


def cubic(x, a=-0.75):
  """Keys kernel, written apart from the product's."""
  x = abs(x)
  if x <= 1:
    return (a + 2) * x**3 - (a + 3) * x**2 + 1
  return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@pytest.mark.parametrize(('size', 'out'), [(1024, 336), (300, 336), (3, 7), (1, 5)])
def test_bicubic_of_a_ramp_and_of_impulses(size, out):
  matrix = np.asarray(r.resize_matrix(out, size, 'bicubic'))
  expected = np.zeros((out, size))
  for i in range(out):
    centre = (i + 0.5) * size / out - 0.5
    low = int(np.floor(centre))
    for j in range(low - 1, low + 3):
      expected[i, np.clip(j, 0, size - 1)] += cubic(centre - j)
  # float32 positions carry 1e-7 * 1024.
  np.testing.assert_allclose(matrix, expected, atol=2e-4)
  ramp = np.linspace(0, 1, size, dtype=np.float32)
  np.testing.assert_allclose(matrix @ ramp, expected @ ramp, atol=2e-4)


def test_nearest_is_the_legacy_floor_rule():
  taps, _ = r.resize_taps(jnp.arange(336), 1024, 336, 'nearest')
  expected = [i * 1024 // 336 for i in range(336)]
  np.testing.assert_array_equal(taps[:, 0], expected)


def test_bilinear_clamps_below_zero_and_above():
  x = jnp.array([[0.0, 1.0, 2.0]])
  y = resize(x, (1, 6))
  np.testing.assert_allclose(y[0], [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)


@pytest.mark.parametrize('method', get_args(r.Method))
@pytest.mark.parametrize('hw', [(5, 9), (16, 16), (1, 1), (13, 2)])
def test_a_part_of_a_canvas_resizes_as_if_it_were_alone(method, hw):
  canvas = jax.random.normal(jax.random.key(0), (2, 16, 16))
  out_hw = (7, 11)
  alone = resize(canvas[:, : hw[0], : hw[1]], out_hw, method)
  dynamic = jax.jit(lambda x, a, b: r.resize(x, (16, 16), method, in_hw=a, out_hw=b))(
    canvas, jnp.array(hw), jnp.array(out_hw)
  )
  np.testing.assert_allclose(dynamic[:, :7, :11], alone, atol=1e-5)


@pytest.mark.parametrize('method', get_args(r.Antialiased))
@pytest.mark.parametrize(
  ('start', 'size', 'out'), [(3, 20, 8), (0, 30, 45), (12, 1, 6), (5, 25, 25)]
)
def test_antialiased_crop_is_pillows(start, size, out, method):
  row = np.random.default_rng(0).random(30).astype(np.float32)
  image = Image.fromarray(row[None], mode='F').crop((start, 0, start + size, 1))
  kernel = Image.Resampling[method.removesuffix('_antialiased').upper()]
  expected = np.asarray(image.resize((out, 1), kernel))[0]
  matrix = jax.jit(r.antialiased_matrix, static_argnums=(0, 1, 4))(
    out, 30, jnp.array(start), jnp.array(size), method
  )
  np.testing.assert_allclose(matrix @ row, expected, atol=1e-5)


def test_a_crop_beyond_the_edge_is_zero_there():
  matrix = r.antialiased_matrix(4, 4, jnp.array(-2), jnp.array(4))
  np.testing.assert_allclose(matrix @ np.ones(4), [0, 0, 1, 1], atol=1e-6)


def test_an_unknown_method_is_an_error():
  with pytest.raises(ValueError, match='bilinear, bicubic, bicubic_aligned or nearest'):
    r.resize(jnp.ones((2, 2)), (3, 3), 'lanczos')
