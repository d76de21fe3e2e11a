"""Contrastive training of a CLIP on pairs of photo and text (Radford et al., 2021).

Both towers see a batch of pairs; each photo is to be nearest to its own text among all
texts of the batch, and each text to its own photo.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from maskclip_jax.data.pipeline import DataConfig
from maskclip_jax.losses.terms import contrastive
from maskclip_jax.nn.clip import CLIPConfig, VisionTower, normalize_pixels, unit
from maskclip_jax.nn.convnext import ConvNeXtCLIPConfig, ConvNeXtTower
from maskclip_jax.plain import above, at_least
from maskclip_jax.systems.system import Preset
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.task import MODEL, Batch, Flat, LossAndTerms, Modules, Task


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
  """The loss, and what learns from it.

  Attributes:
    largest_scale: the learned logit scale is held below this, as CLIP's is.
    equal_texts_match: texts of a batch that are the same, token for token, count as
      texts of each other's photos; else they are wrong answers, as in CLIP.
    sine_positions: a tower that starts from nothing starts with sines as positions of
      its patches, of the size of their contents. Random ones of CLIP's size are lost
      beside the contents, and a short run learns colours but no shapes.
    placement: where photos that are smaller than the tower's square lie in it.
    seen: share of a photo's patches that the tower sees, drawn anew at every step: half
      of them take half the time (Li et al., "Scaling Language-Image Pre-training via
      Masking", CVPR 2023), and the tower learns to do with parts of a photo.
    mosaic: photos along each side of the tower's square. Where there are several, each
      is read by a copy of the class token that sees its patches alone, among those of
      the others: as mask tokens read the things of a scene.
    trainable: which parameters train; all by default.
  """

  largest_scale: float = 100.0
  equal_texts_match: bool = False
  sine_positions: bool = False
  placement: Literal['anywhere', 'centre'] = 'anywhere'
  seen: float = 1.0
  mosaic: int = 1
  trainable: tuple[str, ...] = ('.*',)

  def __post_init__(self):
    above(self, 0, 'largest_scale')
    at_least(self, 1, 'mosaic')
    if not 0 < self.seen <= 1:
      raise ValueError(f'seen must be above 0 and at most 1, not {self.seen}')
    if self.mosaic > 1 and self.seen < 1:
      raise ValueError('photos of a mosaic are seen whole: leave out mosaic or seen')


def patch_positions(grid: int, width: int) -> Float[Array, 'n w']:
  """Sines and cosines of rows and columns, after a row of zeros for the class token.

  Neighbours differ: from half a turn a patch to half a turn over the whole grid, where
  the encodings of large feature maps hardly change over a dozen patches.
  """
  fastest, slowest = math.pi, math.pi / grid
  rates = jnp.geomspace(fastest, slowest, width // 4)
  angles = jnp.arange(grid)[:, None] * rates
  line = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  rows = jnp.broadcast_to(line[:, None], (grid, grid, width // 2))
  columns = jnp.broadcast_to(line, (grid, grid, width // 2))
  table = jnp.concatenate([rows, columns], axis=-1).reshape(grid**2, -1)
  return jnp.concatenate([jnp.zeros((1, width)), table])


def embed_small(
  visual: VisionTower,
  pixels: Float[Array, 'b h w 3'],
  grid: int,
  keys: Key[Array, ' b'] | None,
) -> Float[Array, 'b n c']:
  """[class, patches] plus positions of photos that are smaller than the tower's square.

  Each lies at a random place of the square, or in its centre without keys. Nothing is
  computed for the rest of the square: a photo of half the side costs a quarter.
  """
  patches = visual.conv1(pixels)
  batch, rows, columns, width = patches.shape
  first, *table = jnp.split(visual.positional_embedding[...], [1])
  table = table[0].reshape(grid, grid, width).astype(patches.dtype)
  spare = grid - rows
  if keys is None:
    top, left = jnp.full((2, batch), spare // 2)
  else:
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, spare + 1))
    top, left = draw(keys).T

  def place(top, left):
    return jax.lax.dynamic_slice(table, (top, left, 0), (rows, columns, width))

  patches = (patches + jax.vmap(place)(top, left)).reshape(batch, -1, width)
  first = (visual.class_embedding[...] + first).astype(patches.dtype)
  first = jnp.broadcast_to(first, (batch, 1, width))
  return jnp.concatenate([first, patches], axis=1)


def some_patches(
  tokens: Float[Array, 'b n c'], share: float, keys: Key[Array, ' b']
) -> Float[Array, 'b m c']:
  """The class token and a random share of the patches of each photo, at least one."""
  patches = tokens.shape[1] - 1
  count = max(1, round(share * patches))
  order = jax.vmap(lambda key: jnp.argsort(jax.random.uniform(key, (patches,))))(keys)
  chosen = order[:, :count] + 1
  kept = jnp.take_along_axis(tokens, chosen[..., None], axis=1)
  return jnp.concatenate([tokens[:, :1], kept], axis=1)


def read_mosaics(
  visual: VisionTower, pixels: Float[Array, 'b h w 3'], side: int
) -> Float[Array, 'b d']:
  """Vectors, not normalised, of photos that lie beside each other.

  Each has a copy of the class token, which sees the class token and the patches of its
  photo. The tower's own tokens see all patches and none of the copies.

  Args:
    visual: the tower.
    pixels: `side` times `side` photos after each other fill its square, row by row.
    side: photos along each side.
  """
  batch, height, width, _ = pixels.shape
  squares = pixels.reshape(-1, side, side, height, width, 3)
  squares = squares.transpose(0, 1, 3, 2, 4, 5)
  tokens = visual.embed(squares.reshape(-1, side * height, side * width, 3))
  count, copies = tokens.shape[1], side**2
  grid = math.isqrt(count - 1)
  line = jnp.arange(grid) * side // grid
  owner = (side * line[:, None] + line).reshape(-1)
  seen = jnp.ones((count + copies,) * 2, bool).at[:, count:].set(False)
  seen = seen.at[count:, 1:count].set(owner == jnp.arange(copies)[:, None])
  tokens = [tokens, jnp.repeat(tokens[:, :1], copies, axis=1)]
  tokens = visual.ln_pre(jnp.concatenate(tokens, axis=1))
  tokens = visual.transformer(tokens, seen)[:, count:]
  return visual.project(tokens).reshape(batch, -1)


def judge_pairs(
  photos: Float[Array, 'n d'],
  texts: Float[Array, 'n d'],
  scale: Float[Array, ''],
  tokens: Int[Array, 'n t'] | None = None,
) -> LossAndTerms:
  """The contrastive loss of unit vectors, row i of each being a pair.

  Args:
    photos: of the images.
    texts: of the texts.
    scale: what cosines are multiplied by.
    tokens: given if texts that are the same belong to each other's photos.
  """
  match = jnp.eye(len(photos), dtype=bool)
  if tokens is not None:
    match = (tokens[:, None] == tokens).all(-1)
  logits = scale * jnp.einsum('id,jd->ij', photos, texts)
  loss = contrastive(logits, match)
  best = jnp.take_along_axis(match, logits.argmax(1)[:, None], axis=1)
  return loss, {
    'loss_clip': loss,
    'accuracy': best.mean(dtype=jnp.float32),
    'scale': scale,
  }


def check_captions(data: DataConfig, clip: CLIPConfig | ConvNeXtCLIPConfig) -> None:
  """Fails where captions are longer than a text tower reads."""
  if data.caption_tokens > clip.context_length:
    raise ValueError(
      f'config.data.caption_tokens is {data.caption_tokens} and this CLIP reads at '
      f'most {clip.context_length}'
    )


def check_mosaics(config: TrainConfig, clip: CLIPConfig) -> None:
  """Fails where photos of a batch do not fill squares."""
  side = config.settings.get('mosaic', 1)
  if side == 1:
    return
  if side * config.data.canvas != clip.image_size:
    raise ValueError(
      f'config.settings.mosaic is {side}: so many photos of config.data.canvas, '
      f'{config.data.canvas} pixels, do not fill the {clip.image_size} of this CLIP'
    )
  together = config.data.batch_size // config.optim.accumulate
  if together % side**2:
    raise ValueError(
      f'config.settings.mosaic is {side}: config.data.batch_size, divided by '
      f'config.optim.accumulate, must be a multiple of {side**2}, the photos of a '
      f'square, not {together}'
    )


def check_canvas(data: DataConfig, clip: CLIPConfig) -> None:
  """Fails where photos are of another size than an image tower sees."""
  if data.canvas != clip.image_size:
    raise ValueError(
      f'config.data.canvas is {data.canvas} and this CLIP sees {clip.image_size} '
      'pixels: they must be equal'
    )


@dataclasses.dataclass(frozen=True)
class Contrastive(Task):
  """Photos and their texts find each other in the whole batch of all devices."""

  title = 'contrastive training'
  system = ('clip', 'convnext_clip')
  reads_captions = True

  def __post_init__(self):
    super().__post_init__()
    if isinstance(self.preset.config, ConvNeXtCLIPConfig) and (
      self.config.sine_positions or self.config.seen < 1 or self.config.mosaic > 1
    ):
      raise ValueError(
        'config.settings: sine_positions, seen and mosaic are for a CLIP that reads '
        'patches, and this one has a ConvNeXt: leave them out'
      )

  @classmethod
  def defaults(cls, profile: str) -> ContrastiveConfig:
    return ContrastiveConfig()

  @classmethod
  def check_data(cls, config: TrainConfig, preset: Preset) -> None:
    data, clip = config.data, preset.config
    cls.check_kind(config)
    if isinstance(clip, ConvNeXtCLIPConfig):
      # Takes photos of any size whose sides divide by 32, as every canvas' do.
      check_captions(data, clip)
      return
    if data.canvas > clip.image_size or data.canvas % clip.patch_size:
      raise ValueError(
        f'config.data.canvas is {data.canvas} and this CLIP sees {clip.image_size} '
        f'pixels in patches of {clip.patch_size}: choose as much or less, whole patches'
      )
    check_captions(data, clip)
    check_mosaics(config, clip)

  def derive(self, values: Flat, path: str) -> Array | None:
    if path != 'visual/positional_embedding' or not self.config.sine_positions:
      return None
    clip = self.preset.config
    return patch_positions(clip.grid, clip.vision_width)

  def photos(
    self,
    visual: VisionTower | ConvNeXtTower,
    pixels: Float[Array, 'b h w 3'],
    keys: Key[Array, ' b'],
  ) -> Float[Array, 'b d']:
    """Image vectors, not normalised; each photo has a key of its own."""
    clip, config = self.preset.config, self.config
    if isinstance(visual, ConvNeXtTower):
      return visual(pixels)
    if config.mosaic > 1:
      return read_mosaics(visual, pixels, config.mosaic)
    place, choose = jax.vmap(jax.random.split, out_axes=1)(keys)
    if pixels.shape[1] == clip.image_size:
      tokens = visual.embed(pixels)
    else:
      centred = config.placement == 'centre'
      tokens = embed_small(visual, pixels, clip.grid, None if centred else place)
    if config.seen < 1:
      tokens = some_patches(tokens, config.seen, choose)
    return visual.project(visual.transformer(visual.ln_pre(tokens))[:, 0])

  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    clip, tokens = modules[MODEL], batch['tokens']

    def embed(image, tokens, keys):
      pixels = normalize_pixels(image.astype(jnp.float32), clip.config)
      photos = self.photos(clip.visual, pixels, keys)
      return unit(photos), unit(clip.text(tokens))

    keys = jax.random.split(key, len(tokens))
    photos, texts = self.in_parts(embed)(batch['image'], tokens, keys)
    scale = jnp.exp(
      jnp.minimum(clip.logit_scale[...], math.log(self.config.largest_scale))
    )
    same = tokens if self.config.equal_texts_match else None
    return judge_pairs(photos, texts, scale, same)


TASK = Contrastive
