"""Multi-scale deformable sampling, in the form that suits the platform.

Deformable DETR, section 4.1; [masqclip 2.3]. One function has several forms:

    chunks    gathers, one chunk of queries after another: CPUs
    unrolled  gathers, all queries at once: GPUs
    products  matrix products with bilinear weights: TPUs

All give the same sums. 'auto' chooses by the platform that the program is compiled for,
whichever it is traced on.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskclip_jax.ops.deformable import gathers, hats

AUTO = 'auto'
FORMS = {
  'chunks': gathers.chunks,
  'unrolled': gathers.unrolled,
  'products': hats.products,
}
# By XLA's name of a platform; on all others, chunks.
_CHOICE = {'cuda': 'unrolled', 'rocm': 'unrolled', 'tpu': 'products'}
_OTHERS = 'chunks'


def check_form(form: str) -> str:
  """`form`, which is one of `FORMS` or 'auto'.

  Raises:
    ValueError: it is not.
  """
  if form not in (AUTO, *FORMS):
    names = ', '.join((AUTO, *FORMS))
    raise ValueError(f'deformable sampling has the forms {names}, not {form!r}')
  return form


def form_for(platform: str, form: str = AUTO) -> str:
  """The form that a program for a platform, such as 'cpu', 'gpu' or 'tpu', uses."""
  if check_form(form) != AUTO:
    return form
  return _CHOICE.get('cuda' if platform == 'gpu' else platform, _OTHERS)


@functools.partial(jax.jit, static_argnames=('shapes', 'form'))
def _sample_jitted(values, points, weights, real_hw, *, shapes, form):
  return _sample(values, points, weights, real_hw, shapes, form)


def sample_pyramid(
  values: Float[Array, 'b s h d'],
  shapes: Sequence[tuple[int, int]],
  points: Float[Array, 'b q h l p 2'],
  weights: Float[Array, 'b q h l p'],
  real_hw: Int[Array, 'b l 2'] | None = None,
  *,
  form: str = AUTO,
) -> Float[Array, 'b q h d']:
  """Weighted sums of bilinear samples from all levels of a pyramid.

  Args:
    values: the levels' positions, row by row, one level after another. GPUs read
      bfloat16 as it is; sums are float32 everywhere. TPUs multiply with
      `jax.default_matmul_precision`, bfloat16 unless it is set.
    shapes: (height, width) of each level.
    points: (x, y) in pixels of the level, per query, head, level and point. (0, 0) is
      the centre of the first pixel.
    weights: of the points.
    real_hw: the real part of each level; beyond it values count as zero.
    form: one of `FORMS`, or 'auto' for the one that suits the platform.

  Returns:
    One vector per query and head; float32.

  Raises:
    ValueError: no such form.
  """
  batch, *_, depth, _ = weights.shape
  sizes = jnp.asarray(shapes, jnp.int32) if real_hw is None else real_hw
  real_hw = jnp.broadcast_to(sizes, (batch, depth, 2))
  points, weights = (x.astype(jnp.float32) for x in (points, weights))
  # Traced once for all layers.
  return _sample_jitted(
    *(values, points, weights, real_hw),
    shapes=tuple(map(tuple, shapes)),
    form=check_form(form),
  )


def _by_platform(
  form: str, run: Callable[..., jax.Array | tuple[jax.Array, ...]], *args
) -> jax.Array | tuple[jax.Array, ...]:
  """`run(sample, *args)` with the function that samples in the given form."""
  if form != AUTO:
    return run(FORMS[form], *args)
  branches = {
    name: functools.partial(run, FORMS[name]) for name in (*_CHOICE.values(), _OTHERS)
  }
  chosen = {platform: branches[name] for platform, name in _CHOICE.items()}
  return jax.lax.platform_dependent(*args, default=branches[_OTHERS], **chosen)


# The gradient computes everything again: what the forms would keep differs, and the
# samples are many times larger than what they are made of.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _sample(values, points, weights, real_hw, shapes, form):
  def run(sample, values, points, weights, real_hw):
    return sample(values, shapes, points, weights, real_hw)

  return _by_platform(form, run, values, points, weights, real_hw)


def _keep(values, points, weights, real_hw, shapes, form):
  inputs = (values, points, weights, real_hw)
  return _sample(*inputs, shapes, form), inputs


def _gradient(shapes, form, inputs, g):
  def run(sample, values, points, weights, real_hw, g):
    def sums(values, points, weights):
      return sample(values, shapes, points, weights, real_hw)

    # Thousands of terms add up for a value: in float32, whatever its type.
    _, pull = jax.vjp(sums, values.astype(jnp.float32), points, weights)
    by_values, *others = pull(g)
    return by_values.astype(values.dtype), *others

  return *_by_platform(form, run, *inputs, g), None


_sample.defvjp(_keep, _gradient)
