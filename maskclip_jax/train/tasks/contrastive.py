"""Contrastive training of a CLIP on pairs of photo and text (Radford et al., 2021).

Both towers see a batch of pairs; each photo is to be nearest to its own text among all
texts of the batch, and each text to its own photo.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array

from maskclip_jax.nn.clip import normalize_pixels, unit
from maskclip_jax.ops.losses import contrastive
from maskclip_jax.train.task import MODEL, Batch, Flat, Judged, Modules, Task


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
  """The loss, and what learns from it.

  Attributes:
    largest_scale: the learned logit scale is held below this, as CLIP's is.
    equal_texts_match: texts of a batch that are the same, token for token, count as
      texts of each other's photos; else they are wrong answers, as in CLIP.
    trainable: which parameters train; all by default.
  """

  largest_scale: float = 100.0
  equal_texts_match: bool = False
  trainable: tuple[str, ...] = ('.*',)


@dataclasses.dataclass(frozen=True)
class Contrastive(Task):
  """Photos and their texts find each other in the whole batch of all devices."""

  title = 'contrastive training'
  system = 'clip'
  reads_captions = True

  @classmethod
  def defaults(cls, profile: str) -> ContrastiveConfig:
    return ContrastiveConfig()

  def loss(self, modules: Modules, constants: Flat, batch: Batch, key: Array) -> Judged:
    clip, tokens = modules[MODEL], batch['tokens']
    pixels = normalize_pixels(batch['image'].astype(jnp.float32))
    photos, texts = unit(clip.visual(pixels)), unit(clip.text(tokens))
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
