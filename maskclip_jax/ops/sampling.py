"""Bilinear sampling at points, with zeros beyond the border.

A point (x, y) in pixels has the centre of the first pixel at (0, 0). In normalised
coordinates the map spans [0, 1], so x pixels = x * width - 0.5 (PyTorch's `grid_sample`
with `align_corners=False`). Corners beyond the real part of a map contribute zero.
Sources: [masqclip 0, 2.3]; Deformable DETR, section 4.1.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def corners(
  points: Float[Array, '*n 2'],
  hw: tuple[Int[Array, '*#n'] | int, Int[Array, '*#n'] | int],
) -> Iterator[tuple[Int[Array, '*n'], Int[Array, '*n'], Float[Array, '*n']]]:
  """Row, column and weight of the four pixels around points given in pixels.

  Rows and columns are clipped to the map; pixels beyond it have weight zero.
  """
  low = jnp.floor(points)
  t = points - low
  column, row = (low[..., i].astype(jnp.int32) for i in (0, 1))
  for dy in (0, 1):
    for dx in (0, 1):
      y, x = row + dy, column + dx
      weight = (t[..., 1] if dy else 1 - t[..., 1]) * (
        t[..., 0] if dx else 1 - t[..., 0]
      )
      real = (y >= 0) & (y < hw[0]) & (x >= 0) & (x < hw[1])
      y, x = jnp.clip(y, 0, hw[0] - 1), jnp.clip(x, 0, hw[1] - 1)
      yield y, x, jnp.where(real, weight, 0.0)


def sample_points(
  maps: Float[Array, '*b h w'],
  points: Float[Array, '*#b p 2'],
  hw: Int[Array, '2 *#b'] | None = None,
) -> Float[Array, '*b p']:
  """Samples maps at normalised points; float32.

  Args:
    maps: any leading axes.
    points: (x, y) in [0, 1]; leading axes are those of `maps` or 1, so that maps may
      share points.
    hw: height and width of the real part, if maps are only partly filled; the points
      are normalised by it.
  """
  height, width = maps.shape[-2:]
  rows, columns = (height, width) if hw is None else (v[..., None] for v in hw)
  size = jnp.stack(jnp.broadcast_arrays(columns, rows), axis=-1).astype(jnp.float32)
  pixels = points.astype(jnp.float32) * size - 0.5
  flat = maps.astype(jnp.float32).reshape(*maps.shape[:-2], height * width)
  total = jnp.zeros((), jnp.float32)
  for row, column, weight in corners(pixels, (rows, columns)):
    total += weight * jnp.take_along_axis(flat, row * width + column, axis=-1)
  return total
