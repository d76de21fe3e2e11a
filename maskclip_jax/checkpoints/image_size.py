"""A CLIP that is shown photos of another size than it was trained with.

A ViT learned a vector for every place of its grid of patches. For another grid they are
resized like a picture, bicubic and antialiased, as open_clip does; the class token's
stays. Towers that take photos of any size need nothing.
"""

import dataclasses
import numbers
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskclip_jax.checkpoints import bundle, params, restore
from maskclip_jax.checkpoints.detect import CLIP
from maskclip_jax.mapping.problems import Problems
from maskclip_jax.names import an
from maskclip_jax.nn.clip import CLIPConfig
from maskclip_jax.nn.positions import resized_places
from maskclip_jax.systems.system import Preset, find_system

Parameters = Mapping[str, np.ndarray]

# Vectors of places, and how many rows stand before those of the grid.
_PLACES = {'visual/positional_embedding': 1, 'visual/mask_prompts': 0}


def clip_of_size(
  config: Any, parameters: Parameters, side: int, prefix: str = ''
) -> tuple[Any, Parameters]:
  """The config and the parameters of a CLIP that is shown squares of another side.

  Args:
    config: of the CLIP.
    parameters: path -> array.
    side: in pixels.
    prefix: what its paths begin with.

  Raises:
    ValueError: no whole number of patches, or a tower of fixed size.
  """
  grid = isinstance(config, CLIPConfig)
  if not hasattr(config, 'image_size'):
    raise ValueError('a model that has no CLIP takes no image size: leave it out')
  if isinstance(side, bool) or not isinstance(side, numbers.Integral):
    raise ValueError(f'image_size is a whole number of pixels, not {side!r}')
  if not grid and not getattr(config, 'any_size', False):
    raise ValueError(
      f'this image tower takes photos of {config.image_size} x {config.image_size}: '
      'leave the image size out, which is for a ViT of CLIP, a ConvNeXt and a SigLIP 2 '
      'NaFlex'
    )
  config = dataclasses.replace(config, image_size=int(side))
  if not grid:
    return config, parameters
  places = {
    path: resized_places(parameters[path], config.grid, before)
    for name, before in _PLACES.items()
    if (path := prefix + name) in parameters
  }
  return config, {**parameters, **places}


def with_image_size(
  preset: Preset, parameters: Parameters, side: int
) -> tuple[Preset, Parameters]:
  """The same of a model, which is a CLIP or holds one.

  Raises:
    ValueError: see `clip_of_size`; another part of it is of that size, too; or the
      parameters are not those of the model.
  """
  config = preset.config
  if hasattr(config, CLIP):
    clip, parameters = clip_of_size(config.clip, parameters, side, f'{CLIP}/')
    config = dataclasses.replace(config, clip=clip)
  else:
    config, parameters = clip_of_size(config, parameters, side)
  expected = params.flatten(params.abstract_model(preset.system, config))
  problems = Problems()
  problems['missing'] = [path for path in expected if path not in parameters]
  problems['unknown'] = sorted(set(parameters) - set(expected))
  problems.raise_if_any('the parameters are not those of its config')
  if any(parameters[path].shape != leaf.shape for path, leaf in expected.items()):
    title = find_system(preset.system).title
    raise ValueError(
      f'more than the CLIP of {an(title)} is made for photos of one size: leave the '
      'image size out'
    )
  return dataclasses.replace(preset, config=config), parameters


def resize_bundle(
  source: pathlib.Path, to: str | os.PathLike, side: int
) -> tuple[Preset, int, str]:
  """Writes a bundle again, whose CLIP is shown squares of another side.

  Returns:
    Its preset, the number of its parameters, and what was done, for people.

  Raises:
    FileNotFoundError, ValueError, OSError: see `with_image_size` and `bundle.save`.
  """
  opened, before = restore.open_bundle(source)
  preset, parameters = with_image_size(before, opened.parameters, side)
  count = params.count(parameters)
  note = f'its CLIP is shown photos of {side} pixels, {count:,} parameters'
  card = source / bundle.CARD
  text = card.read_text() if card.is_file() else ''
  # Of an earlier size.
  text = re.sub(r'\nHere its CLIP is shown photos of .*\n', '', text)
  bundle.save(
    to,
    preset.to_dict(),
    parameters,
    source=opened.source | {'image_size': int(side)},
    card=f'{text}\nHere {note}.\n',
    tokenizer=opened.tokenizer,
  )
  return preset, count, note
