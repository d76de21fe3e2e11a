"""Programs as ONNX, for onnxruntime and all that reads it. Needs the extra `onnx`."""

import dataclasses
import importlib
import pathlib

import jax
import numpy as np

from maskclip_jax.checkpoints.tensor_file import TensorFile, write_tensors
from maskclip_jax.deploy.programs import Arrays, Program
from maskclip_jax.jax_settings import own

SUFFIX = '.onnx'
# Of 2022, and the version of the format that came with it: every runtime since then
# reads them.
OPSET, IR = 18, 8


def check_installed() -> None:
  """Refuses early where ONNX is not.

  Raises:
    ValueError: what is missing, and how it is installed.
  """
  try:
    for name in ('onnx', 'onnxruntime'):
      importlib.import_module(name)
  except ImportError as error:
    raise ValueError(
      f"ONNX needs its own packages: pip install 'maskclip_jax[onnx]' ({error})"
    ) from error


@own()
def write(program: Program, path: pathlib.Path, weights: str | None) -> None:
  """Writes a program, and its weights beside it.

  Args:
    program: what to write. Any number of prompts are encoded one after another.
    path: the file.
    weights: name of the file of weights; None puts them into the program.

  Raises:
    ValueError: a program that ONNX has no operators for, or more than 2 GB inside.
    OSError: a file cannot be written.
  """
  import onnx

  from maskclip_jax.deploy.onnx_graph import Weights, to_model

  free = {}
  if program.free == ('tokens',):
    program, free = _row_by_row(program), {'tokens': 'n', 'vectors': 'n'}
  beside = None
  if weights is None:
    program.check_weights_fit()
  else:
    file = path.with_name(weights)
    write_tensors(file, program.weights)
    beside = Weights(weights, TensorFile(file).places())
  model = to_model(
    program.function,
    program.weights,
    program.inputs,
    opset=(OPSET, IR),
    beside=beside,
    free=free,
  )
  path.write_bytes(model.SerializeToString())
  onnx.checker.check_model(str(path))


def _row_by_row(program: Program) -> Program:
  """The text program as a loop over prompts, which takes any number of them."""

  def function(weights: Arrays, inputs: Arrays) -> Arrays:
    encode = lambda row: program.function(weights, {'tokens': row[None]})['vectors'][0]
    return {'vectors': jax.lax.map(encode, inputs['tokens'])}

  # A loop over one row would be none.
  tokens = np.repeat(program.inputs['tokens'], 2, axis=0)
  return dataclasses.replace(program, function=function, inputs={'tokens': tokens})
