"""A CLIP by itself, for those who build on one: `load_clip(...)`.

    clip = maskclip_jax.load_clip('open_clip_model.safetensors')
    similarity = clip.encode_images(['photo.jpg']) @ clip.encode_texts(['a cat']).T

The module behind it is plain NNX: `clip.model.visual` and `clip.model.text` are its
towers, to be differentiated, trained or taken apart. What CLIP knows of every patch:

    tower = clip.model.visual
    tokens = tower.ln_pre(tower.embed(clip.preprocess(['photo.jpg'])))
    vectors = tower.project(tower.transformer(tokens))[:, 1:]  # (1, patches, d)
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from maskclip_jax import jax_settings, photos
from maskclip_jax.checkpoints import bundle, convert, params, restore
from maskclip_jax.checkpoints.detect import CLIP
from maskclip_jax.checkpoints.image_size import clip_of_size
from maskclip_jax.checkpoints.tensor_file import without_prefix
from maskclip_jax.names import an
from maskclip_jax.nn.clip import normalize_pixels, unit
from maskclip_jax.systems.system import Preset, find_system, system_of
from maskclip_jax.text import tokenizer
from maskclip_jax.text.bank import encode_prompts
from maskclip_jax.text.word_pieces import WordPieces, word_pieces


@jax_settings.own()
def load_clip(
  model: str | os.PathLike,
  *,
  dtype: str = 'float32',
  activation: str | None = None,
  image_size: int | None = None,
) -> 'ClipEncoder':
  """Loads a CLIP, or the CLIP inside a system.

  Args:
    model: an official file (OpenAI's .pt, open_clip's, Hugging Face's, or the folder of
      a repository), as it was fetched; or a bundle, a training run or a name of
      `list_models()`, as for `load`.
    dtype: compute type, 'float32' or 'bfloat16'.
    activation: 'quick_gelu' or 'gelu', where no file beside the weights tells it; by
      default OpenAI's, 'quick_gelu'. Not for a SigLIP.
    image_size: side of the square photos, in pixels; by default what it was trained
      with. The positions of a ViT are resized for others; a ConvNeXt takes any multiple
      of 32 and a SigLIP 2 NaFlex of its patches.

  Raises:
    FileNotFoundError: there is no such file or model.
    ValueError: a file that holds no whole CLIP or is damaged, or a size that does not
      fit.
  """
  path = pathlib.Path(model)
  if path.exists() and not bundle.is_bundle(bundle.locate(path)):
    read = convert.read_clip(path)
    system, config, notes = read.preset.system, read.preset.config, read.notes
    flat, source = read.parameters, str(path)
    folder = read.sources.main.path.parent
  else:
    opened, preset = restore.open_bundle(restore.find_bundle(model))
    config, inside = _clip_of(preset, opened.directory)
    system = system_of(config).name
    flat = without_prefix(opened.parameters, inside)
    source, notes = restore.misfit(opened), ()
    folder = opened.directory
  if activation is not None:
    if not hasattr(config, 'activation'):
      raise ValueError(
        f'activation is not for {an(find_system(system).title)}, whose towers have one '
        'each: leave it out'
      )
    config = dataclasses.replace(config, activation=activation)
  if image_size is not None:
    config, flat = clip_of_size(config, flat, image_size)
  network = params.abstract_model(system, config, dtype=restore.as_dtype(dtype))
  network = params.load_into(network, flat, source=source)
  return ClipEncoder(network, pieces=word_pieces(folder, config), notes=notes)


def _clip_of(preset: Preset, directory: pathlib.Path) -> tuple[Any, str]:
  """The config of the CLIP in a bundle, and the prefix of its parameters."""
  found = find_system(preset.system)
  if not found.segments:
    return preset.config, ''
  if CLIP not in found.parts:
    raise ValueError(f'{directory} is a bundle of {found.title}, which has no CLIP')
  return getattr(preset.config, CLIP), f'{CLIP}/'


class ClipEncoder:
  """A CLIP with its tokenizer and its way of looking at photos.

  It encodes with the weights that the module has now: of a module that was trained
  further, make another.

  Attributes:
    model: the NNX module. `model.visual(pixels)` and `model.text(tokens)` give vectors
      that are not normalised; `model.logit_scale` is stored as its logarithm.
    config: its sizes.
    image_size: side of the square photos, in pixels.
    notes: what neither its file nor one beside it told, and what was taken instead.
  """

  def __init__(
    self,
    model: nnx.Module,
    *,
    image_size: int | None = None,
    pieces: WordPieces | None = None,
    notes: Sequence[str] = (),
  ):
    """Wraps a module; see `load_clip`.

    Args:
      model: the module.
      image_size: side of the square photos; what its config says by default.
      pieces: its tokenizer, where that is not CLIP's.
      notes: what was not told.

    Raises:
      ValueError: a size that the image tower does not take.
    """
    self.model, self.config, self.notes = model, model.config, tuple(notes)
    self._pieces = pieces
    usual = model.config.image_size
    if image_size is None:
      image_size = usual
    elif getattr(model.config, 'any_size', False):
      # Refuses what is not whole patches.
      image_size = dataclasses.replace(model.config, image_size=image_size).image_size
    elif image_size != usual:
      raise ValueError(
        f'this image tower takes photos of {usual} x {usual}: leave image_size out'
      )
    self.image_size = image_size
    whole, self._weights = params.split(model)
    self._visual = jax.jit(lambda weights, pixels: unit(whole(weights).visual(pixels)))
    self._text = jax.jit(lambda weights, tokens: unit(whole(weights).text(tokens)))

  @jax_settings.own()
  def preprocess(self, photo_list: Iterable[photos.Photo]) -> Float[Array, 'b r r 3']:
    """Photos as the image tower reads them, in CLIP's own way.

    The short side is resized to `image_size` (bicubic, antialiased) and the middle
    square is cut out, or the photo is squashed into the square, as SigLIP's are; and
    the channels are normalised.

    Args:
      photo_list: paths, Pillow images, or arrays (h, w, 3) of uint8 or of 0..1.

    Raises:
      FileNotFoundError, ValueError: which photo cannot be read; or one photo instead of
        a list.
    """
    photos.check_list(photo_list, 'preprocess')
    squash = getattr(self.config, 'squashes', False)
    make = _squashed if squash else _square
    squares = [make(photos.open_photo(p), self.image_size) for p in photo_list]
    if not squares:
      raise ValueError('preprocess takes at least one photo')
    return normalize_pixels(np.stack(squares).astype(np.float32), self.config)

  def tokenize(self, texts: str | Sequence[str]) -> Int[np.ndarray, 'n t']:
    """Token ids of texts, each as long as the text tower reads.

    Raises:
      ValueError: a text is too long.
    """
    if self._pieces is not None:
      return self._pieces(texts)
    return tokenizer.tokenize(texts, self.config.context_length)

  @jax_settings.own()
  def encode_images(self, photo_list: Iterable[photos.Photo]) -> Float[Array, 'b d']:
    """Unit vectors of photos; see `preprocess`. Compiles for every number of them."""
    return self._visual(self._weights, self.preprocess(photo_list))

  @jax_settings.own()
  def encode_texts(self, texts: Sequence[str]) -> Float[np.ndarray, 'n d']:
    """Unit vectors of any number of texts, by one program; long texts are cut."""
    tower = functools.partial(self._text, self._weights)
    texts = [texts] if isinstance(texts, str) else texts
    longest = self.config.context_length
    return encode_prompts(texts, tower, longest, pieces=self._pieces)


def _squashed(
  photo: UInt8[np.ndarray, 'h w 3'], side: int
) -> UInt8[np.ndarray, 'r r 3']:
  """A photo resized to a square."""
  image = Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC)
  return np.asarray(image)


def _square(photo: UInt8[np.ndarray, 'h w 3'], side: int) -> UInt8[np.ndarray, 'r r 3']:
  """The middle of a photo whose short side is resized to `side`."""
  height, width = photo.shape[:2]
  # The long side is rounded down, as torchvision does.
  short = min(height, width)
  size = [int(side * length / short) for length in (width, height)]
  image = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)
  left, top = (round((length - side) / 2) for length in size)
  return np.asarray(image.crop((left, top, left + side, top + side)))
