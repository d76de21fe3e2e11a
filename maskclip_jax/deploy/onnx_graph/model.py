"""A traced program as a model of ONNX."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from maskclip_jax.deploy.onnx_graph import (
  control,
  elementwise,
  indexing,
  products,
  shapes,
)
from maskclip_jax.deploy.onnx_graph.graph import Graph, element_type, info, initializer

RULES = {
  **control.RULES,
  **elementwise.RULES,
  **indexing.RULES,
  **products.RULES,
  **shapes.RULES,
}


@dataclasses.dataclass(frozen=True)
class Weights:
  """Arrays that lie in a file beside the model.

  Attributes:
    file: its name.
    places: of every array: where its bytes begin, and how many they are.
  """

  file: str
  places: Mapping[str, tuple[int, int]]


def to_model(
  function: Callable[[Any, Any], dict[str, Any]],
  weights: Mapping[str, Any],
  inputs: Mapping[str, Any],
  *,
  opset: tuple[int, int],
  beside: Weights | None = None,
  free: Mapping[str, str] | None = None,
) -> ModelProto:
  """A function as a model.

  Args:
    function: (weights, inputs) -> outputs, all of them dictionaries of arrays.
    weights: arrays that become initializers, by name.
    inputs: arrays or their shapes and types.
    opset: version of the operators, at least 18, and that of the file format.
    beside: where the weights lie; None puts them into the model.
    free: name of an input or output -> name of its first axis, if the model takes any
      length there: the function is a `jax.lax.map` over it.

  Raises:
    ValueError: the function has a primitive that there is no operator for.
  """
  free = free or {}
  # In the order of JAX's dictionaries.
  weight_names, input_names = sorted(weights), sorted(inputs)
  traced, results = jax.make_jaxpr(function, return_shape=True)(
    {name: _shape(weights[name]) for name in weight_names},
    {name: _shape(inputs[name]) for name in input_names},
  )
  output_names = sorted(results)
  graph = Graph(RULES)
  found = graph.inline(traced, [*weight_names, *input_names])
  for name, output in zip(found, output_names, strict=True):
    graph.nodes.append(helper.make_node('Identity', [name], [output]))

  def described(name: str, array: Any) -> ValueInfoProto:
    sides = (free[name], *array.shape[1:]) if name in free else array.shape
    return info(name, array.dtype, sides)

  used = _read(graph.nodes)
  proto = helper.make_graph(
    graph.nodes,
    'program',
    [described(name, inputs[name]) for name in input_names],
    [described(name, results[name]) for name in output_names],
    [
      *(_initializer(n, weights[n], beside) for n in weight_names if n in used),
      *(initializer(n, array) for n, array in graph.constants.items() if n in used),
    ],
  )
  return helper.make_model(
    proto, opset_imports=[helper.make_opsetid('', opset[0])], ir_version=opset[1]
  )


def _read(nodes: Iterable[NodeProto]) -> set[str]:
  """Names of values that operators read, also those within loops and choices."""
  names = set()
  for node in nodes:
    names.update(node.input)
    for attribute in node.attribute:
      names |= _read(attribute.g.node)
  return names


def _initializer(name: str, array: Any, beside: Weights | None) -> TensorProto:
  """A weight, or where it lies."""
  if beside is None:
    return initializer(name, np.asarray(array))
  offset, length = beside.places[name]
  tensor = TensorProto(
    name=name,
    data_type=element_type(array.dtype),
    dims=array.shape,
    data_location=TensorProto.EXTERNAL,
  )
  entries = {'location': beside.file, 'offset': offset, 'length': length}
  for key, value in entries.items():
    tensor.external_data.add(key=key, value=str(value))
  return tensor


def _shape(array: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(array.shape, array.dtype)
