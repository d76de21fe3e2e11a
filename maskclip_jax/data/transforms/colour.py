"""Photometric jitter of SSD (Liu et al., ECCV 2016), as ADE20K training uses it.

Source: [masqclip 7.3]. Every step rounds down to uint8, as the mappers do; contrast,
brightness, saturation and hue are functions of one byte, so each is a look-up table.
"""

import dataclasses

import cv2
import numpy as np

from maskclip_jax.data.transforms.geometric import Image, Operation

BRIGHTNESS = 32.0
SCALE = (0.5, 1.5)
# On OpenCV's scale, where the circle has 180 steps.
HUE = 18
_HUES = 180


def _linear_table(scale: float, offset: float) -> np.ndarray:
  values = np.arange(256, dtype=np.float32) * np.float32(scale) + np.float32(offset)
  return np.clip(values, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ColourJitter(Operation):
  """One draw of the jitter; a field that is None leaves its property alone.

  Attributes:
    brightness: added to all channels.
    contrast: factor of all channels.
    saturation: factor of the saturation.
    hue: added to the hue, modulo 180.
    contrast_first: contrast before saturation and hue, or after them.
  """

  brightness: float | None = None
  contrast: float | None = None
  saturation: float | None = None
  hue: int | None = None
  contrast_first: bool = True

  @classmethod
  def draw(cls, rng: np.random.Generator) -> 'ColourJitter':
    """Draws each property with probability one half."""
    on = rng.random(5) < 0.5
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast, saturation = rng.uniform(*SCALE, size=2)
    hue = rng.integers(-HUE, HUE, endpoint=True)
    return cls(
      float(brightness) if on[0] else None,
      float(contrast) if on[1] else None,
      float(saturation) if on[2] else None,
      int(hue) if on[3] else None,
      bool(on[4]),
    )

  def image(self, image: Image) -> Image:
    """Jitters an RGB photo."""
    if self.brightness is not None:
      image = cv2.LUT(image, _linear_table(1.0, self.brightness))
    if self.contrast_first:
      image = self._contrast(image)
    image = self._hue(self._saturation(image))
    return image if self.contrast_first else self._contrast(image)

  def _contrast(self, image: Image) -> Image:
    if self.contrast is None:
      return image
    return cv2.LUT(image, _linear_table(self.contrast, 0.0))

  def _saturation(self, image: Image) -> Image:
    if self.saturation is None:
      return image
    return _through_hsv(image, 1, _linear_table(self.saturation, 0.0))

  def _hue(self, image: Image) -> Image:
    if self.hue is None:
      return image
    table = ((np.arange(256) + self.hue) % _HUES).astype(np.uint8)
    return _through_hsv(image, 0, table)


def _through_hsv(image: Image, channel: int, table: np.ndarray) -> Image:
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
  hsv[..., channel] = cv2.LUT(np.ascontiguousarray(hsv[..., channel]), table)
  return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
