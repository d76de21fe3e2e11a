"""Superpixels: what of a photo belongs together by colour alone [segclip 2.2].

Computed once, when a dataset is built, and stored as a label map (`records.py`: PNG, so
without loss). In training they are cropped and resized with the photo, and every patch
of the tower gets one number.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8

from maskclip_jax.data.transforms.geometric import Window, resize_labels

PatchRule = Literal['mean', 'most']


@dataclasses.dataclass(frozen=True)
class SuperpixelRule:
  """How a photo is cut (Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image
  Segmentation", IJCV 2004).

  Attributes:
    scale: larger values make larger superpixels.
    sigma: width of the Gaussian blur before, in pixels.
    min_size: superpixels of fewer pixels join a neighbour.
  """

  scale: float = 224
  sigma: float = 0.9
  min_size: int = 224


def find_superpixels(
  photo: UInt8[np.ndarray, 'h w 3'], rule: SuperpixelRule | None = None
) -> Int32[np.ndarray, 'h w']:
  """The superpixel of every pixel, numbered from 0 by scikit-image.

  Args:
    photo: RGB, at the size it is stored in.
    rule: the published one by default.

  Raises:
    ValueError: scikit-image is not installed.
  """
  try:
    from skimage.segmentation import felzenszwalb
  except ImportError as error:
    raise ValueError(
      'superpixels need scikit-image: pip install maskclip_jax[superpixels]'
    ) from error
  rule = rule or SuperpixelRule()
  found = felzenszwalb(
    photo, scale=rule.scale, sigma=rule.sigma, min_size=rule.min_size
  )
  return found.astype(np.int32)


def patch_superpixels(
  superpixels: Int32[np.ndarray, 'h w'],
  crop: Window,
  side: int,
  patch: int,
  rule: PatchRule = 'mean',
) -> Int32[np.ndarray, ' n']:
  """The superpixel of every patch of a square cut out of a photo.

  Args:
    superpixels: the superpixels of the whole photo.
    crop: the part of the photo that the square shows.
    side: the side of the square, in pixels, a multiple of `patch`.
    patch: side of a patch, in pixels.
    rule: 'mean' is the mean of the numbers in a patch, cut to an integer, as released:
      a patch on the border of superpixels 3 and 41 may be counted with superpixel 22.
      'most' is the superpixel with most pixels, the first of equals.

  Returns:
    One number per patch, row by row.

  Raises:
    ValueError: the crop is not part of the map, or the side not a multiple.
  """
  height, width = superpixels.shape
  inside = crop.top + crop.height <= height and crop.left + crop.width <= width
  if not inside or min(crop) < 0 or 0 in crop[2:]:
    raise ValueError(
      f'{crop} is not part of superpixels of {height} x {width}: are they of another '
      'photo, or of another size of it?'
    )
  if side % patch:
    raise ValueError(f'a side of {side} is not a multiple of patches of {patch}')
  square = resize_labels(
    superpixels[crop.rows, crop.columns], (side, side), rule='torch'
  )
  grid = side // patch
  patches = square.reshape(grid, patch, grid, patch).swapaxes(1, 2)
  patches = patches.reshape(grid**2, patch**2)
  if rule == 'mean':
    return patches.mean(1).astype(np.int32)
  if rule == 'most':
    return np.array([np.bincount(one).argmax() for one in patches], np.int32)
  raise ValueError(f"rule must be 'mean' or 'most', not {rule!r}")
