"""A model with random weights, in seconds: to try a path out, and to measure speed.

Training starts from the modules' own initialisers. Those draw one array after another,
each by a program of its own, which takes a minute for a model of published size.
"""

import re
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskclip_jax import jax_settings
from maskclip_jax.checkpoints import params

_ONE = re.compile(r'.*/(scale|var)')
_ZERO = re.compile(r'.*/(bias|mean)')
_PER_HEAD = re.compile(r'.*(query|key|value|new_q_proj/\d+)/kernel')
_QUERY = re.compile(r'.*(query_feat|query_embed|level_embed).*')
# Kernels that a product is taken with: entries of size 1 / sqrt(inputs).
_KERNEL = re.compile(r'.*/kernel')


def random_array(path: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
  """The float32 array of a parameter: norms are identities, biases zero, the rest
  normal; the same for the same path, shape and seed."""
  if _ONE.fullmatch(path):
    return np.ones(shape, np.float32)
  if _ZERO.fullmatch(path):
    return np.zeros(shape, np.float32)
  rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
  array = rng.standard_normal(shape, np.float32)
  if _PER_HEAD.fullmatch(path):
    array *= shape[0] ** -0.5
  elif _KERNEL.fullmatch(path):
    array *= np.float32(np.prod(shape[:-1])) ** -0.5
  elif shape and not _QUERY.fullmatch(path):
    array *= shape[-1] ** -0.5
  return array


@jax_settings.own()
def random_model(
  system: str, config: Any, *, seed: int = 0, dtype=jnp.float32, narrow: bool = False
) -> nnx.Module:
  """A model of a system with random weights.

  Args:
    system: the name of a system.
    config: that system's config.
    seed: the seed of the weights.
    dtype: compute type; parameters are float32.
    narrow: parameters that are only read in `dtype` have it; not for training.
  """
  model = params.abstract_model(system, config, dtype=dtype)
  if narrow:
    model = params.narrowed(model, dtype)
  flat = {
    path: random_array(path, leaf.shape, seed)
    for path, leaf in params.flatten(model).items()
  }
  return params.load_into(model, flat)
