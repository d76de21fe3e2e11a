"""MaskFormer's transformer: queries read the coarsest features [ovseg 1.5].

DETR's decoder (Carion et al., ECCV 2020) without an encoder. Each query ends as a mask,
and as a vector to compare with words or as the logits of a class head.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from maskclip_jax.nn.dropout import Drops, drop_values
from maskclip_jax.nn.layers import (
  LayerNorm,
  ValidHW,
  in_turn,
  inside,
  recompute,
  sine_positions,
)
from maskclip_jax.nn.mask_decoder import LayerPrediction, MaskMLP, attention, linear
from maskclip_jax.nn.pixel_decoder import Conv

# Of the map that queries read, and the width of the class head's hidden layer.
_STRIDE = 32
_CLASS_HIDDEN = 1024

_xavier = nnx.initializers.xavier_uniform()
_normal = nnx.initializers.normal(1.0)


class DecoderLayer(nnx.Module):
  """Queries read each other, then the image, and digest; each step is added and
  normalised."""

  def __init__(self, width: int, heads: int, ffn: int, *, dtype, rngs: nnx.Rngs):
    common = {'dtype': dtype, 'rngs': rngs}
    self.self_attn = attention(width, heads, **common)
    self.multihead_attn = attention(width, heads, **common)
    self.linear1 = linear(width, ffn, kernel_init=_xavier, **common)
    self.linear2 = linear(ffn, width, kernel_init=_xavier, **common)
    self.norm1 = LayerNorm(width, **common)
    self.norm2 = LayerNorm(width, **common)
    self.norm3 = LayerNorm(width, **common)

  def __call__(
    self,
    x: Float[Array, 'b q c'],
    positions: Float[Array, 'q c'],
    keys: Float[Array, 'b s c'],
    values: Float[Array, 'b s c'],
    mask: Bool[Array, 'b 1 1 s'] | None,
    drops: Drops | None = None,
  ) -> Float[Array, 'b q c']:
    """Updates the queries; `keys` are `values` with their place."""

    def drop(x: jax.Array, number: int) -> jax.Array:
      return drop_values(x, drops, number)

    of_self, of_image = (functools.partial(drop, number=n) for n in (0, 1))
    placed = x + positions
    x = self.norm1(x + drop(self.self_attn(placed, placed, x, drop=of_self), 2))
    read = self.multihead_attn(x + positions, keys, values, mask, of_image)
    x = self.norm2(x + drop(read, 3))
    hidden = drop(nnx.relu(self.linear1(x)), 4)
    return self.norm3(x + drop(self.linear2(hidden), 5))


class Decoder(nnx.Module):
  """The layers, and the norm that the heads see each of them through."""

  def __init__(
    self, layers: int, width: int, heads: int, ffn: int, *, dtype, rngs: nnx.Rngs
  ):
    self.layers = nnx.List(
      [DecoderLayer(width, heads, ffn, dtype=dtype, rngs=rngs) for _ in range(layers)]
    )
    self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)


class DETRDecoder(nnx.Module):
  """The decoder with its heads.

  Args:
    in_channels: channels of res5.
    embed_dim: width of the vectors that words are compared with; None for a class head.
    num_classes: classes of that head, which has one column more for 'no object'.
    width: channels of the queries.
    mask_dim: channels of the mask features.
    heads: attention heads.
    ffn: hidden width of the feed-forward networks.
    class_hidden: hidden width of the class head.
    layers: decoder layers.
    queries: learned queries.
    remat: recompute each layer in the backward pass instead of storing it.
    dtype: compute type; predictions are float32.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    in_channels: int,
    embed_dim: int | None,
    *,
    num_classes: int | None = None,
    width: int = 256,
    mask_dim: int = 256,
    heads: int = 8,
    ffn: int = 2048,
    class_hidden: int = _CLASS_HIDDEN,
    layers: int = 6,
    queries: int = 100,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    self.input_proj = Conv(in_channels, width, **common)
    self.decoder = Decoder(layers, width, heads, ffn, **common)
    self.query_embed = nnx.Embed(queries, width, embedding_init=_normal, rngs=rngs)
    self.mask_embed = MaskMLP(width, mask_dim, **common)
    self.closed = embed_dim is None
    if self.closed:
      self.class_embed = linear(width, num_classes + 1, **common)
    else:
      self.class_embed = MaskMLP(
        width, embed_dim, hidden=class_hidden, layers=2, **common
      )
    self.remat = remat
    self.dtype = dtype

  def predict(
    self, x: Float[Array, 'b q c'], mask_features: Float[Array, 'b h w d']
  ) -> LayerPrediction:
    """Applies both heads to the queries; float32."""
    x = self.decoder.norm(x)
    masks = jnp.einsum(
      'bqd,bhwd->bqhw',
      self.mask_embed(x).astype(jnp.float32),
      mask_features.astype(jnp.float32),
    )
    classes = self.class_embed(x).astype(jnp.float32)
    if self.closed:
      return LayerPrediction(classes, masks)
    return LayerPrediction(None, masks, classes)

  def __call__(
    self,
    res5: Float[Array, 'b h w c'],
    mask_features: Float[Array, 'b h4 w4 d'],
    padded_hw: ValidHW = None,
    *,
    aux: bool = False,
    drops: Drops | None = None,
  ) -> tuple[LayerPrediction, ...]:
    """Predicts from the coarsest features and those of the pixel decoder.

    Args:
      res5: backbone features at stride 32.
      mask_features: at stride 4.
      padded_hw: the real part of the pixels, or None if all is real.
      aux: also return the predictions of every earlier layer, in order, before the last
        one.
      drops: which values are left out, in training.
    """
    batch, *shape, _ = res5.shape
    hw = None if padded_hw is None else padded_hw // _STRIDE
    memory = self.input_proj(res5)
    places = sine_positions(tuple(shape), memory.shape[-1], hw)
    keys = memory + places.astype(memory.dtype)
    keys, values = (m.reshape(batch, -1, m.shape[-1]) for m in (keys, memory))
    mask = None
    if hw is not None:
      mask = inside(hw, tuple(shape)).reshape(batch, 1, 1, -1)
    positions = self.query_embed.embedding[...].astype(self.dtype)
    x = jnp.zeros((batch, *positions.shape), self.dtype)

    layers = self.decoder.layers

    def run(layer: DecoderLayer, carry: tuple[jax.Array, jax.Array]):
      x, number = carry
      own = None if drops is None else drops.block(number, len(layers))
      layer = functools.partial(layer, keys=keys, values=values, mask=mask, drops=own)
      x = recompute(layer, self.remat)(x, positions)
      return (x, number + 1), x

    _, outputs = in_turn(run, layers, (x, jnp.int32(0)))
    shown = outputs if aux else outputs[-1:]
    return tuple(self.predict(x, mask_features) for x in shown)
