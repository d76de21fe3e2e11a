"""What CLIP is shown of a photo and of its masks: shared by the mask-token systems.

Photo and masks are squashed to CLIP's square input alike, so they stay aligned
[masqclip 1.5].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn.clip import PhotoInput, normalize_pixels, unit
from maskclip_jax.ops.resize import Method, resize
from maskclip_jax.systems.contract import Images, TextBank

# exp(logit_scale) of every released CLIP [masqclip 1.3].
LOGIT_SCALE = 100.0


def squash_photos(
  images: Images,
  clip: PhotoInput,
  padding: tuple[float, float, float],
  method: Method = 'bicubic',
) -> Float[Array, 'b r r 3']:
  """The padded photos, squashed to a CLIP's square and normalised for it.

  Args:
    images: photos on their canvas.
    clip: the size of its input, and its pixel statistics.
    padding: RGB (0..255) that the area between a photo and its padded size shows.
    method: how the photo is resized.
  """
  height, width = images.pixels.shape[1:3]
  size = clip.image_size

  def one(pixels, image_hw, padded_hw):
    rows = jnp.arange(height)[:, None, None] < image_hw[0]
    columns = jnp.arange(width)[None, :, None] < image_hw[1]
    colour = jnp.asarray(padding, jnp.float32)
    pixels = jnp.where(rows & columns, pixels.astype(jnp.float32), colour)
    pixels = jnp.moveaxis(pixels, -1, 0)
    square = resize(pixels, (size, size), method, in_hw=padded_hw)
    return normalize_pixels(jnp.moveaxis(square, 0, -1), clip)

  return jax.vmap(one)(images.pixels, images.image_hw, images.input_hw)


def squash_masks(
  mask_logits: Float[Array, 'b q h w'], mask_hw: Int[Array, 'b 2'], size: int
) -> Float[Array, 'b q r r']:
  """Mask logits, squashed to CLIP's square by torch's bilinear."""
  return jax.vmap(lambda m, hw: resize(m, (size, size), in_hw=hw))(mask_logits, mask_hw)


def is_object(class_logits: Float[Array, 'b q k']) -> Float[Array, 'b q']:
  """What a class head says of an object of any class: the log-probability of all
  columns but the last, 'no object'."""
  classes = jax.nn.log_softmax(class_logits, axis=-1)[..., :-1]
  return jax.nn.logsumexp(classes, axis=-1)


def empty_masks(
  mask_logits: Float[Array, 'b q h w'], mask_hw: Int[Array, 'b 2']
) -> Bool[Array, 'b q']:
  """True for masks without a positive logit in the part that covers the photo."""
  height, width = mask_logits.shape[-2:]
  rows = jnp.arange(height)[:, None] < mask_hw[:, 0, None, None]
  columns = jnp.arange(width)[None, :] < mask_hw[:, 1, None, None]
  return ~((mask_logits > 0) & (rows & columns)[:, None]).any((-2, -1))


def patches_of(maps: Float[Array, '*b r r'], patch: int) -> Float[Array, '*b n p']:
  """Cuts square maps into patches, row by row; each patch flattened row by row."""
  grid = maps.shape[-1] // patch
  maps = maps.reshape(*maps.shape[:-2], grid, patch, grid, patch)
  return jnp.swapaxes(maps, -3, -2).reshape(*maps.shape[:-4], grid**2, patch**2)


def maps_of(patches: Float[Array, '*b n p'], patch: int) -> Float[Array, '*b r r']:
  """The inverse of `patches_of` (PyTorch's pixel shuffle of one channel)."""
  grid = round(patches.shape[-2] ** 0.5)
  maps = patches.reshape(*patches.shape[:-2], grid, grid, patch, patch)
  side = grid * patch
  return jnp.swapaxes(maps, -3, -2).reshape(*patches.shape[:-2], side, side)


def with_class_token(visible: Bool[Array, 'b q n']) -> Bool[Array, 'b 1 q n+1']:
  """Adds the class token's column, which every mask token sees, and a head axis."""
  return jnp.pad(visible, ((0, 0), (0, 0), (1, 0)), constant_values=True)[:, None]


def class_similarity(
  vectors: Float[Array, 'b q d'],
  text: TextBank,
  scale: float | Float[Array, ''] = LOGIT_SCALE,
  *,
  rows: Float[Array, 'b r d'] | None = None,
  void_vector: Float[Array, ' d'] | None = None,
  mixer: Callable[[Float[Array, 'b q r']], Float[Array, 'b q r']] | None = None,
) -> Float[Array, 'b q k']:
  """Scaled cosine of region vectors and class vectors, float32.

  Args:
    vectors: the vectors of the regions.
    text: class vectors; a class with several counts by the best of them.
    scale: the temperature.
    rows: vectors of each photo in the place of the bank's, as they are: their lengths
      count.
    void_vector: what the void column is compared with, where the model learned it.
    mixer: what the scaled cosine with each row becomes, before the best row counts.

  Raises:
    ValueError: class vectors of another length than those of the regions.
  """
  if text.embeddings.shape[-1] != vectors.shape[-1]:
    raise ValueError(
      f'class vectors of {text.embeddings.shape[-1]} numbers do not fit this CLIP, '
      f'whose vectors have {vectors.shape[-1]}: encode the words by its own text tower'
    )
  vectors = unit(vectors)
  if rows is None:
    cosine = jnp.einsum('bqd,rd->bqr', vectors, text.embeddings)
  else:
    cosine = jnp.einsum('bqd,brd->bqr', vectors, rows)
  logits = scale * cosine
  if mixer is not None:
    logits = mixer(logits)
  if text.columns is not None:
    by_row = jnp.moveaxis(logits, -1, 0)
    best = jax.ops.segment_max(by_row, text.columns, num_segments=len(text.valid))
    # Columns without a row are minus infinity.
    logits = jnp.moveaxis(jnp.where(jnp.isneginf(best), 0.0, best), 0, -1)
  if void_vector is not None:
    other = jnp.einsum('bqd,d->bq', vectors, unit(void_vector))
    logits = jnp.where(text.void, scale * other[..., None], logits)
  return logits
