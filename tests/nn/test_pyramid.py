"""Fixed-ratio resizes are the general bilinear resize."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskclip_jax.nn.layers import compiling_for, double, shrink
from maskclip_jax.ops.resize import resize


@functools.partial(jax.jit, static_argnums=1)
def general(x, shape):
  """Resizes channels-last maps with the general routine."""
  return jnp.moveaxis(resize(jnp.moveaxis(x, -1, 1), shape), 1, -1)


@pytest.fixture(params=['cpu', 'tpu'])
def platform(request):
  """Programs are traced for it; what a TPU would run runs here as well."""
  with compiling_for(request.param):
    yield request.param


@pytest.mark.parametrize('factor', [1, 2, 4, 8])
def test_shrink(factor, platform):
  x = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
  expected = general(x, (16 // factor, 24 // factor))
  found = jax.jit(lambda x: shrink(x, factor))(x)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_shrink_refuses_a_factor_that_does_not_fit():
  with pytest.raises(ValueError, match='10 x 8 do not shrink by 4'):
    shrink(jnp.zeros((1, 10, 8, 1)), 4)


def test_double(platform):
  x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
  found = jax.jit(lambda x: double(x))(x)
  np.testing.assert_allclose(found, general(x, (10, 14)), atol=1e-6)


def test_double_repeats_the_border_of_the_real_part(platform):
  x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
  found = double(x, jnp.array([[3, 4], [5, 7]]))
  np.testing.assert_array_equal(found[:1, :6, :8], double(x[:1, :3, :4]))
  np.testing.assert_array_equal(found[1:], double(x[1:]))
