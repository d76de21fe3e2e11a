"""Programs as StableHLO, by `jax.export`: one file runs on every platform named."""

import pathlib
from collections.abc import Sequence

import jax
from jax import export

from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.deploy.programs import Program, lowering

SUFFIX = '.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def check_platforms(platforms: Sequence[str]) -> None:
  """Refuses what is not a platform.

  Raises:
    ValueError: which it is, or that there is none.
  """
  if unknown := [name or "''" for name in platforms if name not in PLATFORMS]:
    raise ValueError(
      f'platforms are {", ".join(PLATFORMS)}: there is no {", ".join(unknown)}'
    )
  if not platforms:
    raise ValueError(f'name a platform: some of {", ".join(PLATFORMS)}')


def write(
  program: Program, path: pathlib.Path, platforms: Sequence[str], weights: str | None
) -> None:
  """Writes a program, and its weights beside it.

  Args:
    program: what to write.
    path: the file.
    platforms: some of `PLATFORMS`.
    weights: name of the file of weights; None puts them into the program.

  Raises:
    ValueError: weights of more than 2 GB inside.
    OSError: a file cannot be written.
  """
  inputs = _shapes(program.inputs)
  (count,) = export.symbolic_shape('n')
  for name in program.free:
    _, *sides = inputs[name].shape
    inputs[name] = jax.ShapeDtypeStruct((count, *sides), inputs[name].dtype)
  with lowering(platforms, any_number=bool(program.free)):
    if weights is None:
      function = jax.jit(program.without_weights())
      exported = export.export(function, platforms=platforms)(inputs)
    else:
      exported = export.export(jax.jit(program.function), platforms=platforms)(
        _shapes(program.weights), inputs
      )
  path.write_bytes(exported.serialize())
  if weights is not None:
    write_tensors(path.with_name(weights), program.weights)


def _shapes(arrays):
  return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}
