"""A photo of any shape as the patches of a ViT, in reading order [fcclip 9.4].

The photo keeps its proportions, so the grid of its patches is as long or as tall as it
is. Whatever its shape, its patches are as many tokens as the largest grid has: real
ones first, row by row. So one program serves all photos.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import normalize_pixels
from maskclip_jax.nn.eva import EvaCLIPConfig, EvaTower, turns_at
from maskclip_jax.nn.layers import zero_outside
from maskclip_jax.ops.resize import resize, resize_matrix
from maskclip_jax.systems.contract import Images

Resample = Literal['bilinear', 'bicubic', 'bilinear_antialiased', 'bicubic_antialiased']
Shrink = Literal['bilinear', 'area']


@dataclasses.dataclass(frozen=True)
class PatchGrid:
  """The patches of a batch of photos.

  Attributes:
    photo_hw: the photos as the tower sees them, in pixels.
    side: patches along a side of the canvas that holds any of them.
    rows_columns: the grid of each photo's patches.
    places: row and column of every token; of those beyond the last patch anything.
    real: tokens that are patches.
  """

  photo_hw: Int[Array, 'b 2']
  side: int
  rows_columns: Int[Array, 'b 2']
  places: Int[Array, 'b n 2']
  real: Bool[Array, 'b n']

  @classmethod
  def of(cls, images: Images, patch: int, short: int, long: int) -> 'PatchGrid':
    """The patches of photos whose short side is `short` pixels, unless the long side
    would exceed `long`; what a patch has beyond a photo is padding."""
    hw = images.image_hw.astype(jnp.float32)
    scale = jnp.minimum(short / hw.min(-1), long / hw.max(-1))
    photo_hw = jnp.floor(hw * scale[:, None] + 0.5).astype(jnp.int32)
    photo_hw = jnp.maximum(photo_hw, 1)
    rows_columns = -(-photo_hw // patch)
    side = -(-long // patch)
    tokens = jnp.arange(side * -(-short // patch))
    columns = rows_columns[:, 1:]
    places = jnp.stack([tokens // columns, tokens % columns], axis=-1)
    real = tokens < rows_columns.prod(-1, keepdims=True)
    return cls(photo_hw, side, rows_columns, places, real)

  def tokens(self, maps: Float[Array, 'b r c *n']) -> Float[Array, 'b n *n']:
    """What a map on the canvas has at the places of the tokens."""
    batch, side = maps.shape[0], self.side
    index = jnp.minimum(self.places @ jnp.array([side, 1]), side**2 - 1)
    flat = maps.reshape(batch, side**2, *maps.shape[3:])
    return jax.vmap(lambda one, at: one[at])(flat, index)

  def turns(self, channels: int) -> Float[Array, '2 b n c']:
    """How the patches turn, for heads of some channels."""
    return turns_at(self.places, self.rows_columns[:, None], channels)

  def embed(
    self, tower: EvaTower, clip: EvaCLIPConfig, images: Images, resample: Resample
  ) -> Float[Array, 'b n+1 w']:
    """[class, patches] of the photos, with positions.

    The table of positions is stretched to the grid, so that its corners stay corners.

    Args:
      tower: has the first layer and the table.
      clip: the config of its CLIP.
      images: photos on their canvas.
      resample: how they are resized.
    """
    canvas = (self.side * clip.patch_size,) * 2

    def fitted(pixels, image_hw, photo_hw):
      channels = jnp.moveaxis(pixels, -1, 0)
      small = resize(channels, canvas, resample, in_hw=image_hw, out_hw=photo_hw)
      return normalize_pixels(jnp.moveaxis(small, 0, -1), clip)

    pixels = jax.vmap(fitted)(images.pixels, images.image_hw, self.photo_hw)
    # Padding has the mean colour, as in the segmenter [fcclip 3].
    patches = tower.conv1(zero_outside(pixels, self.photo_hw))
    first, *table = jnp.split(tower.positional_embedding[...], [1])
    table = table[0].T.reshape(-1, clip.grid, clip.grid)
    positions = jax.vmap(
      lambda hw: resize(table, (self.side, self.side), 'bicubic_aligned', out_hw=hw)
    )(self.rows_columns)
    patches += jnp.moveaxis(positions, 1, -1).astype(patches.dtype)
    first = (first + tower.class_embedding[...]).astype(patches.dtype)
    first = jnp.broadcast_to(first, (len(patches), *first.shape))
    return jnp.concatenate([first, self.tokens(patches)], axis=1)

  def shares(
    self,
    images: Images,
    masks: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    patch: int,
    shrink: Shrink,
  ) -> Float[Array, 'b q n']:
    """How much of every patch is inside each mask; nothing of what is no patch.

    Args:
      images: photos on their canvas.
      masks: 0 outside, 1 inside.
      mask_hw: the part of `masks` that covers the padded photo.
      patch: side of a patch, in pixels.
      shrink: what is read of a mask: its value in the middle of a patch, or the mean.
    """
    within = 1 if shrink == 'bilinear' else patch
    scale = self.photo_hw / images.image_hw
    # The padded photo in patches, or in pixels: its end may fall between two.
    sizes = images.input_hw * scale * (within / patch)

    def axis(length, in_size, out_size):
      matrix = resize_matrix(
        self.side * within, length, in_size=in_size, out_size=out_size
      )
      return matrix.reshape(self.side, within, length).mean(1)

    def one(masks, hw, sizes):
      rows, columns = (axis(masks.shape[1 + i], hw[i], sizes[i]) for i in (0, 1))
      highest = jax.lax.Precision.HIGHEST
      return jnp.einsum('rh,qhw,cw->rcq', rows, masks, columns, precision=highest)

    maps = jax.vmap(one)(masks, mask_hw, sizes)
    inside = jnp.moveaxis(self.tokens(maps), 1, 2)
    return jnp.where(self.real[:, None], inside, 0.0)
