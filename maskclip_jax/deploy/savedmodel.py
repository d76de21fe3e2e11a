"""Programs as TensorFlow's SavedModel, by orbax-export: for TensorFlow Serving and all
that reads one. Needs the extra `tf`.
"""

import importlib
import pathlib
from collections.abc import Sequence

from maskclip_jax.deploy.programs import Program, lowering
from maskclip_jax.jax_settings import own

# A path is one name of a variable.
_SLASH, _DOT = '/', '.'


def check_installed() -> None:
  """Refuses early where TensorFlow is not.

  Raises:
    ValueError: what is missing, and how it is installed.
  """
  try:
    for name in ('tensorflow', 'orbax.export'):
      importlib.import_module(name)
  except ImportError as error:
    raise ValueError(
      f"a SavedModel needs TensorFlow: pip install 'maskclip_jax[tf]' ({error})"
    ) from error


@own()
def write(program: Program, path: pathlib.Path, platforms: Sequence[str]) -> None:
  """Writes a program with its weights as variables.

  Args:
    program: what to write, as the signature `serving_default`.
    path: the directory.
    platforms: what it is to run on, as for `stablehlo.write`.

  Raises:
    OSError: it cannot be written.
  """
  import tensorflow as tf
  from orbax.export import ExportManager, JaxModule, ServingConfig

  def function(variables, inputs):
    weights = {name.replace(_DOT, _SLASH): w for name, w in variables.items()}
    return program.function(weights, inputs)

  free = {name: name in program.free for name in program.inputs}
  signature = {
    name: tf.TensorSpec((None, *a.shape[1:]) if free[name] else a.shape, a.dtype, name)
    for name, a in program.inputs.items()
  }
  shapes = {name: 'n, ...' if free[name] else None for name in program.inputs}
  with lowering(platforms):
    module = JaxModule(
      {name.replace(_SLASH, _DOT): w for name, w in program.weights.items()},
      function,
      trainable=False,
      input_polymorphic_shape=shapes if any(free.values()) else None,
      jax2tf_kwargs={'native_serialization_platforms': tuple(platforms)},
    )
    serving = ServingConfig('serving_default', input_signature=[signature])
    ExportManager(module, [serving]).save(str(path))
