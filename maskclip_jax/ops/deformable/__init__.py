"""Multi-scale deformable sampling, in the form that suits the platform.

Deformable DETR, section 4.1; [masqclip 2.3]. One function has several forms:

    chunks    gathers, one chunk of queries after another: CPUs
    unrolled  gathers, all queries at once: GPUs
    products  matrix products with bilinear weights: TPUs, in plain XLA
    pallas    the same in a kernel that skips what no point touches: TPUs

All give the same sums. 'auto' chooses by the platform that the program is compiled for,
whichever it is traced on.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maskclip_jax.ops.deformable import gathers, hats, kernel

AUTO = 'auto'
FORMS = {
  'chunks': gathers.chunks,
  'unrolled': gathers.unrolled,
  'products': hats.products,
  'pallas': kernel.pallas,
}
# Kernels for TPUs; an interpreter runs them elsewhere. XLA cannot divide them.
_KERNELS = ('pallas',)
# By XLA's name of a platform; on all others, chunks.
_CHOICE = {'cuda': 'unrolled', 'rocm': 'unrolled', 'tpu': 'pallas'}
_OTHERS = 'chunks'
# Where one program is for several platforms: no kernel lowers for those it is not for.
_PORTABLE = {**_CHOICE, 'tpu': 'products'}


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


Wrap = Callable[[Callable], Callable]
_wrap = contextvars.ContextVar[Wrap | None]('wrap', default=None)
_platform = contextvars.ContextVar[str | None]('platform', default=None)


@contextlib.contextmanager
def divided(wrap: Wrap, platform: str | None = None) -> Iterator[None]:
  """What is traced inside runs kernels within `wrap`: XLA cannot divide them.

  Args:
    wrap: makes of a function of arrays with leading batch axes one that every device
      runs on its own rows, as `jax.shard_map` does.
    platform: of these devices, if it is known: forms for others are not traced.
  """
  tokens = _wrap.set(wrap), _platform.set(platform)
  try:
    yield
  finally:
    _wrap.reset(tokens[0])
    _platform.reset(tokens[1])


_portable = contextvars.ContextVar[bool]('portable', default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
  """What is traced inside can be lowered for several platforms at once.

  'auto' then chooses plain XLA on all of them.
  """
  token = _portable.set(True)
  try:
    yield
  finally:
    _portable.reset(token)


@dataclasses.dataclass(frozen=True)
class _How:
  """How to sample: the levels' shapes, the form, how devices share the work, and
  whether the program is for several platforms."""

  shapes: tuple[tuple[int, int], ...]
  form: str
  wrap: Wrap | None
  portable: bool


@functools.partial(jax.jit, static_argnames='how')
def _sample_jitted(values, points, weights, real_hw, *, how):
  return _sample(values, points, weights, real_hw, how)


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
    weights: the weights of the points.
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
  if check_form(form) == AUTO and (platform := _platform.get()):
    chosen = form_for(platform)
    # Beside a kernel all are traced: its interpreter, and what `train.flops` counts.
    form = AUTO if chosen in _KERNELS else chosen
  # Traced once for all layers.
  how = _How(tuple(map(tuple, shapes)), form, _wrap.get(), _portable.get())
  return _sample_jitted(values, points, weights, real_hw, how=how)


def _by_platform(
  how: _How, run: Callable[..., jax.Array | tuple[jax.Array, ...]], *args
) -> jax.Array | tuple[jax.Array, ...]:
  """`run(sample, *args)` with the function that samples as it should."""

  def sampling(name: str, **options) -> Callable:
    call = functools.partial(run, functools.partial(FORMS[name], **options))
    return how.wrap(call) if how.wrap and name in _KERNELS else call

  if how.form in _KERNELS:
    interpreted = sampling(how.form, interpret=True)
    compiled = sampling(how.form)
    return jax.lax.platform_dependent(*args, default=interpreted, tpu=compiled)
  if how.form != AUTO:
    return sampling(how.form)(*args)
  choice = _PORTABLE if how.portable else _CHOICE
  branches = {name: sampling(name) for name in (*choice.values(), _OTHERS)}
  chosen = {platform: branches[name] for platform, name in choice.items()}
  return jax.lax.platform_dependent(*args, default=branches[_OTHERS], **chosen)


# The gradient computes everything again: what the forms would keep differs, and the
# samples are many times larger than what they are made of.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sample(values, points, weights, real_hw, how):
  def run(sample, values, points, weights, real_hw):
    return sample(values, how.shapes, points, weights, real_hw)

  return _by_platform(how, run, values, points, weights, real_hw)


def _keep(values, points, weights, real_hw, how):
  inputs = (values, points, weights, real_hw)
  return _sample(*inputs, how), inputs


def _gradient(how, inputs, g):
  def run(sample, values, points, weights, real_hw, g):
    def sums(values, points, weights):
      return sample(values, how.shapes, points, weights, real_hw)

    # Thousands of terms add up for a value: in float32, whatever its type.
    _, pull = jax.vjp(sums, values.astype(jnp.float32), points, weights)
    by_values, *others = pull(g)
    return by_values.astype(values.dtype), *others

  return *_by_platform(how, run, *inputs, g), None


_sample.defvjp(_keep, _gradient)
