"""The augmentations of the four systems: each draws operations for one example.

Sources: [masqclip 7.1, 7.2, 7.3, 7.4], [ovseg 4.4, 5.4], [segclip 3.2, 4.2]. A mapper
is a frozen dataclass with `draw(rng, example)`, which returns a tuple of operations;
random numbers come from the example's own generator. `operations` builds the same tuple
from given numbers, to replay recorded draws. `named` lists the settings that were
published.
"""

import dataclasses
import math
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Int

from maskclip_jax.data.examples import Example
from maskclip_jax.data.transforms.colour import ColourJitter
from maskclip_jax.data.transforms.geometric import (
  Crop,
  Flip,
  Interpolation,
  NearestRule,
  Operation,
  Pad,
  Resize,
  Window,
  resize_labels,
)
from maskclip_jax.names import look_up
from maskclip_jax.resizing import Size, shortest_edge

Operations = tuple[Operation, ...]
Profile = Literal['released', 'paper']


class Mapper(Protocol):
  """Draws the operations that turn an example into one of the network's size."""

  @property
  def canvas(self) -> Size:
    """Height and width of every result."""

  def draw(self, rng: np.random.Generator, example: Example) -> Operations:
    """Draws operations for an example, using nothing random but `rng`."""


@dataclasses.dataclass(frozen=True)
class LargeScaleJitter:
  """Flip, resize by a random factor, crop and pad to a fixed size [masqclip 7.1].

  Attributes:
    canvas: height and width of the result.
    scale: range of the factor; 1 makes the photo just fit.
    flip: probability of mirroring.
    rule: nearest-neighbour rule of label maps.
    pad_value: colour that the photo is padded with.
  """

  canvas: Size = (1024, 1024)
  scale: tuple[float, float] = (0.1, 2.0)
  flip: float = 0.5
  rule: NearestRule = 'pillow'
  pad_value: int = 128

  def draw(self, rng: np.random.Generator, example: Example) -> Operations:
    flip, scale, position = rng.random(3)
    low, high = self.scale
    return self.operations(
      example.size,
      flip=flip < self.flip,
      scale=low + (high - low) * scale,
      position=position,
    )

  def operations(
    self, size: Size, *, flip: bool, scale: float, position: float
  ) -> Operations:
    """The operations of given draws.

    Args:
      size: the size of the photo.
      flip: whether to mirror.
      scale: the factor.
      position: where the crop lies, 0..1, one number for both axes.
    """
    factor = min(
      self.canvas[0] * scale / size[0],
      self.canvas[1] * scale / size[1],
    )
    resized = tuple(max(round(side * factor), 1) for side in size)
    spare = [max(r - c, 0) for r, c in zip(resized, self.canvas, strict=True)]
    kept = [min(r, c) for r, c in zip(resized, self.canvas, strict=True)]
    window = Window(*(round(extra * position) for extra in spare), *kept)
    resize = Resize(size, resized, window, rule=self.rule)
    mirror = (Flip(size[1]),) if flip else ()
    return (*mirror, resize, Pad(self.canvas, self.pad_value))


@dataclasses.dataclass(frozen=True)
class FlipAndSquash:
  """Flip, then resize to a fixed size whatever the aspect ratio [masqclip 7.2].

  What the released code does where its configuration says large-scale jitter.
  """

  canvas: Size = (1024, 1024)
  flip: float = 0.5
  rule: NearestRule = 'pillow'

  def draw(self, rng: np.random.Generator, example: Example) -> Operations:
    return self.operations(example.size, flip=rng.random() < self.flip)

  def operations(self, size: Size, *, flip: bool) -> Operations:
    """The operations of a given draw for a photo of `size`."""
    mirror = (Flip(size[1]),) if flip else ()
    return (*mirror, Resize(size, self.canvas, rule=self.rule))


@dataclasses.dataclass(frozen=True)
class ResizeCropColour:
  """Mask2Former's ADE20K mapper, and OVSeg's [masqclip 7.3], [ovseg 4.4].

  Random short edge, random crop, colour jitter, flip, pad.

  Attributes:
    canvas: height and width of the crop and of the result.
    short_edges: choices of the short side.
    longest: bound of the long side.
    max_category_area: largest share of a crop one category may have; the crop is
      drawn up to ten times. 1 accepts the first.
    colour: whether to jitter colours.
    flip: probability of mirroring.
    rule: nearest-neighbour rule of label maps: 'torch' in the semantic mappers.
    pad_value: colour that the photo is padded with.
  """

  canvas: Size
  short_edges: tuple[int, ...]
  longest: int
  max_category_area: float = 1.0
  colour: bool = True
  flip: float = 0.5
  rule: NearestRule = 'pillow'
  pad_value: int = 128

  _ATTEMPTS = 10

  def draw(self, rng: np.random.Generator, example: Example) -> Operations:
    short = int(rng.choice(self.short_edges))
    resized = shortest_edge(example.size, short, self.longest)
    window = self._draw_window(rng, example, resized)
    jitter = ColourJitter.draw(rng) if self.colour else None
    return self.operations(
      example.size,
      short=short,
      window=window,
      jitter=jitter,
      flip=rng.random() < self.flip,
    )

  def operations(
    self,
    size: Size,
    *,
    short: int,
    window: Window,
    jitter: ColourJitter | None,
    flip: bool,
  ) -> Operations:
    """The operations of given draws; `window` is relative to the resized photo."""
    resized = shortest_edge(size, short, self.longest)
    return (
      Resize(size, resized, window, rule=self.rule),
      *((jitter,) if jitter else ()),
      *((Flip(window.width),) if flip else ()),
      Pad(self.canvas, self.pad_value),
    )

  def _draw_window(
    self, rng: np.random.Generator, example: Example, resized: Size
  ) -> Window:
    height, width = (min(c, r) for c, r in zip(self.canvas, resized, strict=True))
    labels = None
    if self.max_category_area < 1:
      labels = resize_labels(example.categories(), resized, rule=self.rule)
    for _ in range(self._ATTEMPTS):
      top = int(rng.integers(resized[0] - height, endpoint=True))
      left = int(rng.integers(resized[1] - width, endpoint=True))
      window = Window(top, left, height, width)
      if labels is None or self._is_mixed(labels[window.rows, window.columns]):
        break
    return window

  def _is_mixed(self, labels: Int[np.ndarray, 'h w']) -> bool:
    counts = np.bincount(labels.reshape(-1) + 1)[1:]
    counts = counts[counts > 0]
    return len(counts) > 1 and counts.max() < counts.sum() * self.max_category_area


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """A crop of random area and aspect ratio, resized: image and caption training.

  As in torchvision: ten attempts, then the largest central crop within the ratios.

  Attributes:
    canvas: height and width of the result.
    area: range of the share of the photo's area.
    ratio: range of width / height, drawn uniformly in its logarithm.
    flip: chance that left and right are exchanged.
    method: interpolation of the photo.
    rule: nearest-neighbour rule of label maps (superpixels).
  """

  canvas: Size = (224, 224)
  area: tuple[float, float] = (0.5, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: float = 0.0
  method: Interpolation = 'bicubic'
  rule: NearestRule = 'torch'

  _ATTEMPTS = 10

  def draw(self, rng: np.random.Generator, example: Example) -> Operations:
    window = self._draw_window(rng, *example.size)
    return self.operations(window, flip=rng.random() < self.flip)

  def operations(self, window: Window, *, flip: bool = False) -> Operations:
    """The operations of a given draw."""
    size = (window.height, window.width)
    resize = Resize(size, self.canvas, method=self.method, rule=self.rule)
    mirror = (Flip(self.canvas[1]),) if flip else ()
    return (Crop(window), resize, *mirror)

  def _draw_window(self, rng: np.random.Generator, height: int, width: int) -> Window:
    for _ in range(self._ATTEMPTS):
      area = height * width * rng.uniform(*self.area)
      ratio = math.exp(rng.uniform(*(math.log(r) for r in self.ratio)))
      w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
      if 0 < w <= width and 0 < h <= height:
        top = int(rng.integers(height - h, endpoint=True))
        left = int(rng.integers(width - w, endpoint=True))
        return Window(top, left, h, w)
    h, w = height, width
    if width / height < self.ratio[0]:
      h = round(width / self.ratio[0])
    elif width / height > self.ratio[1]:
      w = round(height * self.ratio[1])
    return Window((height - h) // 2, (width - w) // 2, h, w)


def _tenths(base: int) -> tuple[int, ...]:
  return tuple(base * tenth // 10 for tenth in range(5, 21))


def named(name: str, profile: Profile = 'released') -> Mapper:
  """The training mapper of a published configuration.

  Args:
    name: 'coco_panoptic' (MaskCLIP, MasQCLIP), 'coco_instance' (MasQCLIP base-novel),
      'ade20k_panoptic' and 'ade20k_semantic' (Mask2Former), 'ovseg_swin_b' and
      'ovseg_r101c' (COCO-Stuff), 'segclip' (captions), 'ovseg_clip' (masked regions);
      and 'miniature' and 'miniature_clip' (scenes and pairs of the generated world).
    profile: what the released code does, or what the paper says.

  Raises:
    ValueError: an unknown name or profile.
  """
  if profile not in ('released', 'paper'):
    raise ValueError(f"no profile '{profile}': use 'released' or 'paper'")
  coco = FlipAndSquash() if profile == 'released' else LargeScaleJitter()
  # The R101c file leaves the short edges to detectron2's default; the paper follows
  # MaskFormer.
  r101c = ((800,), 1333) if profile == 'released' else (_tenths(512), 2048)
  mappers = {
    'coco_panoptic': coco,
    'coco_instance': LargeScaleJitter(),
    'ade20k_panoptic': ResizeCropColour((640, 640), _tenths(640), 2560),
    'ade20k_semantic': ResizeCropColour((512, 512), _tenths(512), 2048, rule='torch'),
    'ovseg_swin_b': ResizeCropColour(
      (640, 640), tuple(range(320, 1281, 64)), 2560, rule='torch'
    ),
    'ovseg_r101c': ResizeCropColour((512, 512), *r101c, rule='torch'),
    'segclip': RandomResizedCrop(),
    'ovseg_clip': RandomResizedCrop(area=(0.9, 1.0)),
    # Crops of 60 to 100 % keep even small things recognisable.
    'miniature': LargeScaleJitter((128, 128), scale=(1.0, 1.5)),
    # No caption says where things are.
    'miniature_clip': RandomResizedCrop(area=(0.85, 1.0), flip=0.5),
  }
  return look_up('mapper', name, mappers)
