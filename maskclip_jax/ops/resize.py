"""Resizing with PyTorch's rules, which are not those of `jax.image`.

Bilinear and bicubic use half-pixel centres and no antialiasing; bicubic is the Keys
kernel with a = -0.75, border-clamped and not clipped; nearest is floor(i * in / out).
The antialiased kernels of Pillow and newer PyTorch (bicubic with a = -0.5, and
bilinear) are there as well, and bicubic with `align_corners=True`.
A separable resize is two small matrix products: exact, and what TPUs are best at.

Sizes may be traced values, so that an image of any size on a fixed canvas is resized by
one compiled program: `in_size` and `out_size` say how much of each axis is real.
Source: [masqclip 0] (PyTorch `interpolate`, `align_corners=False`).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Antialiased = Literal['bicubic_antialiased', 'bilinear_antialiased']
Method = Literal['bilinear', 'bicubic', 'bicubic_aligned', 'nearest', Antialiased]
Size = int | Int[Array, '']
# An axis whose end need not fall on that of a sample.
Span = Size | Float[Array, '']

_A = -0.75
_ANTIALIASED = get_args(Antialiased)


def _cubic_weights(t: Float[Array, '*n']) -> Float[Array, '*n 4']:
  """Keys kernel at distances 1+t, t, 1-t, 2-t."""

  def near(x):
    return ((_A + 2) * x - (_A + 3)) * x * x + 1

  def far(x):
    return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A

  return jnp.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], axis=-1)


def resize_taps(
  index: Int[Array, '*n'], in_size: Size, out_size: Span, method: Method
) -> tuple[Int[Array, '*n taps'], Float[Array, '*n taps']]:
  """Which source samples make output sample `index`, and their weights.

  Args:
    index: output positions along one axis.
    in_size: samples of the source axis; may be traced.
    out_size: samples of the whole output axis; may be traced.
    method: 'bilinear' (2 taps), 'bicubic' or 'bicubic_aligned' (4) or 'nearest' (1).

  Returns:
    Indices in [0, in_size) and float32 weights that sum to 1.
  """
  in_size = jnp.asarray(in_size, jnp.int32)
  scale = in_size.astype(jnp.float32) / jnp.asarray(out_size, jnp.float32)
  if method == 'nearest':
    source = jnp.floor(index.astype(jnp.float32) * scale).astype(jnp.int32)
    taps = jnp.clip(source, 0, in_size - 1)[..., None]
    return taps, jnp.ones(taps.shape, jnp.float32)
  centre = (index.astype(jnp.float32) + 0.5) * scale - 0.5
  if method == 'bilinear':
    centre = jnp.maximum(centre, 0.0)
    low = jnp.floor(centre)
    t = centre - low
    low = low.astype(jnp.int32)
    offsets, weights = jnp.arange(2), jnp.stack([1 - t, t], axis=-1)
  elif method in ('bicubic', 'bicubic_aligned'):
    if method == 'bicubic_aligned':
      # A single sample is the first one.
      gaps = jnp.asarray(out_size, jnp.float32) - 1
      step = (in_size.astype(jnp.float32) - 1) / jnp.maximum(gaps, 1.0)
      centre = index.astype(jnp.float32) * jnp.where(gaps > 0, step, 0.0)
    low = jnp.floor(centre)
    weights = _cubic_weights(centre - low)
    low = low.astype(jnp.int32)
    offsets = jnp.arange(-1, 3)
  else:
    raise ValueError(
      f'method must be bilinear, bicubic, bicubic_aligned or nearest, not {method!r}'
    )
  return jnp.clip(low[..., None] + offsets, 0, in_size - 1), weights


def taps_matrix(
  taps: Int[Array, '*n taps'], weights: Float[Array, '*n taps'], length: int
) -> Float[Array, '*n length']:
  """The dense matrix that gathers `taps` with `weights` from an axis of `length`."""
  hot = taps[..., None] == jnp.arange(length)
  return jnp.sum(jnp.where(hot, weights[..., None], 0.0), axis=-2)


def resize_matrix(
  out_length: int,
  in_length: int,
  method: Method = 'bilinear',
  *,
  in_size: Size | None = None,
  out_size: Span | None = None,
) -> Float[Array, 'out in']:
  """Matrix of a one-dimensional resize between two (partly filled) axes.

  Rows beyond `out_size` are finite and mean nothing; columns beyond `in_size` are zero.
  """
  in_size = in_length if in_size is None else in_size
  out_size = out_length if out_size is None else out_size
  if method in _ANTIALIASED:
    whole = jnp.asarray(in_size, jnp.int32)
    return antialiased_matrix(
      out_length, in_length, 0, whole, method, out_size=out_size
    )
  taps, weights = resize_taps(jnp.arange(out_length), in_size, out_size, method)
  return taps_matrix(taps, weights, in_length)


def resize(
  x: Float[Array, '*lead h w'],
  shape: tuple[int, int],
  method: Method = 'bilinear',
  *,
  in_hw: tuple[Size, Size] | Int[Array, '2'] | None = None,
  out_hw: tuple[Span, Span] | Int[Array, '2'] | Float[Array, '2'] | None = None,
) -> Float[Array, '*lead h2 w2']:
  """Resizes the last two axes to `shape` as PyTorch's `interpolate` does.

  Args:
    x: maps; computed in float32.
    shape: (height, width) of the result's canvas, static.
    method: one of `Method`.
    in_hw: the part of `x` that is real (top left corner); all of it by default.
    out_hw: the part of the result to fill; all of it by default. Where a sample is only
      partly of it, a fraction.
  """
  in_hw = x.shape[-2:] if in_hw is None else in_hw
  out_hw = shape if out_hw is None else out_hw
  rows, columns = (
    resize_matrix(
      shape[i], x.shape[i - 2], method, in_size=in_hw[i], out_size=out_hw[i]
    )
    for i in (0, 1)
  )
  x = x.astype(jnp.float32)
  highest = jax.lax.Precision.HIGHEST
  # Shrink the larger axis first: fewer products.
  if shape[0] * x.shape[-1] <= shape[1] * x.shape[-2]:
    x = jnp.einsum('ij,...jk->...ik', rows, x, precision=highest)
    return jnp.einsum('...ij,kj->...ik', x, columns, precision=highest)
  x = jnp.einsum('...ij,kj->...ik', x, columns, precision=highest)
  return jnp.einsum('ij,...jk->...ik', rows, x, precision=highest)


def crop_matrix(
  out_length: int,
  in_length: int,
  start: Size,
  size: Int[Array, ''],
  method: Method,
) -> Float[Array, 'out in']:
  """Matrix that crops [start, start + size) of an axis and resizes it.

  Args:
    out_length: samples of the result.
    in_length: samples of the source axis.
    start: first sample of the crop; may be traced and negative.
    size: samples in the crop; may be traced. What of it lies beyond the axis counts as
      zero.
    method: one of `Method`.
  """
  if method in _ANTIALIASED:
    return antialiased_matrix(out_length, in_length, start, size, method)
  taps, weights = resize_taps(jnp.arange(out_length), size, out_length, method)
  return taps_matrix(start + taps, weights, in_length)


def antialiased_matrix(
  out_length: int,
  in_length: int,
  start: Size,
  size: Int[Array, ''],
  method: Antialiased = 'bicubic_antialiased',
  *,
  out_size: Span | None = None,
) -> Float[Array, 'out in']:
  """Matrix that crops [start, start + size) and resizes it as Pillow does.

  Pillow's kernels, of which the bicubic has a = -0.5, are widened when shrinking. The
  crop may reach up to `in_length` beyond either end of the axis: what lies there counts
  as zero.

  Args:
    out_length: samples of the result.
    in_length: samples of the source axis.
    start: first sample of the crop; may be traced and negative.
    size: samples in the crop; may be traced.
    method: which kernel.
    out_size: rows of the result that are real; all by default.
  """
  out_size = out_length if out_size is None else out_size
  scale = size.astype(jnp.float32) / jnp.asarray(out_size, jnp.float32)
  widened = jnp.maximum(scale, 1.0)
  source = jnp.arange(-in_length, 2 * in_length)
  centre = (jnp.arange(out_length, dtype=jnp.float32) + 0.5) * scale
  position = (source - start).astype(jnp.float32) + 0.5
  x = jnp.abs(position[None] - centre[:, None]) / widened
  if method == 'bilinear_antialiased':
    weights = jnp.maximum(1 - x, 0.0)
  else:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))
  weights = jnp.where((source >= start) & (source < start + size), weights, 0.0)
  weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)
  return weights[:, in_length : 2 * in_length]
