"""Superpixels: what of a photo belongs together by colour alone [segclip 2.2].

Computed once, when a dataset is built, and stored as a label map (`records.py`: PNG, so
without loss). In training they are cropped and resized with the photo, and every patch
of the tower gets one number.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8

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
  superpixels: Int32[np.ndarray, 'h w'], patch: int, rule: PatchRule = 'mean'
) -> Int32[np.ndarray, ' n']:
  """The superpixel of every patch of a crop that was resized to the network's size.

  Args:
    superpixels: those of the crop, resized by copying (`geometric.resize_labels`).
    patch: side of a patch, in pixels.
    rule: 'mean' is the mean of the numbers in a patch, cut to an integer, as released:
      a patch on the border of superpixels 3 and 41 may be counted with superpixel 22.
      'most' is the superpixel with most pixels, the first of equals.

  Returns:
    One number per patch, row by row.

  Raises:
    ValueError: the sides are not multiples of a patch.
  """
  height, width = superpixels.shape
  if height % patch or width % patch:
    raise ValueError(
      f'superpixels of {height} x {width} pixels are not whole patches of {patch}'
    )
  patches = superpixels.reshape(height // patch, patch, width // patch, patch)
  patches = patches.swapaxes(1, 2).reshape(-1, patch**2)
  if rule == 'mean':
    return patches.mean(1).astype(np.int32)
  if rule == 'most':
    return np.array([np.bincount(one).argmax() for one in patches], np.int32)
  raise ValueError(f"rule must be 'mean' or 'most', not {rule!r}")
