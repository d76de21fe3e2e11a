"""CLIP's vectors of masks by pooling what its image tower says of every place.

A convolutional tower sees the photo as it is, and its last map is pooled: a ConvNeXt's
by the mean, which the head maps to the joint space [fcclip 6]; a ResNet's by the
attention of the head, within the mask [fcclip 2.5]. A ViT sees the photo squashed to
its square; its patches are mapped to the joint space first.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import CLIP
from maskclip_jax.nn.clip_resnet import ResNetCLIP, ResNetTower
from maskclip_jax.nn.convnext import STAGES, ConvNeXtCLIP, ConvNeXtTower
from maskclip_jax.nn.layers import inside
from maskclip_jax.nn.pooled_decoder import pool_masks
from maskclip_jax.ops.resize import resize
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, RegionVectors


def feature_maps(
  clip: ConvNeXtCLIP | ResNetCLIP, images: Images
) -> dict[str, Float[Array, 'b h w c']]:
  """The maps of a convolutional tower: 'res2' (stride 4) to 'res5' (stride 32)."""
  config = clip.config
  mean, std = (tuple(255 * x for x in v) for v in (config.pixel_mean, config.pixel_std))
  return clip.visual.trunk(images.standardised(mean, std), images.padded_hw)


def covered(
  mask_logits: Float[Array, 'b q h w'],
  mask_hw: Int[Array, 'b 2'],
  padded_hw: Int[Array, 'b 2'],
  shape: tuple[int, int],
  threshold: float | Float[Array, ''] = 0.5,
) -> Bool[Array, 'b q h w']:
  """Which positions of a tower's last map, of a given shape, each mask covers."""
  hw = padded_hw // STAGES['res5']
  small = jax.vmap(lambda m, a, b: resize(m, shape, in_hw=a, out_hw=b))(
    mask_logits, mask_hw, hw
  )
  # The logit of a half is 0.
  above = jnp.log(threshold) - jnp.log1p(-threshold)
  return (small > above) & inside(hw, shape)[:, None]


def pool_map(
  tower: ConvNeXtTower | ResNetTower,
  images: Images,
  dense: Float[Array, 'b h w c'],
  mask_logits: Float[Array, 'b q h w'],
  mask_hw: Int[Array, 'b 2'],
  threshold: float | Float[Array, ''] = 0.5,
) -> RegionVectors:
  """Vectors of masks by the last map of a convolutional tower.

  A mask that covers no position of the map gets the head's vector of zeros.

  Args:
    tower: its head maps to the joint space.
    images: photos on their canvas.
    dense: the tower's last map.
    mask_logits: positive inside a mask.
    mask_hw: the part of `mask_logits` that covers the padded photo.
    threshold: probability above which a position belongs to a mask.
  """
  where = covered(mask_logits, mask_hw, images.input_hw, dense.shape[1:3], threshold)
  if isinstance(tower, ResNetTower):
    hw = images.padded_hw
    hw = None if hw is None else hw // STAGES['res5']
    vectors = tower.head.of_masks(dense, where, hw)
  else:
    vectors = tower.head(pool_masks(dense, where))
  return RegionVectors(vectors, (), ~where.any((-2, -1)))


def pool_patches(
  clip: CLIP,
  images: Images,
  mask_logits: Float[Array, 'b q h w'],
  mask_hw: Int[Array, 'b 2'],
  padding: tuple[float, float, float],
) -> RegionVectors:
  """Vectors of masks by a ViT: the mean over the patches that a mask touches.

  Args:
    clip: has the image tower.
    images: photos on their canvas.
    mask_logits: positive inside a mask.
    mask_hw: the part of `mask_logits` that covers the padded photo.
    padding: RGB (0..255) that the area between a photo and its padded size shows.
  """
  tower, config = clip.visual, clip.config
  pixels = regions.squash_photos(images, config, padding)
  tokens = tower.transformer(tower.ln_pre(tower.embed(pixels)))
  places = tower.project(tokens[:, 1:])[:, None]
  squares = regions.squash_masks(mask_logits, mask_hw, config.image_size)
  touched = regions.patches_of(squares, config.patch_size).max(-1) > 0
  vectors = pool_masks(places, touched[:, :, None])
  empty = ~touched.any(-1)
  # The mean of nothing has no direction.
  return RegionVectors(jnp.where(empty[..., None], 1.0, vectors), (), empty)
