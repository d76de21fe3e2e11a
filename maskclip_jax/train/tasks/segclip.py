"""SegCLIP's training: groups learned from photos and their captions [segclip 2, 3].

Three losses: photo and caption find each other in the whole batch of all devices;
patches of one superpixel go to one group; and hidden patches are painted from the
groups of the others, in a second pass. No mask is ever seen.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from maskclip_jax.losses.grouping import hidden_patch_error, superpixel_kl
from maskclip_jax.nn import group_vit
from maskclip_jax.nn.clip import capped_scale, normalize_pixels, unit
from maskclip_jax.plain import at_least
from maskclip_jax.systems.segclip.model import LARGEST_SCALE, SegCLIP
from maskclip_jax.systems.system import Preset
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.task import MODEL, Batch, Flat, LossAndTerms, Modules, Task
from maskclip_jax.train.tasks.contrastive import (
  check_canvas,
  check_captions,
  judge_pairs,
)

# All but CLIP's embeddings and the first norm [segclip 3.4].
TRAINABLE = (
  r'clip/logit_scale',
  r'clip/text/(transformer|ln_final|text_projection)/.*',
  r'clip/visual/(transformer|ln_post|proj)/.*',
  r'grouping/.*',
  r'reconstruction/.*',
)


@dataclasses.dataclass(frozen=True)
class SegCLIPLossConfig:
  """The losses, and what learns from them.

  Attributes:
    contrastive: weight of photo and caption finding each other.
    superpixel: weight of one group a superpixel; 0 reads no superpixels.
    reconstruction: weight of the hidden patches; 0 spares the second pass.
    equal_texts_match: captions of a batch that are the same, token for token, count as
      captions of each other's photos; else they are wrong answers, as published.
    mixed: photos whose patches the centres confuse, 96 in the published training by an
      oversight; 1, every photo for itself, is what the paper describes [segclip 6].
    trainable: which parameters train.
  """

  contrastive: float = 1.0
  superpixel: float = 1.0
  reconstruction: float = 1.0
  equal_texts_match: bool = False
  mixed: int = 1
  trainable: tuple[str, ...] = TRAINABLE

  def __post_init__(self):
    at_least(self, 0, 'contrastive', 'superpixel', 'reconstruction')
    at_least(self, 1, 'mixed')
    if not (self.contrastive or self.superpixel or self.reconstruction):
      raise ValueError('all weights of the losses are 0: nothing would be learned')


@dataclasses.dataclass(frozen=True)
class SegCLIPTraining(Task):
  """Groups of patches from captions, superpixels and hidden patches."""

  title = 'training of groups'
  system = 'segclip'
  reads_captions = True

  @classmethod
  def defaults(cls, profile: str) -> SegCLIPLossConfig:
    return SegCLIPLossConfig()

  @classmethod
  def check_data(cls, config: TrainConfig, preset: Preset) -> None:
    data, clip = config.data, preset.config.clip
    cls.check_kind(config)
    check_canvas(data, clip)
    check_captions(data, clip)
    if config.settings.get('superpixel', 1.0) and (
      data.superpixel_patch != clip.patch_size
    ):
      raise ValueError(
        f'config.data.superpixel_patch is {data.superpixel_patch} and the patches of '
        f'this SegCLIP have {clip.patch_size} pixels: set it to that, or do without '
        'superpixels (config.settings.superpixel=0)'
      )
    mixed = config.settings.get('mixed', 1)
    if mixed > 1 and (config.optim.accumulate > 1 or data.batch_size % mixed):
      raise ValueError(
        f'config.settings.mixed is {mixed}: it must divide the batch of '
        f'{data.batch_size}, which must not be accumulated in parts'
      )

  def photo_losses(
    self,
    model: SegCLIP,
    photos: Float[Array, 'b r r 3'],
    superpixels: Int[Array, 'b n'] | None,
    keys: Key[Array, ' b'],
  ) -> tuple[Float[Array, 'b d'], dict[str, Float[Array, ' b']]]:
    """Vectors of photos, not normalised, and what each photo costs by itself.

    Args:
      model: with parameters.
      photos: RGB, 0 to 255.
      superpixels: of each patch.
      keys: one per photo.
    """
    settings, config = self.config, self.preset.config
    pixels = normalize_pixels(photos, config.clip)
    patches = config.clip.grid**2
    group, order, paint = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(
      keys
    )

    def gumbel(keys, patches):
      shape = (config.centres, patches)
      return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)

    found = model.encode(pixels, gumbel(group, patches), mixed=settings.mixed)
    used = (found.groups.hard.sum(-1) > 0.5).sum(-1)
    terms = {'groups': used.astype(jnp.float32)}
    if settings.superpixel:
      terms['loss_superpixel'] = superpixel_kl(found.groups.hard, superpixels)
    if settings.reconstruction:
      noise = jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(order)
      order = group_vit.shuffled_patches(noise)
      noise = gumbel(paint, config.visible)
      painted = model.paint(pixels, order, noise, mixed=settings.mixed)
      error = hidden_patch_error(painted.patches, pixels, painted.hidden)
      terms['loss_reconstruction'] = error
    return found.image, terms

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    model, tokens, settings = modules[MODEL], batch['tokens'], self.config

    def embed(rows):
      photos = rows['image'].astype(jnp.float32)
      image, terms = self.photo_losses(
        model, photos, rows.get('superpixels'), rows['keys']
      )
      return unit(image), unit(model.clip.text(rows['tokens'])), terms

    rows = {
      name: batch[name] for name in ('image', 'tokens', 'superpixels') if name in batch
    }
    rows['keys'] = jax.random.split(key, len(tokens))
    photos, texts, terms = self.in_parts(embed)(rows)
    scale = capped_scale(model.clip.logit_scale[...], LARGEST_SCALE)
    same = tokens if settings.equal_texts_match else None
    _, found = judge_pairs(photos, texts, scale, same)
    terms = {name: values.mean() for name, values in terms.items()} | found
    weights = {
      'loss_clip': settings.contrastive,
      'loss_superpixel': settings.superpixel,
      'loss_reconstruction': settings.reconstruction,
    }
    return sum(w * terms[name] for name, w in weights.items() if w), terms


TASK = SegCLIPTraining
