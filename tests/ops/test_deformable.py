"""Every form of deformable sampling against loops in plain Python, and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from test_sampling import value_at

from maskclip_jax.ops.deformable import (
  FORMS,
  divided,
  form_for,
  gathers,
  kernel,
  sample_pyramid,
)
from maskclip_jax.ops.deformable.kernel import layout, touched_blocks
from maskclip_jax.train.flops import count_flops
from maskclip_jax.train.mesh import BATCH, MeshConfig, batched, make_mesh

SHAPES = ((2, 3), (4, 5))
# The middle of the canvas, all of it, and two sizes at once.
REAL = (((1, 2), (2, 4)), SHAPES)
OTHERS = [form for form in FORMS if form != 'chunks']


@pytest.fixture(scope='module')
def pyramid():
  """Values, points (some far outside) and weights: 2 images, 7 queries, 2 heads."""
  rng = np.random.default_rng(2)
  values = rng.standard_normal((2, 26, 2, 4))
  points = rng.uniform(-3, 7, (2, 7, 2, 2, 3, 2))
  weights = rng.standard_normal((2, 7, 2, 2, 3))
  return tuple(jnp.asarray(x, jnp.float32) for x in (values, points, weights))


def pyramid_by_loop(values, points, weights, real=(SHAPES, SHAPES)):
  levels = [
    [part[:height, :width] for part, (height, width) in zip(parts, sizes, strict=True)]
    for parts, sizes in zip(
      zip(
        *(
          part.reshape(2, *shape, 2, 4)
          for part, shape in zip(np.split(values, [6], 1), SHAPES, strict=True)
        ),
        strict=True,
      ),
      real,
      strict=True,
    )
  ]
  total = np.zeros((2, 7, 2, 4))
  for b, q, h, level, p in np.ndindex(weights.shape):
    x, y = points[b, q, h, level, p]
    sample = value_at(levels[b][level][:, :, h], x, y)
    total[b, q, h] += weights[b, q, h, level, p] * sample
  return total


@pytest.mark.parametrize('form', FORMS)
def test_sums_match_a_loop(pyramid, form):
  found = sample_pyramid(pyramid[0], SHAPES, *pyramid[1:], form=form)
  expected = pyramid_by_loop(*map(np.asarray, pyramid))
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_values_count_as_zero_beyond_the_real_part(pyramid, form):
  real = jnp.array(REAL)
  found = sample_pyramid(pyramid[0], SHAPES, *pyramid[1:], real, form=form)
  expected = pyramid_by_loop(*map(np.asarray, pyramid), REAL)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert not np.allclose(found, pyramid_by_loop(*map(np.asarray, pyramid)), atol=0.1)


def gradients(inputs, shapes=SHAPES, real=None, **options):
  """Of the sum of squares, by values, points and weights."""

  @functools.partial(jax.jit, static_argnames='form')
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def loss(values, points, weights, form='auto'):
    return (sample_pyramid(values, shapes, points, weights, real, form=form) ** 2).sum()

  return loss(*inputs, **options)


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
  found = gradients(pyramid)
  slope = sum((np.asarray(g) * d).sum() for g, d in zip(found, direction, strict=True))
  np.testing.assert_allclose(slope, expected, rtol=1e-4)


def full_maps(sides=(16, 128), queries=40, heads=2, width=8):
  """Maps of full size; points on, between, beyond and far from their pixels."""
  rng = np.random.default_rng(4)
  shapes = tuple((side, side) for side in sides)
  lead = (1, queries, heads, len(sides), 2)
  values = rng.standard_normal((1, sum(s * s for s in sides), heads, width))
  points = rng.uniform(-0.1, 1.1, (*lead, 2)) * np.array(sides)[:, None, None]
  # Where a learned offset is whole, its place lies on a pixel and has two slopes.
  points[:, ::3] = np.round(points[:, ::3])
  points[:, ::7, :, :, 0] = 1e9
  points[:, ::11, :, :, 1, 1] = -1e30
  weights = rng.uniform(0, 1, lead)
  inputs = (jnp.asarray(x, jnp.float32) for x in (values, points, weights))
  return shapes, tuple(inputs)


@pytest.mark.parametrize('form', OTHERS)
def test_forms_agree_on_full_maps_and_far_points(form):
  shapes, inputs = full_maps()
  real = jnp.array([[[16, 9], [128, 72]]])
  results = [
    (
      sample_pyramid(inputs[0], shapes, *inputs[1:], real, form=name),
      *gradients(inputs, shapes, real, form=name),
    )
    for name in (form, 'chunks')
  ]
  # Sums of up to 16 terms in another order; gradients by points are differences.
  for found, expected in zip(*results, strict=True):
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  assert all(np.abs(expected).max() > 0.1 for expected in results[1])


def test_levels_that_fill_their_blocks_are_laid_out_as_they_lie():
  shapes, (values, *others) = full_maps((32, 64), queries=8, heads=1)
  assert all(level.filled for level in layout(shapes))
  assert not any(level.filled for level in layout(SHAPES))
  real = jnp.array([[[32, 9], [40, 64]]])

  def sums(values, form):
    return sample_pyramid(values, shapes, *others, real, form=form)

  (found, pull), (expected, pull_expected) = (
    jax.vjp(functools.partial(sums, form=form), values) for form in ('pallas', 'chunks')
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  by_values, expected = pull(found), pull_expected(found)
  np.testing.assert_allclose(by_values, expected, rtol=1e-5, atol=1e-5)
  assert np.abs(found).max() > 0.1


def test_chunks_do_not_change_sums(pyramid):
  values, *others = pyramid
  real = jnp.broadcast_to(jnp.array(SHAPES), (2, 2, 2))
  whole, parts = (
    # Three does not divide seven queries.
    jax.jit(functools.partial(gathers.chunks, shapes=SHAPES, real_hw=real, chunk=n))(
      values, points=others[0], weights=others[1]
    )
    for n in (100, 3)
  )
  np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-6)


def test_sixteen_bit_values_are_only_rounded(pyramid):
  values, points, weights = pyramid
  # What a GPU does.
  others = points[..., :1, :], weights[..., :1]
  short = values.astype(jnp.bfloat16)
  found = sample_pyramid(short, SHAPES, *others, form='unrolled')
  expected = sample_pyramid(short.astype(jnp.float32), SHAPES, *others, form='unrolled')
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert found.dtype == jnp.float32
  gradient = gradients((short, *others), form='unrolled')[0]
  full = gradients((short.astype(jnp.float32), *others), form='unrolled')[0]
  assert gradient.dtype == jnp.bfloat16
  # Rounded once, after the sum.
  np.testing.assert_array_equal(gradient, full.astype(jnp.bfloat16))


def lowered(platform, pyramid, **options):
  """The program for a platform that need not be here."""
  trace = jax.jit(
    lambda v, p, w: sample_pyramid(v, SHAPES, p, w, **options),
  ).trace(*pyramid)
  return trace.lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_that_is_compiled_for_chooses(pyramid):
  cpu, gpu, tpu = (lowered(name, pyramid) for name in ('cpu', 'cuda', 'tpu'))
  assert 'stablehlo.while' in cpu
  assert 'stablehlo.gather' in cpu
  # Four pixels of three points on two levels, and no loop.
  assert 'stablehlo.while' not in gpu
  assert gpu.count('"stablehlo.gather"') == 24
  assert 'stablehlo.gather' not in tpu
  assert 'tpu_custom_call' in tpu


def test_a_form_can_be_forced(pyramid):
  assert 'stablehlo.gather' in lowered('tpu', pyramid, form='unrolled')
  products = lowered('tpu', pyramid, form='products')
  assert 'stablehlo.dot_general' in products
  assert 'tpu_custom_call' not in products
  assert form_for('tpu', 'unrolled') == 'unrolled'
  assert [form_for(name) for name in ('cpu', 'gpu', 'cuda', 'rocm', 'metal')] == [
    *('chunks', 'unrolled', 'unrolled', 'unrolled', 'chunks')
  ]
  with pytest.raises(ValueError, match=r"has the forms auto, chunks, .* not 'fast'"):
    sample_pyramid(pyramid[0], SHAPES, *pyramid[1:], form='fast')


def test_operations_of_other_platforms_do_not_count(pyramid):
  def flops(form):
    program = jax.make_jaxpr(lambda v, p, w: sample_pyramid(v, SHAPES, p, w, form=form))
    return count_flops(program(*pyramid))

  assert flops('products') > 0
  assert flops('pallas') > 0
  assert flops('auto') == flops('chunks') == 0


def test_a_tile_looks_only_at_the_blocks_its_points_fall_into():
  (level,) = layout([(128, 128)])
  assert (level.rows, level.blocks) == (4, 32)
  x = np.full((1, 2, 2 * kernel.TILE), 5.5, np.float32)
  y = np.full_like(x, 9.5)
  # Between rows 3 and 4, which are of two blocks, in the second tile only; beyond the
  # last row, and beside the map.
  y[0, 1, -1], y[0, 0, -1] = 3.5, 128.0
  y[0, 0, 0], x[0, 0, 0] = 77.0, -1.0
  bits = touched_blocks((level,), jnp.asarray(x), jnp.asarray(y))
  np.testing.assert_array_equal(bits, [[[0b100, 0b111]]])


def test_levels_of_any_shape_fit_whole_blocks():
  for shape in [(1, 1), (20, 20), (25, 42), (40, 13), (200, 334), (1000, 16)]:
    first, second = layout([shape, shape])
    assert first.columns % 16 == 0
    assert first.columns >= first.width
    assert first.block % 128 == 0
    assert first.blocks <= 32
    assert first.height <= first.rows * first.blocks
    assert second.start == first.blocks * first.block


@pytest.mark.eight_devices
def test_devices_run_the_kernel_on_their_own_photos(pyramid):
  mesh = make_mesh(MeshConfig(data=2, model=4), jax.devices())
  alone = gradients(pyramid, form='pallas')
  rows = NamedSharding(mesh, BATCH)
  with divided(batched(mesh)):
    shared = gradients(jax.device_put(pyramid, rows), form='pallas')
  for found, expected in zip(shared, alone, strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(('platform', 'several'), [('cpu', False), ('tpu', True)])
def test_only_beside_a_kernel_are_all_forms_traced(pyramid, platform, several):
  def sampled(values, points, weights):
    with divided(lambda function: function, platform):
      return sample_pyramid(values, SHAPES, points, weights)

  program = jax.make_jaxpr(sampled)(*pyramid)
  assert ('branches_platforms' in str(program)) == several
