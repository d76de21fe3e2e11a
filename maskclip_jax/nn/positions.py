"""Vectors of the places of a grid of patches, for another grid."""

import math

import numpy as np
from jaxtyping import Float

from maskclip_jax.ops.resize import resize


def resized_places(
  places: Float[np.ndarray, '*lead n w'], side: int, before: int = 0
) -> Float[np.ndarray, '*lead m w']:
  """Vectors of the places of a square grid, for another one.

  Args:
    places: row by row of the grid; of the same type again.
    side: places along a side of the other grid.
    before: rows that stand before those of the grid and stay.
  """
  first, grid = places[..., :before, :], places[..., before:, :]
  *lead, count, width = grid.shape
  old = math.isqrt(count)
  maps = np.moveaxis(grid.reshape(*lead, old, old, width), -1, -3)
  maps = resize(maps.astype(np.float32), (side, side), 'bicubic_antialiased')
  grid = np.moveaxis(np.asarray(maps), -3, -1).reshape(*lead, side**2, width)
  return np.concatenate([first, grid.astype(places.dtype)], axis=-2)
