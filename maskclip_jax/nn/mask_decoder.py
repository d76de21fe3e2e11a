"""Mask2Former's masked-attention decoder (Cheng et al., CVPR 2022; [masqclip 2.4]).

Learned queries gather from one level of the pyramid after another; each looks only
inside the mask it predicted before.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from maskclip_jax.nn.layers import (
  LayerNorm,
  MultiHeadAttention,
  ValidHW,
  in_turn,
  inside,
  recompute,
  shrink,
  sine_positions,
)
from maskclip_jax.nn.pixel_decoder import LEVELS, PixelFeatures, uniform_by_fan_in

# Of the maps that masks are drawn on.
MASK_STRIDE = 4

_xavier = nnx.initializers.xavier_uniform()
# Query, key and value drawn as one matrix from W to 3 W, as PyTorch does.
_xavier_packed = nnx.initializers.variance_scaling(0.5, 'fan_avg', 'uniform')
_normal = nnx.initializers.normal(1.0)


class LayerPrediction(NamedTuple):
  """What the heads say of the queries.

  Attributes:
    class_logits: the class head's columns, the last of which is 'no object'; None
      without a head.
    mask_logits: at stride 4.
    class_vectors: what is compared with words, not normalised; None where the decoder
      has no such head.
  """

  class_logits: Float[Array, 'b q k'] | None
  mask_logits: Float[Array, 'b q h w']
  class_vectors: Float[Array, 'b q d'] | None = None


class Memory(NamedTuple):
  """One level of the pyramid, as the queries see it.

  Attributes:
    values: features with the level's vector.
    keys: the same with their position encoding.
    mask_features: the per-pixel embeddings, resized to the level.
    real: which positions lie on the photo; None if all do.
  """

  values: Float[Array, 'b s c']
  keys: Float[Array, 'b s c']
  mask_features: Float[Array, 'b s d']
  real: Bool[Array, 'b s'] | None


def linear(in_width: int, out_width: int, *, kernel_init=None, dtype, rngs: nnx.Rngs):
  """A linear layer with PyTorch's default initialisation, or another kernel's."""
  uniform = uniform_by_fan_in(in_width)
  return nnx.Linear(
    in_width,
    out_width,
    kernel_init=kernel_init or uniform,
    bias_init=uniform,
    dtype=dtype,
    rngs=rngs,
  )


def attention(width: int, heads: int, *, dtype, rngs: nnx.Rngs) -> MultiHeadAttention:
  """Attention with PyTorch's initialisation of its packed projection."""
  return MultiHeadAttention(
    width,
    heads,
    kernel_init=_xavier_packed,
    out_init=_xavier,
    dtype=dtype,
    rngs=rngs,
  )


class CrossAttentionLayer(nnx.Module):
  """Queries read from the pyramid: attention, sum, norm."""

  def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
    self.multihead_attn = attention(width, heads, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, 'b q c'],
    positions: Float[Array, 'q c'],
    memory: Memory,
    mask: Bool[Array, 'b q s'],
  ) -> Float[Array, 'b q c']:
    """Updates the queries; `mask` is True where a query may look."""
    read = self.multihead_attn(x + positions, memory.keys, memory.values, mask[:, None])
    return self.norm(x + read)


class SelfAttentionLayer(nnx.Module):
  """Queries read from each other: attention, sum, norm."""

  def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
    self.self_attn = attention(width, heads, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[Array, 'b q c'], positions: Float[Array, 'q c']
  ) -> Float[Array, 'b q c']:
    placed = x + positions
    return self.norm(x + self.self_attn(placed, placed, x))


class FFNLayer(nnx.Module):
  """Two linear layers with a ReLU between, sum, norm."""

  def __init__(self, width: int, ffn: int, *, dtype, rngs: nnx.Rngs):
    self.linear1 = linear(width, ffn, kernel_init=_xavier, dtype=dtype, rngs=rngs)
    self.linear2 = linear(ffn, width, kernel_init=_xavier, dtype=dtype, rngs=rngs)
    self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'b q c']) -> Float[Array, 'b q c']:
    return self.norm(x + self.linear2(nnx.relu(self.linear1(x))))


class MaskMLP(nnx.Module):
  """Linear layers with ReLUs between: three as wide as the input, or others."""

  def __init__(
    self,
    width: int,
    out_width: int,
    *,
    hidden: int | None = None,
    layers: int = 3,
    dtype,
    rngs: nnx.Rngs,
  ):
    widths = (width, *(hidden or width,) * (layers - 1), out_width)
    self.layers = nnx.List(
      [linear(*pair, dtype=dtype, rngs=rngs) for pair in itertools.pairwise(widths)]
    )

  def __call__(self, x: Float[Array, '*b c']) -> Float[Array, '*b d']:
    for layer in self.layers[:-1]:
      x = nnx.relu(layer(x))
    return self.layers[-1](x)


def open_positions(
  logits: Float[Array, 'b q s'], real: Bool[Array, 'b s'] | None
) -> Bool[Array, 'b q s']:
  """Where a query may look: inside its mask, or everywhere if the mask is empty.

  Args:
    logits: mask logits at the level's resolution; inside means at least 0.
    real: positions on the photo; None if all are.
  """
  mask = logits >= 0
  if real is not None:
    mask &= real[:, None]
  full = jnp.ones((), bool) if real is None else real[:, None]
  return jnp.where(mask.any(-1, keepdims=True), mask, full)


class MaskedDecoder(nnx.Module):
  """The decoder with its heads.

  Args:
    num_classes: classes of the head, which has one column more for 'no object'; None
      for no class head.
    width: channels of the queries and of the pyramid.
    mask_dim: channels of the mask features.
    heads: attention heads.
    ffn: hidden width of the feed-forward networks.
    layers: decoder layers.
    queries: learned queries.
    remat: recompute each layer in the backward pass instead of storing it.
    dtype: compute type; mask logits and what they decide are float32.
  """

  def __init__(
    self,
    num_classes: int | None,
    *,
    width: int = 256,
    mask_dim: int = 256,
    heads: int = 8,
    ffn: int = 2048,
    layers: int = 9,
    queries: int = 100,
    remat: bool = False,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    each = range(layers)
    self.transformer_cross_attention_layers = nnx.List(
      [CrossAttentionLayer(width, heads, **common) for _ in each]
    )
    self.transformer_self_attention_layers = nnx.List(
      [SelfAttentionLayer(width, heads, **common) for _ in each]
    )
    self.transformer_ffn_layers = nnx.List(
      [FFNLayer(width, ffn, **common) for _ in each]
    )
    self.decoder_norm = LayerNorm(width, dtype=dtype, rngs=rngs)

    def table(rows: int) -> nnx.Embed:
      return nnx.Embed(rows, width, embedding_init=_normal, rngs=rngs)

    self.query_feat = table(queries)
    self.query_embed = table(queries)
    self.level_embed = table(len(LEVELS))
    if num_classes is None:
      self.class_embed = None
    else:
      self.class_embed = linear(width, num_classes + 1, **common)
    self.mask_embed = MaskMLP(width, mask_dim, **common)
    self.remat = remat
    self.dtype = dtype

  def memory(
    self, features: PixelFeatures, padded_hw: ValidHW = None
  ) -> tuple[Memory, ...]:
    """The pyramid as the queries see it, coarse to fine."""
    levels = []
    height = features.mask_features.shape[1]
    for i, (x, (_, stride)) in enumerate(
      zip(features.multi_scale, LEVELS, strict=True)
    ):
      batch, *shape, width = x.shape
      hw = None if padded_hw is None else padded_hw // stride
      values = x + self.level_embed.embedding[i]
      keys = values + sine_positions(tuple(shape), width, hw)
      small = shrink(features.mask_features.astype(jnp.float32), height // shape[0])
      flat = (m.reshape(batch, -1, m.shape[-1]) for m in (values, keys, small))
      real = None if hw is None else inside(hw, tuple(shape)).reshape(batch, -1)
      levels.append(Memory(*flat, real))
    return tuple(levels)

  def mask_vectors(self, x: Float[Array, 'b q c']) -> Float[Array, 'b q d']:
    """Mask embeddings of the queries; a mask is their product with the features."""
    return self.mask_embed(self.decoder_norm(x)).astype(jnp.float32)

  def mask_logits(
    self, x: Float[Array, 'b q c'], mask_features: Float[Array, 'b h w d']
  ) -> Float[Array, 'b q h w']:
    """The masks of the queries, float32."""
    return jnp.einsum(
      'bqd,bhwd->bqhw', self.mask_vectors(x), mask_features.astype(jnp.float32)
    )

  def predict(
    self,
    x: Float[Array, 'b q c'],
    mask_features: Float[Array, 'b h w d'],
    padded_hw: ValidHW = None,
  ) -> LayerPrediction:
    """Applies the heads to the queries; float32.

    Args:
      x: queries.
      mask_features: the pixel decoder's map for masks.
      padded_hw: the real part of the pixels; here nothing depends on it.
    """
    logits = None
    if self.class_embed is not None:
      logits = self.class_embed(self.decoder_norm(x)).astype(jnp.float32)
    return LayerPrediction(logits, self.mask_logits(x, mask_features))

  def attention_mask(
    self, x: Float[Array, 'b q c'], memory: Memory
  ) -> Bool[Array, 'b q s']:
    """Where the queries may look on a level, by the masks they predict now.

    Resizing is linear, so the features are resized once instead of every mask.
    """
    vectors = jax.lax.stop_gradient(self.mask_vectors(x))
    features = jax.lax.stop_gradient(memory.mask_features)
    logits = jnp.einsum('bqd,bsd->bqs', vectors, features)
    return open_positions(logits, memory.real)

  def layer(
    self,
    parts: tuple[CrossAttentionLayer, SelfAttentionLayer, FFNLayer],
    x: Float[Array, 'b q c'],
    positions: Float[Array, 'q c'],
    memory: Memory,
  ) -> Float[Array, 'b q c']:
    """One decoder layer: the queries read a level, each other, and digest."""
    read_level, read_queries, digest = parts
    mask = self.attention_mask(x, memory)
    x = read_level(x, positions, memory, mask)
    return digest(read_queries(x, positions))

  def __call__(
    self, features: PixelFeatures, padded_hw: ValidHW = None, *, aux: bool = False
  ) -> tuple[LayerPrediction, ...]:
    """Predicts from the pixel decoder's features.

    Args:
      features: the pixel decoder's maps.
      padded_hw: the real part of the pixels, or None if all is real.
      aux: also return the predictions of the initial queries and of every earlier
        layer, in that order, before the last one.
    """
    levels = self.memory(features, padded_hw)
    positions = self.query_embed.embedding[...]
    batch = features.mask_features.shape[0]
    x = jnp.broadcast_to(self.query_feat.embedding[...], (batch, *positions.shape))
    x, positions = x.astype(self.dtype), positions.astype(self.dtype)
    layers = list(
      zip(
        self.transformer_cross_attention_layers,
        self.transformer_self_attention_layers,
        self.transformer_ffn_layers,
        strict=True,
      )
    )
    laps = [layers[i : i + len(levels)] for i in range(0, len(layers), len(levels))]

    def lap(layers, x):
      outputs = []
      # The last lap may end early.
      for parts, level in zip(layers, levels, strict=False):
        layer = functools.partial(self.layer, parts)
        x = recompute(layer, self.remat)(x, positions, level)
        outputs.append(x)
      return x, outputs

    _, outputs = in_turn(lap, laps, x)
    queries = [x, *itertools.chain.from_iterable(outputs)]
    shown = queries if aux else queries[-1:]
    return tuple(self.predict(x, features.mask_features, padded_hw) for x in shown)
