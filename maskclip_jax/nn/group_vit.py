"""Patches gathered by learnable centres: SegCLIP's two-stage image tower (ICML 2023).

CLIP's first blocks run on the patches alone. Learnable centres read them by cross-
attention, every patch is assigned to one centre, and CLIP's last blocks run on the
groups. In training a second pass sees a quarter of the patches, and a small decoder
paints the others. Source: [segclip 1, 2.3].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import MLP, Block, CLIPConfig, VisionTower
from maskclip_jax.nn.layers import (
  LayerNorm,
  MultiHeadAttention,
  Statistic,
  quick_gelu,
)

# Norms of the painting decoder; all others have PyTorch's 1e-5 [segclip 6].
_DECODER_EPS = 1e-6
# Initial values of what CLIP does not have [segclip 1.8].
_normal = nnx.initializers.normal(0.02)


def _packed_xavier(width: int) -> nnx.initializers.Initializer:
  """Xavier's uniform bound of query, key and value kernels stacked to one matrix."""
  bound = (6 / (4 * width)) ** 0.5
  uniform = nnx.initializers.uniform(2 * bound)
  return lambda *args: uniform(*args) - bound


def _torch_uniform(inputs: int) -> nnx.initializers.Initializer:
  """PyTorch's default for convolutions."""
  bound = inputs**-0.5
  uniform = nnx.initializers.uniform(2 * bound)
  return lambda *args: uniform(*args) - bound


class Groups(NamedTuple):
  """The patches of some photos, gathered into groups.

  Attributes:
    tokens: one per group.
    soft: how likely a patch belongs to each group, without noise: sums to one over the
      groups. What pixels are given to groups by.
    hard: the same, all or nothing. Its gradient is that of the noisy soft assignment.
  """

  tokens: Float[Array, 'b g w']
  soft: Float[Array, 'b g n']
  hard: Float[Array, 'b g n']


def hard_assignment(
  scores: Float[Array, 'b g n'],
  noise: Float[Array, 'b g n'] | None = None,
  temperature: float = 1.0,
) -> Float[Array, 'b g n']:
  """Every patch wholly to its best centre, with straight-through gradients.

  Args:
    scores: the scores of every centre for every patch.
    noise: samples of the Gumbel distribution; None to assign without chance.
    temperature: of the soft assignment that gradients go through; with noise only.

  Returns:
    One-hot over the centres; of equals the first wins [segclip 1.4].
  """
  if noise is not None:
    scores = (scores + noise) / temperature
  soft = jax.nn.softmax(scores, axis=1)
  hot = jax.nn.one_hot(soft.argmax(1), soft.shape[1], axis=1)
  return hot + (soft - jax.lax.stop_gradient(soft))


def gather_patches(
  hard: Float[Array, 'b g n'], values: Float[Array, 'b n w']
) -> Float[Array, 'b g w']:
  """Mean value of the patches of each group; zero for an empty one."""
  size = hard.sum(-1, keepdims=True)
  # `maximum` would pass half of the gradient to a group of one patch [segclip 6].
  return jnp.einsum('bgn,bnw->bgw', hard, values) / jnp.where(size >= 1, size, 1.0)


def mix_photos(tokens: Float[Array, 'b s w'], photos: int) -> Float[Array, 'b s w']:
  """What the centres of each photo attended to in the published training.

  The official code hands keys over batch first where the attention of PyTorch 1.8
  takes them position first, so the centres of photo n see the tokens n, n + photos,
  n + 2 photos, ... of all photos of a device in a row. Evaluation has one photo a call,
  where nothing is mixed [segclip 6].

  Args:
    tokens: keys and values.
    photos: photos of one device of the official training; 1 mixes nothing.

  Raises:
    ValueError: the batch does not divide into such parts.
  """
  batch, length, width = tokens.shape
  if photos == 1:
    return tokens
  if batch % photos:
    raise ValueError(f'a batch of {batch} does not divide into {photos} mixed photos')
  parts = tokens.reshape(-1, length, photos, width)
  return parts.swapaxes(1, 2).reshape(batch, length, width)


class CentreBlock(nnx.Module):
  """Centres read centres and patches: residual cross-attention and an MLP."""

  def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
    self.ln_centres = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.ln_tokens = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.cross_attention = MultiHeadAttention(
      width,
      heads,
      kernel_init=_packed_xavier(width),
      out_init=_normal,
      dtype=dtype,
      rngs=rngs,
    )
    self.ln_mlp = LayerNorm(width, dtype=dtype, rngs=rngs)
    self.mlp = MLP(width, 'quick_gelu', kernel_init=_normal, dtype=dtype, rngs=rngs)

  def __call__(
    self,
    centres: Float[Array, 'b g w'],
    patches: Float[Array, 'b n w'],
    mixed: int,
  ) -> Float[Array, 'b g w']:
    tokens = self.ln_tokens(jnp.concatenate([centres, patches], axis=1))
    tokens = mix_photos(tokens, mixed)
    centres = centres + self.cross_attention(self.ln_centres(centres), tokens)
    return centres + self.mlp(self.ln_mlp(centres))


class HeadwiseLinear(nnx.Module):
  """A linear layer on each head's channels alone, without bias.

  PyTorch's grouped convolution of one pixel.
  """

  def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
    depth = width // heads
    init = _torch_uniform(depth)
    self.kernel = nnx.Param(init(rngs.params(), (heads, depth, depth), jnp.float32))
    self.dtype = dtype

  def __call__(self, x: Float[Array, '*b n w']) -> Float[Array, '*b n w']:
    kernel = self.kernel[...].astype(self.dtype)
    heads = x.reshape(*x.shape[:-1], *kernel.shape[:2])
    return jnp.einsum('...hi,hio->...ho', heads, kernel).reshape(x.shape)


class Grouping(nnx.Module):
  """The semantic group module: patches to groups [segclip 1.4].

  Args:
    width: channels of the tokens.
    heads: how many the cross-attention, the key and the value layers have.
    centres: groups.
    layers: how many layers of cross-attention.
    temperature: the temperature of the assignment in training.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    *,
    centres: int,
    layers: int,
    temperature: float,
    dtype,
    rngs: nnx.Rngs,
  ):
    common = {'dtype': dtype, 'rngs': rngs}
    self.centres = nnx.Param(_normal(rngs.params(), (centres, width), jnp.float32))
    self.blocks = nnx.List([CentreBlock(width, heads, **common) for _ in range(layers)])
    self.ln_centres = LayerNorm(width, **common)
    self.ln_patches = LayerNorm(width, **common)
    self.key = HeadwiseLinear(width, heads, **common)
    self.ln_key = LayerNorm(width, **common)
    self.value = HeadwiseLinear(width, heads, **common)
    self.ln_groups = LayerNorm(width, **common)
    self.mlp = MLP(width, 'gelu', kernel_init=_normal, **common)
    self.temperature = temperature
    self.dtype = dtype

  def __call__(
    self,
    patches: Float[Array, 'b n w'],
    noise: Float[Array, 'b g n'] | None = None,
    *,
    mixed: int = 1,
  ) -> Groups:
    """Groups of the patches.

    Args:
      patches: tokens of the first stage, not normalised.
      noise: Gumbel samples, for training.
      mixed: photos whose patches the centres confuse; see `mix_photos`.
    """
    centres = self.centres[...].astype(self.dtype)
    centres = jnp.broadcast_to(centres, (patches.shape[0], *centres.shape))
    for block in self.blocks:
      centres = block(centres, patches, mixed)
    centres = self.ln_centres(centres)
    normed = self.ln_patches(patches)
    # Neither scaled nor of unit vectors [segclip 6].
    scores = jnp.einsum(
      'bgw,bnw->bgn',
      centres,
      self.ln_key(self.key(normed)),
      preferred_element_type=jnp.float32,
    )
    hard = hard_assignment(scores, noise, self.temperature)
    gathered = gather_patches(hard.astype(self.dtype), self.value(normed))
    tokens = quick_gelu(self.mlp(self.ln_groups(centres + gathered)))
    return Groups(tokens, jax.nn.softmax(scores, axis=1), hard)


# The two stages, as functions of CLIP's own image tower.


def embed_patches(
  visual: VisionTower, pixels: Float[Array, 'b r r 3']
) -> Float[Array, 'b n w']:
  """Normalised patch tokens with their positions; the class token has no part."""
  return visual.ln_pre(visual.embed(pixels)[:, 1:])


def first_stage(
  visual: VisionTower, patches: Float[Array, 'b n w'], blocks: int
) -> Float[Array, 'b n w']:
  """CLIP's first blocks, on patches."""
  for block in list(visual.transformer.resblocks)[:blocks]:
    patches = block(patches)
  return patches


def second_stage(
  visual: VisionTower, groups: Float[Array, 'b g w'], blocks: int
) -> tuple[Float[Array, 'b d'], Float[Array, 'b g d']]:
  """CLIP's last blocks, on groups, and the projection into the joint space.

  Args:
    visual: the tower.
    groups: group tokens.
    blocks: how many belong to the first stage; the others belong to this one.

  Returns:
    The vector of the photo, which is the largest value of each channel over the groups
    before the last norm, and the vectors of the groups; float32, not normalised.
  """
  for block in list(visual.transformer.resblocks)[blocks:]:
    groups = block(groups)
  tokens = jnp.concatenate([groups.max(1, keepdims=True), groups], axis=1)
  vectors = visual.project(tokens)
  return vectors[:, 0], vectors[:, 1:]


# What only training has: some patches are hidden and painted from the groups.


def shuffled_patches(noise: Float[Array, 'b n']) -> Int[Array, 'b n']:
  """The patches in the random order that noise gives: the first ones stay visible."""
  return jnp.argsort(noise, axis=1, stable=True)


def visible_patches(patches: int, ratio: float) -> int:
  """How many patches stay visible.

  The share counts a class token that is always visible: 48 of 196 at 0.75, not 49
  [segclip 6].
  """
  return int((patches + 1) * (1 - ratio)) - 1


def take_patches(
  patches: Float[Array, 'b n w'], order: Int[Array, 'b m']
) -> Float[Array, 'b m w']:
  """The tokens of some patches of each photo, in that order."""
  return jnp.take_along_axis(patches, order[..., None], axis=1)


def hidden_patches(order: Int[Array, 'b n'], visible: int) -> Bool[Array, 'b n']:
  """Which patches are hidden, by position, if the first of an order are visible."""
  return jnp.argsort(order, axis=1) >= visible


def sine_table(grid: int, width: int) -> Float[Array, '1 n+1 w']:
  """Positions of the painting decoder: a row of zeros, then the patches row by row.

  Columns in the first half of the channels and rows in the second, sines before
  cosines, rates from 1 down to 1/10000 (He et al., "Masked Autoencoders Are Scalable
  Vision Learners", CVPR 2022).
  """
  quarter = width // 4
  rates = 10000.0 ** (-jnp.arange(quarter) / quarter)
  angles = jnp.arange(grid)[:, None] * rates
  line = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
  full = (grid, grid, width // 2)
  table = jnp.concatenate(
    [jnp.broadcast_to(line, full), jnp.broadcast_to(line[:, None], full)], axis=-1
  )
  return jnp.pad(table.reshape(1, grid**2, width), ((0, 0), (1, 0), (0, 0)))


class Reconstruction(nnx.Module):
  """Paints all patches from the groups of the visible ones; training only.

  The group tokens are spread back over the visible patches, pass two blocks, and are
  decoded beside copies of a token for each hidden patch [segclip 1.6, 2.3].

  Args:
    clip: sizes of the tower.
    centres: groups.
    blocks: between the groups and the decoder.
    width: channels of the decoder.
    depth: blocks of the decoder.
    heads: how many the decoder has.
    dtype: compute type.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    clip: CLIPConfig,
    *,
    centres: int,
    blocks: int,
    width: int,
    depth: int,
    heads: int,
    dtype,
    rngs: nnx.Rngs,
  ):
    common = {'kernel_init': _normal, 'dtype': dtype, 'rngs': rngs}
    inner, small = clip.vision_width, (1, 1, width)
    self.spread = nnx.Linear(centres, centres, **common)
    self.blocks = nnx.List(
      [
        Block(
          inner,
          clip.vision_heads,
          clip.activation,
          input_init=_packed_xavier(inner),
          **common,
        )
        for _ in range(blocks)
      ]
    )
    self.embed = nnx.Linear(inner, width, **common)
    self.mask_token = nnx.Param(_normal(rngs.params(), small, jnp.float32))
    self.positions = Statistic(sine_table(clip.grid, width))
    self.decoder = nnx.List(
      [
        Block(width, heads, 'gelu', epsilon=_DECODER_EPS, input_init=_normal, **common)
        for _ in range(depth)
      ]
    )
    self.norm = LayerNorm(width, epsilon=_DECODER_EPS, dtype=dtype, rngs=rngs)
    self.paint = nnx.Linear(width, 3 * clip.patch_size**2, **common)

  def tokens(self, groups: Groups) -> Float[Array, 'b m w']:
    """A token for each visible patch, made of the groups."""
    weights = self.spread(groups.hard.swapaxes(1, 2).astype(groups.tokens.dtype))
    tokens = quick_gelu(jnp.einsum('bmg,bgw->bmw', weights, groups.tokens))
    for block in self.blocks:
      tokens = block(tokens)
    return tokens

  def __call__(self, groups: Groups, order: Int[Array, 'b n']) -> Float[Array, 'b n p']:
    """The pixels of every patch, of the visible ones too, row by row; float32.

    Args:
      groups: the groups of the visible patches.
      order: all patches; the first are those visible, in this order.
    """
    tokens = self.tokens(groups)
    # In the place of the class token stands the mean.
    tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
    tokens = self.embed(tokens)
    first, visible = tokens[:, :1], tokens[:, 1:]
    batch, hidden = len(order), order.shape[1] - visible.shape[1]
    token = self.mask_token[...].astype(tokens.dtype)
    masked = jnp.broadcast_to(token, (batch, hidden, token.shape[-1]))
    patches = jnp.concatenate([visible, masked], axis=1)
    patches = take_patches(patches, jnp.argsort(order, axis=1))
    tokens = jnp.concatenate([first, patches], axis=1)
    tokens = tokens + self.positions[...].astype(tokens.dtype)
    for block in self.decoder:
      tokens = block(tokens)
    return self.paint(self.norm(tokens))[:, 1:].astype(jnp.float32)
