"""Contrastive training of a CLIP on pairs of photo and text (Radford et al., 2021).

Both towers see a batch of pairs; each photo is to be nearest to its own text among all
texts of the batch, and each text to its own photo.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maskclip_jax.nn.clip import VisionTower, normalize_pixels, unit
from maskclip_jax.ops.losses import contrastive
from maskclip_jax.train.task import MODEL, Batch, Flat, Judged, Modules, Task


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
  """The loss, and what learns from it.

  Attributes:
    largest_scale: the learned logit scale is held below this, as CLIP's is.
    equal_texts_match: texts of a batch that are the same, token for token, count as
      texts of each other's photos; else they are wrong answers, as in CLIP.
    keep_patches: share of the patches that the image tower sees, drawn anew for every
      photo: half of them cost half the time (Li et al., "Scaling Language-Image
      Pre-training via Masking", CVPR 2023). A short run with all of them follows.
    trainable: which parameters train; all by default.

  Raises:
    ValueError: no share.
  """

  largest_scale: float = 100.0
  keep_patches: float = 1.0
  equal_texts_match: bool = False
  trainable: tuple[str, ...] = ('.*',)

  def __post_init__(self):
    if not 0 < self.keep_patches <= 1:
      raise ValueError(f'keep_patches is a share, not {self.keep_patches}')


def some_patches(
  tokens: Float[Array, 'b n w'], share: float, key: Array
) -> Float[Array, 'b m w']:
  """The class token and a random share of each photo's patches."""
  batch, count = tokens.shape[0], tokens.shape[1] - 1
  keep = max(round(share * count), 1)
  _, kept = jax.lax.top_k(jax.random.uniform(key, (batch, count)), keep)
  patches = jnp.take_along_axis(tokens[:, 1:], kept[..., None], axis=1)
  return jnp.concatenate([tokens[:, :1], patches], axis=1)


@dataclasses.dataclass(frozen=True)
class Contrastive(Task):
  """Photos and their texts find each other in the whole batch of all devices."""

  title = 'contrastive training'
  system = 'clip'
  reads_captions = True

  @classmethod
  def defaults(cls, profile: str) -> ContrastiveConfig:
    return ContrastiveConfig()

  def photos(
    self, visual: VisionTower, pixels: Float[Array, 'b r r 3'], key: Array
  ) -> Float[Array, 'b d']:
    """Image vectors, not normalised."""
    if self.config.keep_patches == 1:
      return visual(pixels)
    tokens = some_patches(visual.embed(pixels), self.config.keep_patches, key)
    return visual.project(visual.transformer(visual.ln_pre(tokens))[:, 0])

  def loss(self, modules: Modules, constants: Flat, batch: Batch, key: Array) -> Judged:
    clip, tokens = modules[MODEL], batch['tokens']
    pixels = normalize_pixels(batch['image'].astype(jnp.float32))
    photos, texts = unit(self.photos(clip.visual, pixels, key)), unit(clip.text(tokens))
    scale = jnp.exp(
      jnp.minimum(clip.logit_scale[...], math.log(self.config.largest_scale))
    )
    match = jnp.eye(len(tokens), dtype=bool)
    if self.config.equal_texts_match:
      match = (tokens[:, None] == tokens).all(-1)
    logits = scale * jnp.einsum('id,jd->ij', photos, texts)
    loss = contrastive(logits, match)
    best = jnp.take_along_axis(match, logits.argmax(1)[:, None], axis=1)
    return loss, {
      'loss_clip': loss,
      'accuracy': best.mean(dtype=jnp.float32),
      'scale': scale,
    }
