"""From a bundle to a model: sizes from its config, then the weights, one at a time."""

import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.systems.system import Preset, build


class ConstantRngs:
  """Stands in for `nnx.Rngs` where the initial values are never used.

  Counting draws while tracing costs time that grows with the square of the model's
  size (flax 0.12): 18 s for a MasQCLIP that takes 0.7 s with one key for everything.
  """

  def __init__(self):
    self._key = jax.random.key(0)

  def __call__(self) -> jax.Array:
    return self._key

  def __getattr__(self, name: str) -> 'ConstantRngs':
    """Every stream, such as `rngs.params`, is this one."""
    if name.startswith('_'):
      raise AttributeError(name)
    return self


def abstract_model(system: str, config: Any, *, dtype=jnp.float32) -> nnx.Module:
  """A model with shapes instead of arrays.

  Args:
    system: the name of a system.
    config: that system's config.
    dtype: compute type; parameters are float32.
  """
  rngs = ConstantRngs()
  return params.abstract(lambda: build(system, config, dtype=dtype, rngs=rngs))


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
    abstract_model(preset.system, preset.config, dtype=dtype),
    opened.parameters,
    source=f'{opened.directory}: {bundle.CONFIG} does not fit {bundle.TENSORS}',
  )
  return model, preset, opened
