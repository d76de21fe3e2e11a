"""Multi-scale deformable attention (Deformable DETR, section 4.1; [masqclip 2.3]).

Each query looks at a few points around its own place, on every level of the pyramid,
and predicts where they are and how much they count.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax.nn.layers import check_heads, target_platform
from maskclip_jax.ops.deformable import AUTO, sample_pyramid

Shapes = Sequence[tuple[int, int]]

_xavier = nnx.initializers.xavier_uniform()
_zeros = nnx.initializers.zeros


def ring_of_offsets(heads: int, levels: int, points: int) -> Float[np.ndarray, ' n']:
  """Initial offsets: head k looks towards angle 2 pi k / heads, point m at m + 1."""
  angle = 2 * np.pi * np.arange(heads) / heads
  direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  direction /= np.abs(direction).max(-1, keepdims=True)
  reach = np.arange(1, points + 1)[:, None]
  offsets = direction[:, None, None] * reach
  return np.broadcast_to(offsets, (heads, levels, points, 2)).reshape(-1)


def own_places(shapes: Shapes) -> Float[Array, 'q l 2']:
  """Where each position of a pyramid lies on each level, (x, y) in pixels.

  Levels differ by powers of two, also in the part of them that is real, so the places
  do not depend on how much of the canvas is filled.
  """

  def places(own: tuple[int, int], other: tuple[int, int]) -> Float[Array, 'n 2']:
    y, x = (
      (jnp.arange(own[i], dtype=jnp.float32) + 0.5) * (other[i] / own[i]) - 0.5
      for i in (0, 1)
    )
    return jnp.stack(jnp.meshgrid(x, y), axis=-1).reshape(-1, 2)

  rows = [jnp.stack([places(own, other) for other in shapes], 1) for own in shapes]
  return jnp.concatenate(rows)


def _of_every_point(
  places: Float[Array, 'q l 2'], heads: int, points: int
) -> Float[Array, 'q n']:
  """Places in the order of the offsets, n = heads x levels x points x 2.

  They are told apart by comparisons, which a TPU fuses with the sum: it would write a
  broadcast over inner axes to memory, tile by tile of two numbers.
  """
  levels = places.shape[1]
  kinds = np.arange(levels)[:, None, None] * 2 + np.arange(2)
  kinds = np.broadcast_to(kinds, (heads, levels, points, 2)).reshape(-1)
  found = places[:, 0, :1]
  for kind in range(1, 2 * levels):
    place = places[:, kind // 2, kind % 2, None]
    found = jnp.where(kinds == kind, place, found)
  return found


class DeformableAttention(nnx.Module):
  """Self-attention of a pyramid's positions at learned sampling points.

  Args:
    width: channels.
    heads: attention heads; each samples its own channels.
    levels: levels of the pyramid.
    points: points per head and level.
    dtype: compute type of the projections; where to look, the weights and the sums of
      samples are float32.
  """

  def __init__(
    self,
    width: int = 256,
    heads: int = 8,
    levels: int = 3,
    points: int = 4,
    *,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    check_heads('width', width, heads)
    self.shape = (heads, levels, points)
    samples = heads * levels * points
    ring = ring_of_offsets(heads, levels, points)
    self.sampling_offsets = nnx.Linear(
      width,
      2 * samples,
      kernel_init=_zeros,
      bias_init=lambda key, shape, dtype: jnp.asarray(ring, dtype).reshape(shape),
      rngs=rngs,
    )
    self.attention_weights = nnx.Linear(
      width, samples, kernel_init=_zeros, bias_init=_zeros, rngs=rngs
    )
    self.value_proj = nnx.Linear(
      width, width, kernel_init=_xavier, dtype=dtype, rngs=rngs
    )
    self.output_proj = nnx.Linear(
      width, width, kernel_init=_xavier, dtype=dtype, rngs=rngs
    )

  def __call__(
    self,
    query: Float[Array, 'b q c'],
    value: Float[Array, 'b q c'],
    shapes: Shapes,
    real_hw: Int[Array, 'b l 2'] | None = None,
    sampling: str = AUTO,
  ) -> Float[Array, 'b q c']:
    """Attends from every position of the pyramid to the pyramid.

    Args:
      query: features with their position encoding, level after level.
      value: features.
      shapes: (height, width) of each level.
      real_hw: the real part of each level, if it is not all of it.
      sampling: a form of `sample_pyramid`; 'auto' suits the platform.
    """
    heads, levels, points = self.shape
    lead = query.shape[:2]
    query = query.astype(jnp.float32)
    offsets = self.sampling_offsets(query)
    weights = self.attention_weights(query).reshape(*lead, heads, levels * points)
    weights = jax.nn.softmax(weights, axis=-1).reshape(*lead, *self.shape)
    places = own_places(shapes)
    if target_platform() == 'tpu':
      places = _of_every_point(places, heads, points)
      coordinates = (places + offsets).reshape(*weights.shape, 2)
    else:
      offsets = offsets.reshape(*weights.shape, 2)
      coordinates = places[:, None, :, None] + offsets
    values = self.value_proj(value).reshape(*lead, heads, -1)
    sums = sample_pyramid(values, shapes, coordinates, weights, real_hw, form=sampling)
    return self.output_proj(sums.reshape(*lead, -1))
