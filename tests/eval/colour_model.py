"""A small model that segments by colour, with the contract of the real systems.

Each query looks for one colour; its mask is the pixels near that colour, its class the
word whose vector it holds. Words become vectors by a random table, so any vocabulary
works. It compiles in a second and is right about most pixels of `ade_scenes`.
"""

import ade_scenes
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskclip_jax import zoo
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import Outputs, RegionVectors
from maskclip_jax.systems.regions import class_similarity
from maskclip_jax.systems.system import Preset

WIDTH, TOKENS, SCALE, STRIDE = 24, 49408, 100.0, 4


class Text(nnx.Module):
  """A text tower without layers: the mean of random token vectors."""

  def __init__(self):
    table = jax.random.normal(jax.random.key(0), (TOKENS, WIDTH))
    self.table = nnx.Param(table)

  def text(self, tokens):
    used = tokens > 0
    vectors = jnp.where(used[..., None], self.table[...][tokens], 0.0)
    return vectors.sum(1) / used.sum(1, keepdims=True)


class ColourModel(nnx.Module):
  """Queries that each look for a colour."""

  def __init__(self, colours):
    self.clip, self.config = Text(), None
    self.colours = nnx.Param(jnp.asarray(colours, jnp.float32))
    self.vectors = nnx.Param(jnp.zeros((len(colours), WIDTH)))

  def distances(self, pixels):
    return jnp.linalg.norm(pixels[..., None, :] - self.colours[...], axis=-1)

  def __call__(self, images, text):
    batch, height, width, _ = images.pixels.shape
    blocks = images.pixels.astype(jnp.float32).reshape(
      batch, height // STRIDE, STRIDE, width // STRIDE, STRIDE, 3
    )
    near = 0.1 * (60 - self.distances(blocks.mean((2, 4))))
    masks = jnp.moveaxis(near, -1, 1)
    vectors = jnp.broadcast_to(self.vectors[...], (batch, *self.vectors.shape))
    return Outputs(
      masks,
      class_similarity(vectors, text, SCALE),
      jax.nn.log_sigmoid(masks.max((2, 3)) - 1),
      images.padded_hw // STRIDE,
    )

  def encode_masks(self, images, mask_logits, mask_hw, scores=None):
    """Vectors of given masks: that of the colour nearest to their mean colour."""
    height, width = mask_logits.shape[2:]
    batch = len(mask_logits)
    pixels = images.pixels.astype(jnp.float32).reshape(
      batch, height, images.pixels.shape[1] // height, width, -1, 3
    )
    inside = (mask_logits > 0).astype(jnp.float32)
    total = jnp.einsum('bqhw,bhwc->bqc', inside, pixels.mean((2, 4)))
    mean = total / jnp.maximum(inside.sum((2, 3))[..., None], 1)
    nearest = self.vectors[...][jnp.argmin(self.distances(mean), axis=-1)]
    return RegionVectors(nearest, (), inside.sum((2, 3)) == 0)


def segmenter(words: str = 'ade20k-150', wrong: dict[int, int] | None = None):
  """The model for the classes of `ade_scenes`.

  Args:
    words: a vocabulary in the order of ADE20K-150.
    wrong: class that the model takes for another: {true: believed}.
  """
  model = ColourModel([ade_scenes.colour(label) for label in ade_scenes.CLASSES])
  # Its text tower reads as many tokens as that of the tiny preset.
  config = zoo.presets()['masqclip_tiny'].config
  preset = Preset('masqclip', config, words='masqclip')
  found = Segmenter(model, preset)
  vectors = np.asarray(found.text_bank(found.vocabulary(words)).embeddings)
  believed = [(wrong or {}).get(label, label) for label in ade_scenes.CLASSES]
  model.vectors[...] = jnp.asarray(vectors[believed])
  return Segmenter(model, preset)
