"""From a bundle to a model: sizes from its config, then the weights, one at a time."""

import os
import pathlib

import jax.numpy as jnp
from flax import nnx

from maskclip_jax import jax_settings, zoo
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.tensor_file import shapes_of
from maskclip_jax.mapping.problems import NAMED
from maskclip_jax.mapping.sizes import KnownSizes, differences
from maskclip_jax.systems.system import Preset, find_system


@jax_settings.own()
def load_model(
  model: str | os.PathLike,
  *,
  dtype=jnp.float32,
  cache_dir: str | os.PathLike | None = None,
  narrow: bool = False,
  pixel_dtype: str | None = None,
) -> tuple[nnx.Module, Preset, bundle.Bundle]:
  """The network of a bundle, to be called, differentiated or trained.

      model, preset, _ = load_model('clip_baseline_miniature')
      images = Images.from_arrays([photo])
      outputs = model(images, text_bank)

  Args:
    model: a bundle's directory, that of a training run, or a name of `list_models()`.
    dtype: compute type; parameters are float32.
    cache_dir: where models that were converted by name lie, below `models`.
    narrow: parameters that are only read in `dtype` have it, see `params.narrowed`; not
      for training.
    pixel_dtype: compute type of the pixel decoder; that of the bundle's config, which
      is float32 as published, by default.

  Returns:
    The NNX module; its preset, which is everything but the weights; and the bundle.

  Raises:
    FileNotFoundError, ValueError: see `find_bundle`, `bundle.load` and `read_preset`.
  """
  opened, preset = open_bundle(find_bundle(model, cache_dir))
  if pixel_dtype is not None:
    preset = preset.with_pixel_dtype(pixel_dtype)
  try:
    shapes = params.abstract_model(preset.system, preset.config, dtype=dtype)
  except ValueError as error:
    raise ValueError(f'{opened.directory / bundle.CONFIG}: {error}') from error
  if narrow:
    shapes = params.narrowed(shapes, dtype)
  network = params.load_into(shapes, opened.parameters, source=misfit(opened))
  return network, preset, opened


def open_bundle(directory: str | os.PathLike) -> tuple[bundle.Bundle, Preset]:
  """A bundle and its preset; no tensor is read yet.

  Raises:
    FileNotFoundError, ValueError: see `bundle.load` and `read_preset`.
  """
  opened = bundle.load(directory)
  return opened, read_preset(opened)


def read_preset(opened: bundle.Bundle) -> Preset:
  """The preset of a bundle, its sizes compared with the tensors.

  Whatever a config says, building a network of it takes no longer than one of the sizes
  that the tensors have.

  Raises:
    ValueError: a field that cannot be, or a size that the tensors do not have.
  """
  path = opened.directory / bundle.CONFIG
  try:
    preset = Preset.from_dict(opened.config)
    shapes = shapes_of(opened.parameters)
    known = KnownSizes(shapes, frozenset(shapes))
    sizes = find_system(preset.system).sized(preset.config, known)
  except (ValueError, TypeError, ArithmeticError) as error:
    raise ValueError(f'{path}: {error}') from error
  if preset.labels and len(preset.labels) != getattr(
    preset.config, 'num_classes', None
  ):
    raise ValueError(
      f'{path} has {len(preset.labels)} labels and a class head of '
      f'{getattr(preset.config, "num_classes", None) or 0} classes: convert it again'
    )
  if lines := differences(preset.config, sizes):
    raise ValueError(
      f'{path} does not fit {bundle.TENSORS}, by whose tensors '
      f'{"; ".join(lines[:NAMED])}'
    )
  return preset


def as_dtype(name: str) -> jnp.dtype:
  """A compute type by its name, 'float32' or 'bfloat16'."""
  if name not in ('float32', 'bfloat16'):
    raise ValueError(f"dtype must be 'float32' or 'bfloat16', not {name!r}")
  return jnp.dtype(name)


def misfit(opened: bundle.Bundle) -> str:
  """How an error begins where the tensors of a bundle are not those of its config."""
  return f'{opened.directory}: {bundle.CONFIG} does not fit {bundle.TENSORS}'


def find_bundle(
  model: str | os.PathLike, cache_dir: str | os.PathLike | None = None
) -> pathlib.Path:
  """The directory of a model named by its path or by its name in the zoo.

  Raises:
    FileNotFoundError: there is none, or its weights are to be fetched.
    ValueError: a file, as published weights are before they are converted.
  """
  path = pathlib.Path(model)
  if path.is_dir():
    return bundle.locate(path)
  if str(model) in zoo.shipped():
    return zoo.shipped()[str(model)]
  if str(model) in zoo.presets():
    if cache_dir is not None:
      kept = pathlib.Path(cache_dir) / 'models' / str(model)
      if kept.is_dir():
        return kept
    if str(model) not in zoo.cards():
      raise FileNotFoundError(
        f'{model} is made by training (configs/) or of two models (convert): give the '
        'directory of its run or bundle'
      )
    card = zoo.cards()[str(model)]
    raise FileNotFoundError(
      f'the weights of {model} are not here and not distributed with this package: '
      f'fetch them ({card.weights}), then `python -m maskclip_jax convert FILE --to '
      'DIR` and use DIR as the model'
    )
  if path.is_file():
    raise ValueError(
      f'{path} is a file, and a model is a directory: `python -m maskclip_jax convert '
      f'{path} --to DIR` makes one of published weights; then use DIR as the model'
    )
  raise FileNotFoundError(
    f'there is no model {str(model)!r}: give a bundle directory or a name that '
    '`python -m maskclip_jax models list` shows'
  )
