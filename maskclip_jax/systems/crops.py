"""Masked crops of photos, as CLIP is shown them by the baseline and by OVSeg.

The two differ in how a box becomes a square and by which kernel it is resized, which a
`CropRule` says; everything else is the same [masqclip 4.9], [ovseg 2.4].
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import CLIP, PhotoInput, normalize_pixels
from maskclip_jax.ops.resize import crop_matrix, resize, resize_taps
from maskclip_jax.systems.contract import Images, RegionVectors
from maskclip_jax.systems.regions import patches_of

# Crops that go through CLIP at a time.
CHUNK = 10


@dataclasses.dataclass(frozen=True)
class CropRule:
  """How a mask of a photo becomes a square.

  Attributes:
    fill: what replaces the pixels outside the mask: CLIP's mean colour, black, or
      nothing (the crop keeps its background).
    square: how a box becomes a square: padded with the fill, or squashed.
    box_scale: enlargement of the box about its centre; 1 is the tight box.
    method: 'bicubic_antialiased' resizes as Pillow does and clips what overshoots;
      'bicubic' as PyTorch does, which clips nothing.

  Raises:
    ValueError: an unknown choice, or a box that would shrink.
  """

  fill: Literal['mean', 'black', 'none'] = 'mean'
  square: Literal['pad', 'squash'] = 'pad'
  box_scale: float = 1.0
  method: Literal['bicubic', 'bicubic_antialiased'] = 'bicubic_antialiased'

  def __post_init__(self):
    if self.fill not in ('mean', 'black', 'none'):
      raise ValueError(f"fill must be 'mean', 'black' or 'none', not {self.fill!r}")
    if self.square not in ('pad', 'squash'):
      raise ValueError(f"square must be 'pad' or 'squash', not {self.square!r}")
    if not self.box_scale >= 1:
      raise ValueError(f'box_scale must be 1 or more, not {self.box_scale}')
    if self.method not in ('bicubic', 'bicubic_antialiased'):
      raise ValueError(
        f"method must be 'bicubic' or 'bicubic_antialiased', not {self.method!r}"
      )


class Crop(NamedTuple):
  """A crop on CLIP's square.

  Attributes:
    pixels: normalised for CLIP.
    mask: which of them the mask covers, by the nearest pixel of the crop.
  """

  pixels: Float[Array, '*b r r 3']
  mask: Bool[Array, '*b r r']


def _span(on: Bool[Array, ' n']) -> tuple[Int[Array, ''], Int[Array, '']]:
  """First and one past the last True; (0, 1) when there is none."""
  first = jnp.argmax(on)
  last = on.shape[0] - jnp.argmax(on[::-1])
  return first, jnp.where(on.any(), last, 1)


def _enlarge(
  start: Int[Array, ''], end: Int[Array, ''], scale: float, limit: Int[Array, '']
) -> tuple[Int[Array, ''], Int[Array, '']]:
  """The span times `scale` about its centre, rounded outwards, within [0, limit)."""
  grow = (scale - 1) / 2 * (end - start)
  low = jnp.floor(start - grow).astype(jnp.int32)
  high = jnp.ceil(end + grow).astype(jnp.int32)
  return jnp.maximum(low, 0), jnp.minimum(high, limit)


def crop(
  pixels: Float[Array, 'h w 3'],
  image_hw: Int[Array, '2'],
  mask: Bool[Array, 'h w'],
  clip: PhotoInput,
  rule: CropRule,
) -> Crop:
  """The masked box of a photo on CLIP's square.

  Args:
    pixels: RGB, 0..255.
    image_hw: the part of the canvas that the photo fills.
    mask: on the same canvas; an empty one gives a crop without meaning.
    clip: the size of its input, and its pixel statistics.
    rule: how the box becomes a square.
  """
  height, width = pixels.shape[:2]
  size = clip.image_size
  y0, y1 = _span(mask.any(1))
  x0, x1 = _span(mask.any(0))
  y0, y1 = _enlarge(y0, y1, rule.box_scale, image_hw[0])
  x0, x1 = _enlarge(x0, x1, rule.box_scale, image_hw[1])
  mean = 255 * jnp.asarray(clip.pixel_mean, jnp.float32)
  fill = jnp.zeros(3) if rule.fill == 'black' else mean
  rows, columns = jnp.arange(height), jnp.arange(width)
  shown = ((rows >= y0) & (rows < y1))[:, None] & (columns >= x0) & (columns < x1)
  if rule.fill != 'none':
    shown &= mask
  # What the mask hides is zero here, as is what a square adds to its box.
  content = jnp.where(shown[..., None], pixels - fill, 0.0)
  box_h, box_w = y1 - y0, x1 - x0
  if rule.square == 'pad':
    side = jnp.maximum(box_h, box_w)
    y0, x0 = y0 - (side - box_h) // 2, x0 - (side - box_w) // 2
    box_h = box_w = side
  vertical = crop_matrix(size, height, y0, box_h, rule.method)
  horizontal = crop_matrix(size, width, x0, box_w, rule.method)
  square = jnp.einsum('ij,jkc->ikc', vertical, content)
  square = jnp.einsum('ijc,kj->ikc', square, horizontal) + fill
  if rule.method == 'bicubic_antialiased':
    # Pillow's result is uint8: bicubic overshoot is clipped.
    square = jnp.clip(square, 0, 255)
  return Crop(
    normalize_pixels(square, clip), _nearest(mask, (y0, x0), (box_h, box_w), size)
  )


def _nearest(
  mask: Bool[Array, 'h w'],
  start: tuple[Int[Array, ''], Int[Array, '']],
  box: tuple[Int[Array, ''], Int[Array, '']],
  size: int,
) -> Bool[Array, 'r r']:
  """A box of a mask on the square by PyTorch's nearest; False beyond the mask."""
  for axis in (0, 1):
    taps, _ = resize_taps(jnp.arange(size), box[axis], size, 'nearest')
    # Negative numbers would count from the end.
    taps = start[axis] + taps[:, 0]
    taps = jnp.where(taps < 0, mask.shape[axis], taps)
    mask = jnp.take(mask, taps, axis, mode='fill', fill_value=False)
  return mask


def crop_vectors(
  clip: CLIP, crops: Crop, prompted: bool | Bool[Array, ''] = True
) -> Float[Array, 'n d']:
  """CLIP's vectors (not normalised) of crops [ovseg 3.3].

  Args:
    clip: with mask prompts or without.
    crops: on its square.
    prompted: False for the plain tower on the same blanked pixels.
  """
  if not getattr(clip.config, 'prompt_depth', 0):
    return clip.visual(crops.pixels)
  # A patch is kept if the mask covers any pixel of it [ovseg 3.2].
  kept = patches_of(crops.mask, clip.config.patch_size).any(-1)
  return clip.visual(crops.pixels, kept | ~jnp.asarray(prompted))


def encode_crops(
  images: Images,
  mask_logits: Float[Array, 'b q h w'],
  mask_hw: Int[Array, 'b 2'],
  encode: Callable[[Crop], Float[Array, 'n d']],
  *,
  clip: PhotoInput,
  rule: CropRule,
  threshold: float | Float[Array, ''] = 0.5,
) -> RegionVectors:
  """Vectors of every mask's crop.

  Masks that cover something go first, a fixed number at a time, and the work ends with
  them: a photo with three such masks costs one round of `CHUNK`.

  Args:
    images: photos on their canvas.
    mask_logits: any number of masks.
    mask_hw: the part of `mask_logits` that covers the padded photo.
    encode: the vectors of some crops.
    clip: the size of its input, and its pixel statistics.
    rule: how boxes become squares.
    threshold: a mask covers the pixels of a probability above it.
  """
  canvas = images.pixels.shape[1:3]
  threshold = jnp.asarray(threshold, jnp.float32)
  least = jnp.log(threshold) - jnp.log1p(-threshold)
  queries = mask_logits.shape[1]
  step, size = min(CHUNK, queries), clip.image_size
  rows = -(-queries // step) * step

  def photo(inputs):
    pixels, image_hw, hw, masks, mask_hw = inputs
    pixels = pixels.astype(jnp.float32)
    inside = (jnp.arange(canvas[0]) < image_hw[0])[:, None]
    inside = inside & (jnp.arange(canvas[1]) < image_hw[1])

    def covered(logits):
      return (resize(logits, canvas, in_hw=mask_hw, out_hw=hw) > least) & inside

    empty = jax.lax.map(lambda logits: ~covered(logits).any(), masks)
    order = jnp.argsort(empty, stable=True)
    # Beyond the last mask the first is repeated, and left out in the end.
    padded = jnp.pad(order, (0, rows - queries))

    def chunk(turn):
      chosen = jax.lax.dynamic_slice_in_dim(padded, turn * step, step)
      crops = jax.vmap(
        lambda logits: crop(pixels, image_hw, covered(logits), clip, rule)
      )(masks[chosen])
      return encode(crops)

    example = Crop(
      jax.ShapeDtypeStruct((step, size, size, 3), jnp.float32),
      jax.ShapeDtypeStruct((step, size, size), jnp.bool),
    )
    width = jax.eval_shape(encode, example).shape[-1]
    turns = -(-(~empty).sum() // step)

    def unless_over(turn):
      # A loop that ends early has no derivative.
      none = jnp.ones((step, width))
      return jax.lax.cond(turn < turns, chunk, lambda turn: none, turn)

    vectors = jax.lax.map(unless_over, jnp.arange(rows // step)).reshape(rows, width)
    vectors = jnp.ones((queries, width)).at[order].set(vectors[:queries])
    return jnp.where(empty[:, None], 1.0, vectors), empty

  batch = (images.pixels, images.image_hw, images.input_hw, mask_logits, mask_hw)
  vectors, empty = jax.lax.map(photo, batch)
  return RegionVectors(vectors, (), empty)
