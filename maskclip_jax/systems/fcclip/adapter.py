"""Mask-Adapter (Li et al., CVPR 2025): where to look for what is in a mask.

In place of the mean over a mask, several maps of weights are learned, each a way to
pool CLIP's features; the vectors of all of them are averaged [fcclip 9.3].
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax import plain
from maskclip_jax.nn.convnext import Block
from maskclip_jax.nn.layers import (
  LayerNorm,
  ValidHW,
  exact_gelu,
  inside,
  zero_outside,
)

# Masks come at four times the resolution of the map, and are halved twice.
MASK_SCALE = 4
_MASK_WIDTHS = (4, 16)
_EPS = 1e-6
_BLOCKS = 3
# Masks whose maps are in memory at a time.
_TOGETHER = 10


@dataclasses.dataclass(frozen=True)
class MaskAdapterConfig:
  """Sizes of a Mask-Adapter; the defaults are the published ones.

  Attributes:
    width: channels of its blocks.
    maps: ways to pool a mask.
  """

  width: int = 768
  maps: int = 16

  def __post_init__(self):
    plain.at_least(self, 1, 'width', 'maps')


class MaskAdapter(nnx.Module):
  """From masks and CLIP's vectors of places to weights of the places.

  Args:
    embed_dim: width of CLIP's vectors.
    config: sizes.
    dtype: compute type; weights are float32.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    embed_dim: int,
    config: MaskAdapterConfig,
    *,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}

    def halve(before: int, after: int) -> nnx.Conv:
      return nnx.Conv(before, after, (3, 3), strides=2, padding=1, **common)

    def pointwise(before: int, after: int) -> nnx.Conv:
      return nnx.Conv(before, after, (1, 1), **common)

    first, second = _MASK_WIDTHS
    self.mask_convs = nnx.List([halve(1, first), halve(first, second)])
    self.mask_norms = nnx.List(
      [LayerNorm(width, epsilon=_EPS, **common) for width in _MASK_WIDTHS]
    )
    self.mask_proj = pointwise(second, embed_dim)
    self.fuse = pointwise(embed_dim, config.width)
    self.blocks = nnx.List(
      [Block(config.width, _EPS, **common) for _ in range(_BLOCKS)]
    )
    self.norm = LayerNorm(config.width, **common)
    self.final = pointwise(config.width, config.maps)

  def maps(
    self,
    places: Float[Array, 'b h w d'],
    masks: Float[Array, 'b 4*h 4*w'],
    hw: ValidHW = None,
  ) -> Float[Array, 'b h w m']:
    """The maps of one mask of each photo, before they are made weights.

    Args:
      places: CLIP's vectors of the photo's places.
      masks: how much of a place is inside.
      hw: the real part of `places`.
    """
    x, scale = masks[..., None], MASK_SCALE
    for conv, norm in zip(self.mask_convs, self.mask_norms, strict=True):
      x = zero_outside(x, None if hw is None else hw * scale)
      x, scale = exact_gelu(norm(conv(x))), scale // 2
    x = self.fuse(places + self.mask_proj(x))
    for block in self.blocks:
      x = block(x, hw)
    return self.final(self.norm(x)).astype(jnp.float32)

  def __call__(
    self,
    places: Float[Array, 'b h w d'],
    masks: Float[Array, 'b q 4*h 4*w'],
    hw: ValidHW = None,
  ) -> Float[Array, 'b q m h w']:
    """Weights of the places for every mask, each map of which adds to 1.

    Args:
      places: CLIP's vectors of the photo's places.
      masks: how much of a place is inside.
      hw: the real part of `places`.
    """
    found = jax.lax.map(
      lambda some: self.maps(places, some, hw),
      jnp.moveaxis(masks, 1, 0),
      batch_size=_TOGETHER,
    )
    weights = jax.nn.sigmoid(jnp.einsum('qbhwm->bqmhw', found))
    if hw is not None:
      weights *= inside(hw, places.shape[1:3])[:, None, None]
    return weights / weights.sum((-2, -1), keepdims=True)
