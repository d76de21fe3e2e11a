"""Swin Transformers of four sizes (Liu et al., ICCV 2021) [ovseg 1.2].

Blocks attend inside square windows; every second one shifts the windows by half their
side. The official code rolls the map for that and masks what wrapped around. Here the
windows of a shifted block begin half a window before the map instead, and what lies
beyond either end is masked: the same sums, whatever part of a canvas is real.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax import plain
from maskclip_jax.nn.dropout import Drops, drop_branch
from maskclip_jax.nn.layers import (
  LayerNorm,
  MultiHeadAttention,
  ValidHW,
  attend,
  check_heads,
  exact_gelu,
  in_turn,
  recompute,
)

_PATCH = 4
_MLP_RATIO = 4
_truncated = nnx.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class SwinConfig:
  """Sizes of a Swin Transformer.

  Attributes:
    width: channels of the first stage; each later one doubles them.
    depths: blocks of the four stages.
    heads: attention heads of the four stages.
    window: side of a window, in tokens.

  Raises:
    ValueError: not four stages, or a width that its heads do not divide.
  """

  width: int = 128
  depths: tuple[int, ...] = (2, 2, 18, 2)
  heads: tuple[int, ...] = (4, 8, 16, 32)
  window: int = 12

  def __post_init__(self):
    if len(self.depths) != 4 or len(self.heads) != 4:
      raise ValueError(
        f'a Swin has four stages, not depths {self.depths} and heads {self.heads}'
      )
    plain.at_least(self, 1, 'width', 'depths', 'heads', 'window')
    for (name, channels), heads in zip(self.channels.items(), self.heads, strict=True):
      check_heads(name, channels, heads)

  @property
  def channels(self) -> dict[str, int]:
    """Channels of each feature map."""
    return {f'res{i + 2}': self.width * 2**i for i in range(4)}


# The published sizes; B and L as they come with a window for 384 pixels, T and S with
# the one for 224.
SWIN_SIZES = {
  'swin_t': SwinConfig(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
  'swin_s': SwinConfig(96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
  'swin_b': SwinConfig(),
  'swin_l': SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


@functools.cache
def relative_index(window: int) -> Int[np.ndarray, 't t']:
  """Row of the bias table for each pair of tokens of a window: by how far the first
  lies below and to the right of the second."""
  places = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing='ij'), -1)
  places = places.reshape(-1, 2)
  apart = places[:, None] - places[None] + window - 1
  return apart[..., 0] * (2 * window - 1) + apart[..., 1]


@dataclasses.dataclass(frozen=True)
class Windows:
  """How a map is cut into windows.

  Attributes:
    shape: (height, width) of the map.
    side: the side of a window.
    before: rows and columns by which the first window begins before the map.
  """

  shape: tuple[int, int]
  side: int
  before: int

  @property
  def counts(self) -> tuple[int, int]:
    """Windows along each axis."""
    return tuple(-(-(length + self.before) // self.side) for length in self.shape)

  def split(self, x: Float[Array, 'b h w *c']) -> Float[Array, 'b n t *c']:
    """The tokens of each window; zero beyond the map."""
    (rows, columns), side = self.counts, self.side
    before = self.before
    after = [
      count * side - before - length
      for count, length in zip(self.counts, self.shape, strict=True)
    ]
    rest = x.shape[3:]
    x = jnp.pad(
      x, ((0, 0), (before, after[0]), (before, after[1]), *((0, 0),) * len(rest))
    )
    x = x.reshape(x.shape[0], rows, side, columns, side, *rest)
    return jnp.swapaxes(x, 2, 3).reshape(x.shape[0], rows * columns, side * side, *rest)

  def join(self, x: Float[Array, 'b n t *c']) -> Float[Array, 'b h w *c']:
    """The inverse of `split`."""
    (rows, columns), side = self.counts, self.side
    rest = x.shape[3:]
    x = x.reshape(x.shape[0], rows, columns, side, side, *rest)
    x = jnp.swapaxes(x, 2, 3).reshape(x.shape[0], rows * side, columns * side, *rest)
    return x[
      :,
      self.before : self.before + self.shape[0],
      self.before : self.before + self.shape[1],
    ]

  def _places(self, axis: int) -> Int[np.ndarray, 'count side']:
    """Row (or column) of the map at each place of the windows along an axis."""
    count = self.counts[axis]
    return np.arange(count * self.side).reshape(count, self.side) - self.before

  def inside(self, hw: ValidHW) -> Bool[Array, '#b n t']:
    """Places that lie on the real part of the map."""
    hw = np.array([self.shape]) if hw is None else hw
    at = [self._places(axis) for axis in (0, 1)]
    rows, columns = (
      (at[axis] >= 0) & (at[axis] < hw[:, axis, None, None]) for axis in (0, 1)
    )
    both = rows[:, :, None, :, None] & columns[:, None, :, None, :]
    return both.reshape(both.shape[0], -1, self.side**2)

  def seen(self, hw: ValidHW) -> Bool[Array, '#b n t']:
    """Places that a window's tokens look at: the real part of the map, and what it is
    padded with to be a multiple of windows, as in the official code."""
    hw = np.array([self.shape]) if hw is None else hw
    return self.inside(-(-hw // self.side) * self.side)


class WindowAttention(MultiHeadAttention):
  """Attention among the tokens of a window, with a learned bias for their relative
  places."""

  def __init__(
    self, width: int, heads: int, window: int, *, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    init = {'kernel_init': _truncated, 'out_init': _truncated}
    super().__init__(width, heads, **init, dtype=dtype, rngs=rngs)
    self.relative_position_bias_table = nnx.Param(
      _truncated(rngs.params(), ((2 * window - 1) ** 2, heads), jnp.float32)
    )
    self.window = window

  def __call__(
    self, x: Float[Array, 'b h w c'], hw: ValidHW = None, *, shifted: bool
  ) -> Float[Array, 'b h w c']:
    """Attends; beyond the real part the result means nothing.

    Args:
      x: normalised tokens.
      hw: the real part of each map, or None if all is real.
      shifted: whether windows are shifted by half their side.
    """
    # The official roll by half a window, rounded down, leaves the rest in the first.
    before = self.window - self.window // 2 if shifted else 0
    windows = Windows(x.shape[1:3], self.window, before)
    q = windows.split(self.query(x) * self.scale)
    k, v = windows.split(self.key(x)), windows.split(self.value(x))
    inside = windows.inside(hw)
    if hw is not None or not inside.all():
      # Padding is zero before the projections, and it is not masked [ovseg 1.2].
      here = inside[..., None, None]
      k = jnp.where(here, k, self.key.bias[...].astype(k.dtype))
      v = jnp.where(here, v, self.value.bias[...].astype(v.dtype))
    mask = windows.seen(hw)[:, :, None, None] if shifted else None
    table = self.relative_position_bias_table[...]
    bias = jnp.moveaxis(table[relative_index(self.window)], -1, 0)
    y = attend(q, k, v, mask, adjust=lambda scores: scores + bias)
    return self.out(windows.join(y))


class FeedForward(nnx.Module):
  """Two linear layers with an exact GELU between."""

  def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
    hidden = _MLP_RATIO * width
    common = {'kernel_init': _truncated, 'dtype': dtype, 'rngs': rngs}
    self.fc1 = nnx.Linear(width, hidden, **common)
    self.fc2 = nnx.Linear(hidden, width, **common)

  def __call__(self, x: Float[Array, '*b c']) -> Float[Array, '*b c']:
    return self.fc2(exact_gelu(self.fc1(x)))


class Block(nnx.Module):
  """Window attention and an MLP, each normalised before and added."""

  def __init__(
    self, width: int, heads: int, window: int, *, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    self.norm1 = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.attn = WindowAttention(width, heads, window, dtype=dtype, rngs=rngs)
    self.norm2 = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.mlp = FeedForward(width, dtype=dtype, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    hw: ValidHW = None,
    *,
    shifted: bool = False,
    drops: Drops | None = None,
  ) -> Float[Array, 'b h w c']:
    x = x + drop_branch(self.attn(self.norm1(x), hw, shifted=shifted), drops, 0)
    return x + drop_branch(self.mlp(self.norm2(x)), drops, 1)


class PatchMerging(nnx.Module):
  """Four neighbours become one token of twice the channels."""

  def __init__(self, width: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.norm = LayerNorm(4 * width, dtype=dtype, rngs=rngs)
    self.reduction = nnx.Linear(
      4 * width,
      2 * width,
      use_bias=False,
      kernel_init=_truncated,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h/2 w/2 2c']:
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return self.reduction(self.norm(jnp.concatenate(parts, axis=-1)))


class PatchEmbed(nnx.Module):
  """Tokens of 4 x 4 pixels, normalised."""

  def __init__(self, width: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.proj = nnx.Conv(
      3,
      width,
      (_PATCH, _PATCH),
      strides=_PATCH,
      padding='VALID',
      dtype=dtype,
      rngs=rngs,
    )
    self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)

  def __call__(self, pixels: Float[Array, 'b h w 3']) -> Float[Array, 'b h/4 w/4 c']:
    _, height, width, _ = pixels.shape
    pixels = jnp.pad(
      pixels, ((0, 0), (0, -height % _PATCH), (0, -width % _PATCH), (0, 0))
    )
    return self.norm(self.proj(pixels))


class Swin(nnx.Module):
  """The four feature maps of a Swin Transformer.

  Args:
    config: sizes.
    remat: recompute each block in the backward pass instead of storing it.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    config: SwinConfig,
    *,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    self.patch_embed = PatchEmbed(config.width, dtype=dtype, rngs=rngs)

    def stage(index: int) -> nnx.List:
      sizes = channels[index], config.heads[index], config.window
      return nnx.List(
        [Block(*sizes, dtype=dtype, rngs=rngs) for _ in range(config.depths[index])]
      )

    channels = list(config.channels.values())
    self.res2, self.res3, self.res4, self.res5 = (stage(i) for i in range(4))
    # From one stage to the next, and what leaves the network.
    self.merge2, self.merge3, self.merge4 = (
      PatchMerging(width, dtype=dtype, rngs=rngs) for width in channels[:3]
    )
    self.norm2, self.norm3, self.norm4, self.norm5 = (
      LayerNorm(width, dtype=dtype, rngs=rngs) for width in channels
    )
    self.remat = remat

  def _stage(
    self,
    level: int,
    x: Float[Array, 'b h w c'],
    hw: ValidHW,
    drops: Drops | None,
  ) -> Float[Array, 'b h w c']:
    """The blocks of one resolution, plain and shifted ones in pairs."""
    blocks = list(getattr(self, f'res{level}'))
    pairs = [tuple(blocks[i : i + 2]) for i in range(0, len(blocks), 2)]
    depths = [len(getattr(self, f'res{n}')) for n in (2, 3, 4, 5)]

    def run(pair: Sequence[Block], carry: tuple[jax.Array, jax.Array]):
      x, number = carry
      for block, shifted in zip(pair, (False, True), strict=False):
        own = None if drops is None else drops.block(number, sum(depths))
        block = functools.partial(block, hw=hw, shifted=shifted, drops=own)
        x, number = recompute(block, self.remat)(x), number + 1
      return (x, number), None

    first = jnp.int32(sum(depths[: level - 2]))
    return in_turn(run, pairs, (x, first))[0][0]

  def __call__(
    self,
    pixels: Float[Array, 'b h w 3'],
    hw: ValidHW = None,
    *,
    drops: Drops | None = None,
  ) -> dict[str, Float[Array, 'b h2 w2 c']]:
    """Computes the features at strides 4, 8, 16 and 32.

    Args:
      pixels: normalised RGB, zero beyond the photo. Maps of an odd size are padded by
        one before they are merged.
      hw: the padded size of each photo, a multiple of 32, or None if all is real.
      drops: which branches are left out, in training.

    Returns:
      'res2' to 'res5'; beyond the real part they hold numbers without meaning.
    """
    x = self.patch_embed(pixels)
    hw = None if hw is None else hw // _PATCH
    features = {}
    for level in (2, 3, 4, 5):
      x = self._stage(level, x, hw, drops)
      features[f'res{level}'] = getattr(self, f'norm{level}')(x)
      if level < 5:
        x = getattr(self, f'merge{level}')(x)
        hw = None if hw is None else hw // 2
    return features
