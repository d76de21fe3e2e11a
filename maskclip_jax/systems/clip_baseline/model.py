"""The CLIP baseline of the MaskCLIP paper: crop every proposal, classify the crop.

Not released with the paper, so every choice it leaves open is a field of the config
[masqclip 4.9]. Nothing is trained; CLIP sees one crop per mask, which makes this
by far the slowest of the systems.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import CLIP, PIXEL_MEAN, CLIPConfig, normalize_pixels
from maskclip_jax.ops.resize import antialiased_matrix, resize
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, Outputs, RegionVectors, TextBank
from maskclip_jax.systems.mask2former.model import Mask2Former, Mask2FormerConfig

# Crops that go through CLIP at a time.
CHUNK = 10


@dataclasses.dataclass(frozen=True)
class CLIPBaselineConfig:
  """Sizes and choices of the baseline.

  Attributes:
    proposals: the proposal network.
    clip: the CLIP that classifies the crops.
    fill: what replaces the pixels outside the mask: CLIP's mean colour, black, or
      nothing (the crop keeps its background).
    square: how a box becomes a square: padded with the fill, or squashed.
    box_scale: enlargement of the box about its centre; 1 is the tight box.
  """

  proposals: Mask2FormerConfig
  clip: CLIPConfig
  fill: Literal['mean', 'black', 'none'] = 'mean'
  square: Literal['pad', 'squash'] = 'pad'
  box_scale: float = 1.0

  def __post_init__(self):
    if self.fill not in ('mean', 'black', 'none'):
      raise ValueError(f"fill must be 'mean', 'black' or 'none', not {self.fill!r}")
    if self.square not in ('pad', 'squash'):
      raise ValueError(f"square must be 'pad' or 'squash', not {self.square!r}")
    if not self.box_scale >= 1:
      raise ValueError(f'box_scale must be 1 or more, not {self.box_scale}')


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


class CLIPBaseline(nnx.Module):
  """Proposals and an unmodified CLIP."""

  def __init__(self, config: CLIPBaselineConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    self.proposals = Mask2Former(config.proposals, dtype=dtype, rngs=rngs)
    self.clip = CLIP(config.clip, dtype=dtype, rngs=rngs)
    self.config = config

  def crop(
    self,
    pixels: Float[Array, 'h w 3'],
    image_hw: Int[Array, '2'],
    mask: Bool[Array, 'h w'],
  ) -> Float[Array, 'r r 3']:
    """The masked box of a photo as CLIP's normalised square."""
    config, (height, width) = self.config, pixels.shape[:2]
    y0, y1 = _span(mask.any(1))
    x0, x1 = _span(mask.any(0))
    y0, y1 = _enlarge(y0, y1, config.box_scale, image_hw[0])
    x0, x1 = _enlarge(x0, x1, config.box_scale, image_hw[1])
    mean = 255 * jnp.asarray(PIXEL_MEAN, jnp.float32)
    fill = jnp.zeros(3) if config.fill == 'black' else mean
    rows, columns = jnp.arange(height), jnp.arange(width)
    shown = ((rows >= y0) & (rows < y1))[:, None] & (columns >= x0) & (columns < x1)
    if config.fill != 'none':
      shown &= mask
    content = jnp.where(shown[..., None], pixels - fill, 0.0)
    box_h, box_w = y1 - y0, x1 - x0
    if config.square == 'pad':
      side = jnp.maximum(box_h, box_w)
      y0, x0 = y0 - (side - box_h) // 2, x0 - (side - box_w) // 2
      box_h = box_w = side
    size = config.clip.image_size
    vertical = antialiased_matrix(size, height, y0, box_h)
    horizontal = antialiased_matrix(size, width, x0, box_w)
    square = jnp.einsum('ij,jkc->ikc', vertical, content)
    square = jnp.einsum('ijc,kj->ikc', square, horizontal) + fill
    # Pillow's result is uint8: bicubic overshoot is clipped.
    return normalize_pixels(jnp.clip(square, 0, 255))

  def encode_masks(
    self,
    images: Images,
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
  ) -> RegionVectors:
    """CLIP vectors of the crops of arbitrary masks, any number of them."""
    height, width = images.pixels.shape[1:3]

    def photo(inputs):
      pixels, image_hw, hw, masks, mask_hw = inputs
      pixels = pixels.astype(jnp.float32)
      inside = (jnp.arange(height) < image_hw[0])[:, None]
      inside = inside & (jnp.arange(width) < image_hw[1])

      def crop(logits):
        logits = resize(logits, (height, width), in_hw=mask_hw, out_hw=hw)
        mask = (logits > 0) & inside
        return self.crop(pixels, image_hw, mask), ~mask.any()

      def chunk(logits):
        squares, empty = jax.vmap(crop)(logits)
        return self.clip.visual(squares), empty

      queries = masks.shape[0]
      step = min(CHUNK, queries)
      filler = jnp.full((-queries % step, *masks.shape[1:]), -1.0)
      masks = jnp.concatenate([masks, filler]).reshape(-1, step, *masks.shape[1:])
      vectors, empty = jax.lax.map(chunk, masks)
      return vectors.reshape(-1, vectors.shape[-1])[:queries], empty.ravel()[:queries]

    batch = (images.pixels, images.image_hw, images.input_hw, mask_logits, mask_hw)
    vectors, empty = jax.lax.map(photo, batch)
    return RegionVectors(vectors, (), empty)

  def __call__(self, images: Images, text: TextBank) -> Outputs:
    """The proposals' masks; class logits by crops; empty masks get probability 0."""
    found = self.proposals(images)
    encoded = self.encode_masks(images, found.mask_logits, found.mask_hw)
    objectness = 0.0 if found.objectness is None else found.objectness
    return dataclasses.replace(
      found,
      class_logits=regions.class_similarity(encoded.vectors, text),
      objectness=jnp.where(encoded.empty, -jnp.inf, objectness),
    )
