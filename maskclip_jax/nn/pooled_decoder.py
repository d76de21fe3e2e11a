"""FC-CLIP's decoder: queries are classified by what lies in their masks [fcclip 5].

Yu et al., "Convolutions Die Hard", NeurIPS 2023. Pooling by masks serves its second
classifier as well, which reads CLIP's own features.
"""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from maskclip_jax.nn.layers import LayerNorm, ValidHW, inside
from maskclip_jax.nn.mask_decoder import (
  MASK_STRIDE,
  LayerPrediction,
  MaskedDecoder,
  MaskMLP,
  linear,
)

# Keeps the mean over an empty mask zero.
_POOL_EPS = 1e-8


def pool_masks(
  features: Float[Array, 'b h w c'], masks: Bool[Array, 'b q h w']
) -> Float[Array, 'b q c']:
  """Mean of a feature map over each mask; zero where the mask is empty. Float32."""
  masks = masks.astype(jnp.float32)
  sums = jnp.einsum('bqhw,bhwc->bqc', masks, features.astype(jnp.float32))
  return sums / (masks.sum((-2, -1))[..., None] + _POOL_EPS)


class PooledDecoder(MaskedDecoder):
  """A masked decoder whose class head sees the query and its pooled mask [fcclip 5.2].

  A query and the mean of the mask features inside its mask make a vector to compare
  with words; there are no classes in the weights. Arguments are those of
  `MaskedDecoder`, and:

  Args:
    embed_dim: width of the vectors.
  """

  def __init__(
    self,
    embed_dim: int,
    *,
    width: int = 256,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
    **sizes,
  ):
    # The pooled mask features are added to the queries, so they are as wide.
    super().__init__(None, width=width, mask_dim=width, dtype=dtype, rngs=rngs, **sizes)
    self.pool_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.pool_proj = linear(width, width, dtype=dtype, rngs=rngs)
    # `data` because the decoder without classes declares it empty.
    self.class_embed = nnx.data(MaskMLP(width, embed_dim, dtype=dtype, rngs=rngs))
    self.logit_scale = nnx.Param(jnp.asarray(math.log(1 / 0.07), jnp.float32))

  def predict(
    self,
    x: Float[Array, 'b q c'],
    mask_features: Float[Array, 'b h w d'],
    padded_hw: ValidHW = None,
  ) -> LayerPrediction:
    masks = self.mask_logits(x, mask_features)
    covered = masks > 0
    if padded_hw is not None:
      covered &= inside(padded_hw // MASK_STRIDE, masks.shape[-2:])[:, None]
    pooled = self.pool_proj(self.pool_norm(pool_masks(mask_features, covered)))
    vectors = self.class_embed(self.decoder_norm(x) + pooled)
    return LayerPrediction(None, masks, vectors.astype(jnp.float32))
