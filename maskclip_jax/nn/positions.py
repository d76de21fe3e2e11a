"""Sine position encodings of feature maps ([masqclip 2.5]; DETR, appendix A.4)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from maskclip_jax.nn.canvas import ValidHW

_TEMPERATURE = 10000.0


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
  """Encodes rows in the first half of the channels, columns in the second.

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
  full = (len(sizes), *shape, width // 2)
  parts = (jnp.broadcast_to(rows, full), jnp.broadcast_to(columns, full))
  return jnp.concatenate(parts, axis=-1)
