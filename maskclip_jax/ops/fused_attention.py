"""Attention by cuDNN's fused kernel, where a program is for a GPU that has one.

The kernel never writes the scores to memory. It takes half precision and heads of
certain widths; everything else, every other platform and programs that are stored to
run elsewhere attend in plain XLA, and so do shapes that this cuDNN turns out not to
have a kernel for.
"""

import contextlib
import contextvars
import functools
import logging
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_LOG = logging.getLogger(__name__)
_never = contextvars.ContextVar[bool]('never', default=False)
_TYPES = (jnp.bfloat16, jnp.float16)

Capability = tuple[int, int]
# Of a GPU with such kernels, and of one whose kernels take wide heads.
_AMPERE, _HOPPER = (8, 0), (9, 0)


@contextlib.contextmanager
def never() -> Iterator[None]:
  """What is traced inside attends in plain XLA: to store programs, or to compare.

  JAX traces a function only once, so it has to be one that was not called before.
  """
  token = _never.set(True)
  try:
    yield
  finally:
    _never.reset(token)


def capability() -> Capability | None:
  """The compute capability of the GPU that is here; None without one of NVIDIA's."""
  if jax.default_backend() != 'gpu':
    return None
  text = str(getattr(jax.local_devices()[0], 'compute_capability', ''))
  major, _, minor = text.partition('.')
  # AMD's are names.
  return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def suits(dtype, width: int, gpu: Capability | None) -> bool:
  """Whether a GPU's kernel takes heads of a type and a width."""
  if gpu is None or gpu < _AMPERE or dtype not in _TYPES:
    return False
  return width % 8 == 0 and width <= (256 if gpu >= _HOPPER else 128)


def form_for(platform: str, dtype) -> str:
  """Who attends in programs for a platform, for the log: 'cuDNN' or 'XLA'."""
  fused = platform in ('gpu', 'cuda') and suits(jnp.dtype(dtype), 64, capability())
  return 'cuDNN' if fused and not _never.get() else 'XLA'


def applies(
  q: Float[Array, '*b t h d'],
  k: Float[Array, '*b s h d'],
  mask: Bool[Array, '...'] | None,
) -> bool:
  """Whether the kernel takes these arrays, in a program for the GPU that is here."""
  if _never.get() or q.ndim != 4 or q.dtype != k.dtype:
    return False
  if not suits(q.dtype, q.shape[-1], capability()):
    return False
  return _compiles(q.shape, k.shape, q.dtype, None if mask is None else mask.shape)


def attend(
  q: Float[Array, 'b t h d'],
  k: Float[Array, 'b s h d'],
  v: Float[Array, 'b s h d'],
  mask: Bool[Array, '...'] | None = None,
  *,
  implementation: str = 'cudnn',
) -> Float[Array, 'b t h d']:
  """Softmax attention of already scaled queries.

  Args:
    q: queries, times 1 / sqrt(d).
    k: keys.
    v: values.
    mask: True where a query may look; broadcasts to (b, h, t, s).
    implementation: of `jax.nn.dot_product_attention`.
  """
  batch, length, *_ = q.shape
  keys, lengths = k.shape[1], None
  if mask is not None:
    mask = jnp.broadcast_to(mask, (*mask.shape[:-2], length, keys))
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    mask = _even(_even(mask, 3), 2, fill=True)
  elif keys % 2:
    lengths = jnp.full(batch, keys, jnp.int32)
  # The gradient's kernel takes even lengths.
  out = jax.nn.dot_product_attention(
    *(_even(x, 1) for x in (q, k, v)),
    mask=mask,
    key_value_seq_lengths=lengths,
    scale=1.0,
    implementation=implementation,
  )
  return out[:, :length]


def _even(x: jax.Array, axis: int, fill=0) -> jax.Array:
  """An array with one more row along an axis where their number is odd."""
  widths = [(0, x.shape[axis] % 2 if a == axis else 0) for a in range(x.ndim)]
  return jnp.pad(x, widths, constant_values=fill) if any(map(max, widths)) else x


@functools.cache
def _compiles(q_shape, k_shape, dtype, mask_shape) -> bool:
  """Whether this cuDNN has kernels for shapes, forward and backward."""
  q, k = (jax.ShapeDtypeStruct(shape, dtype) for shape in (q_shape, k_shape))
  masks = () if mask_shape is None else (jax.ShapeDtypeStruct(mask_shape, bool),)

  def total(q, k, v, *masks):
    return attend(q, k, v, *masks).astype(jnp.float32).sum()

  try:
    for program in (attend, jax.grad(total, (0, 1, 2))):
      jax.jit(program).lower(q, k, k, *masks).compile()
  except (RuntimeError, ValueError) as error:
    reason = str(error).partition('\n')[0]
    _LOG.warning(
      'cuDNN does not attend from %s to %s %s, XLA does: %s',
      q_shape,
      k_shape,
      dtype,
      reason,
    )
    return False
  _LOG.info('attention from %s to %s by cuDNN', q_shape, k_shape)
  return True
