"""MAFT+'s content-dependent transfer (Jiao et al., ECCV 2024): words adapt to a photo.

Every class vector looks at CLIP's vectors of all places of the photo [fcclip 9.2].
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.nn.layers import LayerNorm, ValidHW, inside, sine_positions
from maskclip_jax.nn.mask_decoder import attention, linear

Form = Literal['semantic', 'panoptic']


def scrambled(
  features: Float[Array, 'b h w c'], hw: ValidHW = None
) -> Float[Array, 'b h w c']:
  """The map as the released code reads it, which its weights were trained with.

  A map with channels first is cut into rows of as many numbers as there are channels,
  without moving the channels last: each place holds numbers of a few channels and many
  places.

  Args:
    features: channels last.
    hw: the real part of each map; beyond it the result means nothing.
  """
  _, height, width, channels = features.shape
  if hw is None:
    return jnp.moveaxis(features, -1, 1).reshape(features.shape)

  def one(x, hw):
    place = jnp.arange(height)[:, None] * hw[1] + jnp.arange(width)
    index = place[..., None] * channels + jnp.arange(channels)
    area = hw[0] * hw[1]
    channel, rest = index // area, index % area
    flat = (rest // hw[1] * width + rest % hw[1]) * channels + channel
    return x.reshape(-1).at[flat].get(mode='clip')

  return jax.vmap(one)(features, hw)


class ContentTransfer(nnx.Module):
  """Cross-attention from class vectors to the photo, and a linear layer.

  Args:
    width: the width of the joint space.
    heads: attention heads.
    form: 'semantic' normalises the sum, 'panoptic' what is added.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self, width: int, heads: int, form: Form, *, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    self.multihead_attn = attention(width, heads, dtype=dtype, rngs=rngs)
    self.mlp = linear(width, width, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.form = form

  def __call__(
    self,
    words: Float[Array, 'r d'],
    places: Float[Array, 'b h w d'],
    hw: ValidHW = None,
  ) -> Float[Array, 'b r d']:
    """Class vectors of each photo, not normalised, float32.

    Args:
      words: class vectors.
      places: CLIP's vectors of the photo's places.
      hw: the real part of `places`.
    """
    batch, *shape, width = places.shape
    keys = places + sine_positions(tuple(shape), width, hw)
    flat = (x.reshape(batch, -1, width) for x in (keys, places))
    real = None if hw is None else inside(hw, tuple(shape)).reshape(batch, 1, 1, -1)
    words = jnp.broadcast_to(words, (batch, *words.shape))
    added = self.mlp(self.multihead_attn(words, *flat, real))
    if self.form == 'panoptic':
      return words + self.norm(added).astype(jnp.float32)
    return self.norm(words + added).astype(jnp.float32)
