"""How a scene is lit, coloured and photographed.

Strength 0 is the style of the training scenes, 1 that of the shifted ones: other light,
flat or outlined things, paler colours, coarser or finer grounds, blur and noise. What
things are called stays true at any strength.
"""

import dataclasses
import math

import numpy as np

Triple = tuple[float, float, float]

# Warm, cold, dusk and greenish light.
_TINTS = ((1.07, 1.0, 0.86), (0.88, 0.98, 1.08), (1.04, 0.93, 1.02), (0.97, 1.04, 0.92))


@dataclasses.dataclass(frozen=True)
class Style:
  """One rendering style.

  Attributes:
    light: direction towards the light, radians.
    tint: factors on red, green and blue.
    saturation: 0 is grey, 1 leaves colours as they are.
    slope: how much darker the far side of the picture is, as a share.
    blur: standard deviation in 1/256 of the scene.
    noise: standard deviation in grey levels.
    outline: width of the dark line around things in 1/256 of the scene, or 0.
    texture: factor on the scale of the grounds.
    relief: how round things look; 0 is flat.
    shadow: darkness of shadows.
  """

  light: float
  tint: Triple
  saturation: float
  slope: float
  blur: float
  noise: float
  outline: float
  texture: float
  relief: float
  shadow: float


def draw_style(rng: np.random.Generator, strength: float) -> Style:
  """Chooses a style.

  Args:
    rng: where chance comes from.
    strength: 0 (plain) to 1 (shifted).
  """

  def mix(plain: tuple[float, float], shifted: tuple[float, float]) -> float:
    return (1 - strength) * rng.uniform(*plain) + strength * rng.uniform(*shifted)

  strange = np.array(_TINTS[rng.integers(len(_TINTS))])
  usual = rng.uniform(0.96, 1.04, 3)
  gain = mix((0.92, 1.06), (0.62, 0.95))
  coarse = (0.6, 1.6)[rng.integers(2)]
  outlined = rng.random() < 0.7 * strength
  return Style(
    light=rng.uniform(0, 2 * math.pi),
    tint=tuple((gain * usual * strange**strength).tolist()),
    saturation=mix((0.97, 1.05), (0.68, 0.9)),
    slope=mix((0.0, 0.12), (0.2, 0.5)),
    blur=mix((0.0, 0.2), (0.4, 1.1)),
    noise=mix((1.5, 3.5), (6.0, 12.0)),
    outline=rng.uniform(2.0, 3.5) if outlined else 0.0,
    texture=rng.uniform(0.9, 1.12) * coarse**strength,
    relief=mix((0.8, 1.2), (0.0, 0.4)),
    shadow=mix((0.3, 0.45), (0.0, 0.6)),
  )
