"""Layers shared by CLIP, the proposal networks and the mask tokens.

Parameters are float32; `dtype` is the compute type of the matrix products. Norm
statistics and softmax are always float32.
"""

import contextlib
import contextvars
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

T = TypeVar('T')
P = TypeVar('P')

# PyTorch's default; flax's is 1e-6, which moves results.
NORM_EPS = 1e-5

# What programs are traced for, where it is not what is here.
_target = contextvars.ContextVar[str | None]('target', default=None)

_lecun = nnx.initializers.lecun_normal()


def quick_gelu(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """CLIP's activation: x * sigmoid(1.702 x)."""
  return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """GELU by the error function, not its tanh approximation."""
  return jax.nn.gelu(x, approximate=False)


def recompute(block: Callable[..., T], remat: bool) -> Callable[..., T]:
  """`block`; with `remat` it keeps no activations, its gradient computes them again."""
  return jax.checkpoint(block) if remat else block


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """What is traced inside will run on a 'cpu', 'gpu' or 'tpu' that need not be here."""
  token = _target.set(platform)
  try:
    yield
  finally:
    _target.reset(token)


def target_platform() -> str:
  """The platform that programs are traced for: 'cpu', 'gpu' or 'tpu'."""
  return _target.get() or jax.default_backend()


def in_turn(
  run: Callable[[P, jax.Array], tuple[jax.Array, T]], parts: Sequence[P], x: jax.Array
) -> tuple[jax.Array, list[T]]:
  """`x` through one part after another.

  For a TPU, neighbours that are built alike become a loop: its compiler takes half a
  minute for every convolutional block that it sees. On a CPU, the gradient of a loop
  takes up to half longer than that of its parts.

  Args:
    run: `run(part, x)` is the next x, like x wherever parts are alike, and an output.
    parts: modules, or tuples of modules.
    x: what the first part gets.

  Returns:
    The last x, and the output of every part.
  """
  looped = target_platform() == 'tpu'
  split = [nnx.split(part) for part in parts]
  built = [(graph, jax.tree.map(jnp.shape, state)) for graph, state in split]
  alike = built.__getitem__ if looped else lambda number: number
  outputs = []
  for _, numbers in itertools.groupby(range(len(parts)), alike):
    first, *others = numbers
    if not others:
      x, output = run(parts[first], x)
      outputs.append(output)
      continue
    states = [split[number][1] for number in (first, *others)]

    def step(x, state, graph=split[first][0]):
      return run(nnx.merge(graph, state), x)

    x, stacked = jax.lax.scan(
      step, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    )
    outputs += [
      jax.tree.map(operator.itemgetter(n), stacked) for n in range(len(states))
    ]
  return x, outputs


class Statistic(nnx.Variable):
  """A constant that is converted and saved with the weights but never trained."""


class LayerNorm(nnx.LayerNorm):
  """LayerNorm over the last axis: float32 inside, result in `dtype`."""

  def __init__(
    self,
    width: int,
    *,
    epsilon: float = NORM_EPS,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    super().__init__(width, epsilon=epsilon, dtype=jnp.float32, rngs=rngs)
    self.out_dtype = dtype

  def __call__(self, x: Float[Array, '*n w']) -> Float[Array, '*n w']:
    return super().__call__(x).astype(self.out_dtype)


def attend(
  q: Float[Array, '*b t h d'],
  k: Float[Array, '*b s h d'],
  v: Float[Array, '*b s h d'],
  mask: Bool[Array, '*#b #h #t s'] | None = None,
  adjust: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, '*b t h d']:
  """Softmax attention of already scaled queries.

  Args:
    q: queries, times 1 / sqrt(d).
    k: keys.
    v: values.
    mask: True where a query may look. Every query must have an open position: a row
      without one would average all values.
    adjust: changes the scores [*b, h, t, s] before they are masked.
  """
  scores = jnp.einsum('...thd,...shd->...hts', q, k, preferred_element_type=jnp.float32)
  if adjust is not None:
    scores = adjust(scores)
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
  # Dividing after the product spares a pass over the scores, and a CPU multiplies fast
  # with heads before positions: CLIP's attention takes 0.6 of the time.
  peak = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores - peak)
  total = weights.sum(-1)[..., None]
  sums = jnp.matmul(
    weights.astype(v.dtype),
    jnp.swapaxes(v, -3, -2),
    preferred_element_type=jnp.float32,
  )
  return jnp.swapaxes(sums / total, -3, -2).astype(v.dtype)


class MultiHeadAttention(nnx.Module):
  """Projections of multi-head attention, one kernel per role and head.

  `attention(query_input, key_input, value_input, mask)` is the usual layer; callers
  that share keys and values between streams use the projections one by one.

  Args:
    width: channels.
    heads: attention heads.
    kernel_init: of the query, key and value kernels, seen as (width, width) matrices.
    out_init: of the output kernel, likewise.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    *,
    kernel_init: nnx.initializers.Initializer = _lecun,
    out_init: nnx.initializers.Initializer = _lecun,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    if width % heads:
      raise ValueError(f'width {width} is not a multiple of {heads} heads')
    shape: Sequence[int] = (heads, width // heads)
    common = {'kernel_init': kernel_init, 'dtype': dtype, 'rngs': rngs}
    self.query = nnx.LinearGeneral(width, shape, **common)
    self.key = nnx.LinearGeneral(width, shape, **common)
    self.value = nnx.LinearGeneral(width, shape, **common)
    common['kernel_init'] = out_init
    self.out = nnx.LinearGeneral(shape, width, axis=(-2, -1), **common)
    self.scale = (width // heads) ** -0.5

  def __call__(
    self,
    query: Float[Array, '*b t w'],
    key: Float[Array, '*b s w'] | None = None,
    value: Float[Array, '*b s w'] | None = None,
    mask: Bool[Array, '*#b #h #t s'] | None = None,
  ) -> Float[Array, '*b t w']:
    """Attends from `query`; `key` defaults to it, and `value` to `key`."""
    key = query if key is None else key
    value = key if value is None else value
    q = self.query(query) * self.scale
    return self.out(attend(q, self.key(key), self.value(value), mask))
