"""SegCLIP (Luo et al., ICML 2023): patches gathered by learnable centres.

Learned from photos with captions, without masks. A group of patches is a mask; its
class is that of the nearest words. A photo is read in windows of CLIP's size, so there
is a set of groups for each. Source: [segclip 4.3, 4.4].
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from maskclip_jax.nn import group_vit
from maskclip_jax.nn.clip import (
  CLIP,
  CLIPConfig,
  capped_scale,
  normalize_pixels,
)
from maskclip_jax.nn.group_vit import Grouping, Groups, Reconstruction
from maskclip_jax.postprocess.partition import Partition
from maskclip_jax.systems.contract import (
  Images,
  Outputs,
  Scores,
  TextBank,
  check_inputs,
)
from maskclip_jax.systems.regions import class_similarity
from maskclip_jax.systems.segclip import windows as photo_windows

# The learned scale is held below this, as CLIP's is.
LARGEST_SCALE = 100.0


@dataclasses.dataclass(frozen=True)
class SegCLIPConfig:
  """Sizes of a SegCLIP.

  Attributes:
    clip: the CLIP it starts from; its image tower is cut in two.
    first_blocks: blocks of the image tower before the groups.
    centres: groups.
    centre_blocks: blocks in which the centres read the patches.
    temperature: the temperature of the assignment in training.
    hidden: share of the patches that the painting pass does not see.
    spread_blocks: blocks between the groups and the painting decoder.
    decoder_width: channels of that decoder.
    decoder_depth: its blocks.
    decoder_heads: its attention heads.
    stride: from one window to the next, in pixels; the side of a window by default.
    top_classes: classes of a window that its groups choose among.

  Raises:
    ValueError: sizes that make no model.
  """

  clip: CLIPConfig
  first_blocks: int = 10
  centres: int = 8
  centre_blocks: int = 2
  temperature: float = 0.9
  hidden: float = 0.75
  spread_blocks: int = 2
  decoder_width: int = 384
  decoder_depth: int = 3
  decoder_heads: int = 8
  stride: int | None = None
  top_classes: int = 5

  def __post_init__(self):
    if not 0 < self.first_blocks < self.clip.vision_layers:
      raise ValueError(
        f'first_blocks must be between 0 and the {self.clip.vision_layers} blocks of '
        f'the tower, not {self.first_blocks}'
      )
    if not 1 <= self.visible < self.clip.grid**2:
      raise ValueError(
        f'hidden must leave some of {self.clip.grid**2} patches visible and hide '
        f'some, which {self.hidden} does not'
      )
    for name in ('centres', 'temperature', 'top_classes'):
      if getattr(self, name) <= 0:
        raise ValueError(f'{name} must be positive, not {getattr(self, name)}')
    if not 0 < self.step <= self.clip.image_size:
      raise ValueError(
        f'stride must be in 1..{self.clip.image_size}, the side of a window, or the '
        f'windows leave gaps; not {self.stride}'
      )

  @property
  def visible(self) -> int:
    """Patches that the painting pass sees."""
    return group_vit.visible_patches(self.clip.grid**2, self.hidden)

  @property
  def step(self) -> int:
    """From one window to the next, in pixels."""
    return self.clip.image_size if self.stride is None else self.stride


class Encoded(NamedTuple):
  """What the towers make of square photos; vectors are not normalised.

  Attributes:
    image: one vector per photo.
    vectors: one per group.
    groups: which patches they are made of.
  """

  image: Float[Array, 'b d']
  vectors: Float[Array, 'b g d']
  groups: Groups


class Painted(NamedTuple):
  """The painting pass of training.

  Attributes:
    patches: the predicted pixels of every patch.
    hidden: the patches that were not seen.
    groups: made of the others.
  """

  patches: Float[Array, 'b n p']
  hidden: Bool[Array, 'b n']
  groups: Groups


class SegCLIP(nnx.Module):
  """CLIP, the group module between its blocks, and the painting of training."""

  def __init__(self, config: SegCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    clip, common = config.clip, {'dtype': dtype, 'rngs': rngs}
    self.clip = CLIP(clip, **common)
    self.grouping = Grouping(
      clip.vision_width,
      clip.vision_heads,
      centres=config.centres,
      layers=config.centre_blocks,
      temperature=config.temperature,
      **common,
    )
    self.reconstruction = Reconstruction(
      clip,
      centres=config.centres,
      blocks=config.spread_blocks,
      width=config.decoder_width,
      depth=config.decoder_depth,
      heads=config.decoder_heads,
      **common,
    )
    self.config = config

  def encode(
    self,
    pixels: Float[Array, 'b r r 3'],
    noise: Float[Array, 'b g n'] | None = None,
    *,
    mixed: int = 1,
  ) -> Encoded:
    """Groups of square photos, and their vectors.

    Args:
      pixels: CLIP-normalised.
      noise: Gumbel samples for the assignment, in training.
      mixed: photos whose patches the centres confuse, as the released training did
        with those of a device; see `group_vit.mix_photos`.
    """
    visual, first = self.clip.visual, self.config.first_blocks
    patches = group_vit.embed_patches(visual, pixels)
    patches = group_vit.first_stage(visual, patches, first)
    groups = self.grouping(patches, noise, mixed=mixed)
    image, vectors = group_vit.second_stage(visual, groups.tokens, first)
    return Encoded(image, vectors, groups)

  def paint(
    self,
    pixels: Float[Array, 'b r r 3'],
    order: Int[Array, 'b n'],
    noise: Float[Array, 'b g m'] | None = None,
    *,
    mixed: int = 1,
  ) -> Painted:
    """Predicts the pixels of hidden patches from the groups of the others.

    Args:
      pixels: CLIP-normalised.
      order: the patches at random; the first of them stay visible.
      noise: Gumbel samples for the assignment of the visible patches.
      mixed: as for `encode`.
    """
    visual, config = self.clip.visual, self.config
    patches = group_vit.embed_patches(visual, pixels)
    patches = group_vit.take_patches(patches, order[:, : config.visible])
    patches = group_vit.first_stage(visual, patches, config.first_blocks)
    groups = self.grouping(patches, noise, mixed=mixed)
    hidden = group_vit.hidden_patches(order, config.visible)
    return Painted(self.reconstruction(groups, order), hidden, groups)

  def _windows(
    self, images: Images
  ) -> tuple[photo_windows.Windows, Float[Array, 'b t g d'], Float[Array, 'b t g n']]:
    """Windows of photos; vectors of each, its own first; which patches groups have."""
    window = self.config.clip.image_size
    placed = photo_windows.place_windows(images, window, self.config.step)

    def encode(photo, start):
      pixels = photo_windows.cut_windows(images, photo, start, window)
      found = self.encode(normalize_pixels(pixels, self.config.clip))
      vectors = jnp.concatenate([found.image[:, None], found.vectors], axis=1)
      return vectors, found.groups.soft

    return placed, *photo_windows.over_real(encode, placed)

  def _masks(
    self,
    images: Images,
    placed: photo_windows.Windows,
    soft: Float[Array, 'b t g n'],
  ) -> Partition:
    """The groups of all windows as masks of the photo."""
    window = self.config.clip.image_size
    winner = photo_windows.winners(soft, images, placed, window)
    return photo_windows.masks_of(winner, placed, self.config.centres)

  def propose_masks(self, images: Images, text: TextBank | None = None) -> Outputs:
    """The groups alone; those of windows that a photo does not have are no objects."""
    check_inputs(images)
    placed, _, soft = self._windows(images)
    real = jnp.repeat(placed.real, self.config.centres, axis=1)
    objectness = jnp.where(real, 0.0, -jnp.inf)
    masks = self._masks(images, placed, soft)
    return Outputs(masks, None, objectness, images.input_hw)

  def __call__(
    self, images: Images, text: TextBank, scores: Scores | None = None
  ) -> Outputs:
    """The groups of all windows as masks of the photo, and their classes.

    A class of the bank without a vector is the background: it wins where no other class
    scores as much as `scores.background_threshold`. Score maps are sums over masks of
    class probability times mask probability, resized last ('scores_first').

    Args:
      images: photos on their canvas.
      text: class vectors.
      scores: has the threshold.
    """
    check_inputs(images, text)
    config, batch = self.config, images.pixels.shape[0]
    groups = config.centres
    placed, vectors, soft = self._windows(images)
    # The vectors of windows that no photo has are zero and cannot be normalised.
    vectors = jnp.where(placed.real[..., None, None], vectors, 1.0)
    similarity = class_similarity(
      vectors.reshape(batch, -1, vectors.shape[-1]),
      text,
      capped_scale(self.clip.logit_scale[...], LARGEST_SCALE),
    )
    similarity = similarity.reshape(-1, 1 + groups, similarity.shape[-1])
    class_logits = window_classes(
      similarity[:, 0],
      similarity[:, 1:],
      text,
      (scores or Scores()).background_threshold,
      config.top_classes,
    ).reshape(batch, -1, similarity.shape[-1])
    real = jnp.repeat(placed.real, groups, axis=1)
    return Outputs(
      self._masks(images, placed, soft),
      class_logits,
      jnp.where(real, jax.nn.logsumexp(class_logits, axis=-1), -jnp.inf),
      images.input_hw,
    )


def window_classes(
  image: Float[Array, 't k'],
  groups: Float[Array, 't g k'],
  text: TextBank,
  threshold: float | Float[Array, ''],
  top: int,
) -> Float[Array, 't g k']:
  """Log-scores of the classes of each window's groups [segclip 4.4].

  A group's probabilities over all classes times those over the classes that the window
  as a whole resembles most. Where none of them reaches the threshold the group belongs
  to the background with score 1; the best group of a window always reaches it.

  Args:
    image: scaled similarity of windows to classes.
    groups: the same of their groups.
    text: says which columns are classes.
    threshold: below which a pixel is background; not used without a column for it.
    top: classes that the groups of a window choose among.

  Returns:
    Logarithms of scores, which do not add up to one.
  """
  named = text.valid & text.embeddings.any(-1)
  image = jnp.where(named, image, -jnp.inf)
  groups = jnp.where(named, groups, -jnp.inf)
  columns = image.shape[-1]
  _, best = jax.lax.top_k(image, min(top, columns))
  shortlist = (best[..., None] == jnp.arange(columns)).any(1)[:, None]
  log_p = jax.nn.log_softmax(groups)
  log_p += jax.nn.log_softmax(jnp.where(shortlist, groups, -jnp.inf))
  best = jnp.exp(log_p.max(-1))
  limit = jnp.minimum(threshold, best.max(-1, keepdims=True))
  background = jnp.where(best < limit, 0.0, -jnp.inf)[..., None]
  return jnp.where(text.valid & ~named, background, log_p)
