"""From a bundle to a model: sizes from its config, then the weights, one at a time."""

import os

import jax.numpy as jnp
from flax import nnx

from maskclip_jax import jax_settings
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.systems.system import Preset


@jax_settings.own()
def load_model(
  directory: str | os.PathLike, *, dtype=jnp.float32
) -> tuple[nnx.Module, Preset, bundle.Bundle]:
  """The model of a bundle, its preset, and the bundle itself.

  Raises:
    FileNotFoundError, ValueError: see `bundle.load`; or the config does not fit the
      tensors.
  """
  opened = bundle.load(directory)
  try:
    preset = Preset.from_dict(opened.config)
  except (ValueError, TypeError) as error:
    raise ValueError(f'{opened.directory / bundle.CONFIG}: {error}') from error
  model = params.load_into(
    params.abstract_model(preset.system, preset.config, dtype=dtype),
    opened.parameters,
    source=f'{opened.directory}: {bundle.CONFIG} does not fit {bundle.TENSORS}',
  )
  return model, preset, opened
