"""Layers shared by CLIP, the proposal networks and the mask tokens.

Parameters are float32; `dtype` is the compute type of the matrix products. Norm
statistics and softmax are always float32.

Feature maps fill only the top left corner of a canvas: a photo of any size lies on a
canvas of a few fixed sizes, so few programs are ever compiled. A network behaves as if
the canvas ended at the photo's padded size when every operation that mixes positions
ignores what lies beyond: convolutions see zeros there, statistics count real positions
only, positions are encoded relative to the real part, and resizes clamp at the real
border. `hw` is the real part of a map (one row per image, may be traced), or None when
maps are real throughout, which costs nothing.

The sides of a pyramid's levels differ by powers of two. PyTorch's bilinear rule then
has the same two weights everywhere, so only a TPU needs a resize matrix: shrinking by
an even factor averages the four central pixels of each cell, and doubling mixes
neighbours 3 to 1. Maps are channels last.
"""

import contextlib
import contextvars
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.ops import fused_attention

Dtype = Literal['float32', 'bfloat16']
T = TypeVar('T')
P = TypeVar('P')
C = TypeVar('C')
ValidHW = Int[Array, 'b 2'] | None


def check_heads(name: str, width: int, heads: int) -> None:
  """Fails where attention heads do not share channels equally.

  Raises:
    ValueError: with the name of the width.
  """
  if heads < 1 or width % heads:
    raise ValueError(f'{name} {width} is not a multiple of {heads} heads')


# No device holds the features of a larger photo, in pixels.
LONGEST_EDGE = 16384


def check_image_size(side: int, step: int) -> None:
  """Fails where squares of a side are not whole patches, or larger than any device.

  Args:
    side: in pixels.
    step: the side of a patch.

  Raises:
    ValueError: with the side.
  """
  if not 0 < side <= LONGEST_EDGE:
    raise ValueError(f'image_size must be in 1..{LONGEST_EDGE} pixels, not {side}')
  if side % step:
    raise ValueError(f'image_size {side} is not a multiple of {step}')


# Of the sine encodings of positions.
_TEMPERATURE = 10000.0

# PyTorch's default; flax's is 1e-6, which moves results.
NORM_EPS = 1e-5

# What programs are traced for, where it is not what is here.
_target = contextvars.ContextVar[str | None]('target', default=None)

_lecun = nnx.initializers.lecun_normal()


def check_pixels(pixels: Float[Array, 'b h w 3'], stride: int = 1) -> None:
  """Refuses what is not a batch of RGB photos, channels last.

  Args:
    pixels: the batch.
    stride: what the sides must be multiples of.

  Raises:
    ValueError: what its shape is, and how to mend it.
  """
  shape = jnp.shape(pixels)
  fits = all(n >= stride and n % stride == 0 for n in shape[1:3])
  if len(shape) == 4 and shape[3] == 3 and fits:
    return
  wanted, hint = '(batch, height, width, 3)', ''
  if len(shape) == 4 and shape[3] != 3 and shape[1] == 3:
    hint = ': move the channels last, x.transpose(0, 2, 3, 1)'
  elif len(shape) == 3 and shape[2] == 3:
    hint = ': add the batch, x[None]'
  elif len(shape) == 4 and shape[3] == 3:
    wanted += f' with sides that are multiples of {stride}'
  raise ValueError(f'pixels must be {wanted}, not {shape}{hint}')


def check_square(pixels: Float[Array, 'b r r 3'], side: int) -> None:
  """Refuses photos that an image tower of a fixed size cannot read.

  Raises:
    ValueError: not a batch of RGB photos of `side` x `side`, channels last.
  """
  check_pixels(pixels)
  height, width = pixels.shape[1:3]
  if (height, width) != (side, side):
    raise ValueError(
      f'the image tower takes photos of {side} x {side}, not {height} x {width}: '
      'resize them'
    )


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
  run: Callable[[P, C], tuple[C, T]], parts: Sequence[P], x: C
) -> tuple[C, list[T]]:
  """`x` through one part after another.

  For a TPU, neighbours that are built alike become a loop: its compiler takes half a
  minute for every convolutional block that it sees. On a CPU, the gradient of a loop
  takes up to half longer than that of its parts.

  Args:
    run: `run(part, x)` is the next x, like x wherever parts are alike, and an output.
    parts: modules, or tuples of modules.
    x: what the first part gets, an array or several.

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


def prune(module: nnx.Module, unused: tuple[str, ...]) -> None:
  """Takes parts, named by their paths, out of a module."""
  for path in unused:
    *parents, name = path.split('/')
    delattr(functools.reduce(getattr, parents, module), name)


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
  drop: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, '*b t h d']:
  """Softmax attention of already scaled queries.

  Args:
    q: queries, times 1 / sqrt(d).
    k: keys.
    v: values.
    mask: True where a query may look. Every query must have an open position: a row
      without one would average all values.
    adjust: changes the scores [*b, h, t, s] before they are masked.
    drop: leaves out some of the weights [*b, h, t, s], in training.
  """
  plain = adjust is None and drop is None
  if plain and target_platform() == 'gpu' and fused_attention.applies(q, k, mask):
    return fused_attention.attend(q, k, v, mask)
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
  if drop is not None:
    weights = drop(weights)
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
    kernel_init: how the query, key and value kernels start, as (width, width)
      matrices.
    out_init: how the output kernel starts, likewise.
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
    check_heads('width', width, heads)
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
    drop: Callable[[jax.Array], jax.Array] | None = None,
  ) -> Float[Array, '*b t w']:
    """Attends from `query`; `key` defaults to it, and `value` to `key`."""
    key = query if key is None else key
    value = key if value is None else value
    q = self.query(query) * self.scale
    return self.out(attend(q, self.key(key), self.value(value), mask, drop=drop))


def inside(hw: Int[Array, 'b 2'], shape: tuple[int, int]) -> Bool[Array, 'b h w']:
  """True on the real positions of maps of a given (height, width)."""
  rows = jnp.arange(shape[0])[:, None] < hw[:, 0, None, None]
  columns = jnp.arange(shape[1]) < hw[:, 1, None, None]
  return rows & columns


def zero_outside(x: Float[Array, 'b h w c'], hw: ValidHW) -> Float[Array, 'b h w c']:
  """Clears what lies beyond the real part, as a convolution's zero padding."""
  if hw is None:
    return x
  return jnp.where(inside(hw, x.shape[1:3])[..., None], x, 0)


class GroupNorm(nnx.Module):
  """GroupNorm with statistics over the real positions: eps 1e-5, float32 inside."""

  def __init__(
    self, channels: int, groups: int = 32, *, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    if channels % groups:
      raise ValueError(f'{channels} channels do not divide into {groups} groups')
    self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (channels,)))
    self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (channels,)))
    self.groups = groups
    self.dtype = dtype

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None
  ) -> Float[Array, 'b h w c']:
    x = x.astype(jnp.float32)
    centred = x - self._mean(x, hw)
    variance = self._mean(jnp.square(centred), hw)
    scale = jax.lax.rsqrt(variance + NORM_EPS) * self.scale[...]
    return (centred * scale + self.bias[...]).astype(self.dtype)

  def _mean(self, x: Float[Array, 'b h w c'], hw: ValidHW) -> Float[Array, 'b 1 1 c']:
    """Each group's mean over the real positions, repeated for its channels."""
    batch, height, width, channels = x.shape
    members = channels // self.groups
    if hw is None:
      count = jnp.full((batch, 1), height * width * members, jnp.float32)
    else:
      # An empty row of a batch must not become NaN, which some checks refuse.
      count = jnp.maximum(hw.prod(-1, keepdims=True) * members, 1).astype(jnp.float32)
    sums = zero_outside(x, hw).sum((1, 2)).reshape(batch, self.groups, members).sum(-1)
    return jnp.repeat(sums / count, members, axis=-1)[:, None, None]


def _encode(
  length: int, size: Float[Array, '#b'], features: int
) -> Float[Array, '#b n f']:
  """Interleaved sines and cosines of the positions 1..length over `size`."""
  place = jnp.arange(1, length + 1, dtype=jnp.float32)
  angle = place / (size[:, None] + 1e-6) * (2 * math.pi)
  exponent = 2 * (jnp.arange(features) // 2) / features
  angle = angle[..., None] / _TEMPERATURE**exponent
  even = jnp.arange(features) % 2 == 0
  return jnp.where(even, jnp.sin(angle), jnp.cos(angle))


def sine_positions(
  shape: tuple[int, int], width: int, hw: ValidHW = None
) -> Float[Array, '#b h w c']:
  """Sine encodings of positions ([masqclip 2.5]; DETR, appendix A.4).

  Rows are in the first half of the channels, columns in the second.

  Args:
    shape: (height, width) of the map.
    width: channels of the encoding, a multiple of 4.
    hw: the real part of each image's map, by which positions are normalised; the whole
      map by default (then one encoding serves the batch).
  """
  if width % 4:
    raise ValueError(
      f'the width of a position encoding is a multiple of 4, not {width}'
    )
  sizes = jnp.array([shape]) if hw is None else hw
  sizes = sizes.astype(jnp.float32)
  rows = _encode(shape[0], sizes[:, 0], width // 2)[:, :, None]
  columns = _encode(shape[1], sizes[:, 1], width // 2)[:, None]
  full = (sizes.shape[0], *shape, width // 2)
  parts = (jnp.broadcast_to(rows, full), jnp.broadcast_to(columns, full))
  return jnp.concatenate(parts, axis=-1)


def _along_rows(
  weights: Float[Array, '#b v w'], x: Float[Array, 'b h w c']
) -> Float[Array, 'b h v c']:
  """Products of every row of a map with weights that its type holds exactly.

  A TPU's registers take several columns at once: those that a stride or a stack picks
  one by one cost it many times as much as a product.
  """
  weights = jnp.broadcast_to(weights, (len(x), *weights.shape[1:])).astype(x.dtype)
  sums = jnp.einsum(
    'bvw,bhwc->bhvc',
    weights,
    x,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
  return sums.astype(x.dtype)


def shrink(x: Float[Array, 'b h w c'], factor: int) -> Float[Array, 'b h/f w/f c']:
  """Bilinear resize by 1 / factor (1 or even) without antialiasing."""
  if factor == 1:
    return x
  batch, height, width, channels = x.shape
  if factor % 2 or height % factor or width % factor:
    raise ValueError(f'maps of {height} x {width} do not shrink by {factor}')
  middle = slice(factor // 2 - 1, factor // 2 + 1)
  if target_platform() == 'tpu':
    rows = x.reshape(batch, height // factor, factor, width, channels)
    first = jnp.arange(width // factor)[:, None] * factor + middle.start
    columns = jnp.arange(width)
    near = (columns == first) | (columns == first + 1)
    return _along_rows(0.5 * near[None], rows[:, :, middle].mean(2))
  cells = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
  return cells[:, :, middle, :, middle].mean((2, 4))


def _double_axis(
  x: Float[Array, 'b *n'], axis: int, size: Int[Array, ' b'] | None
) -> Float[Array, 'b *n']:
  length = x.shape[axis]
  part = functools.partial(jax.lax.slice_in_dim, x, axis=axis)
  before = jnp.concatenate([part(0, 1), part(0, length - 1)], axis)
  after = jnp.concatenate([part(1, length), part(length - 1, length)], axis)
  if size is not None:
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    last = size.reshape(-1, *(1,) * (x.ndim - 1)) - 1
    after = jnp.where(index == last, x, after)
  pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
  return pair.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])


def _double_weights(
  length: int, size: Int[Array, ' b'] | None
) -> Float[Array, '#b 2n n']:
  """What each of `length` columns counts for those of a map of twice the width."""
  size = jnp.full(1, length) if size is None else size
  new, columns = jnp.arange(2 * length)[:, None], jnp.arange(length)
  own = new // 2
  other = jnp.clip(own + 2 * (new % 2) - 1, 0, length - 1)
  last = size[:, None, None] - 1
  other = jnp.where((own == last) & (other > own), own, other)
  return 0.75 * (columns == own) + 0.25 * (columns == other)


def double(
  x: Float[Array, 'b h w c'], hw: Int[Array, 'b 2'] | None = None
) -> Float[Array, 'b 2h 2w c']:
  """Bilinear resize to twice the size.

  Args:
    x: maps.
    hw: the part of each map that is real; its border is repeated, as a map's end is.
  """
  rows, columns = (None, None) if hw is None else (hw[:, 0], hw[:, 1])
  x = _double_axis(x, 1, rows)
  if target_platform() == 'tpu':
    return _along_rows(_double_weights(x.shape[2], columns), x)
  return _double_axis(x, 2, columns)


def repeat(x: Float[Array, 'b h w c']) -> Float[Array, 'b 2h 2w c']:
  """Nearest resize to twice the size: every pixel four times."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
  return x.reshape(batch, 2 * height, 2 * width, channels)
