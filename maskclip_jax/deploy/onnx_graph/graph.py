"""A graph of ONNX that grows, equation by equation of a jaxpr."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from onnx import (
  GraphProto,
  NodeProto,
  TensorProto,
  ValueInfoProto,
  helper,
  numpy_helper,
)

# The name of a value, or an array that becomes a constant.
Value = str | np.ndarray
# (graph, equation, names of its inputs) -> names of its outputs, one name for one.
Rule = Callable[..., str | Sequence[str]]

# Larger constants are not compared with others.
_COMPARED_BYTES = 4096


class Graph:
  """Operators in the order in which they run.

  Args:
    rules: by primitive, what writes it as operators.
    outer: the graph that this one is a body of, whose values it may read.
  """

  def __init__(self, rules: Mapping[str, Rule], outer: 'Graph | None' = None):
    self.rules = rules
    self.nodes: list[NodeProto] = []
    # Names and constants are the whole model's.
    self._count = outer._count if outer else itertools.count()
    self.constants: dict[str, np.ndarray] = outer.constants if outer else {}
    self._names_of: dict[Any, str] = outer._names_of if outer else {}

  def name(self, kind: str) -> str:
    """A name that no other value has."""
    return f'{kind}_{next(self._count)}'

  def constant(self, array: np.ndarray) -> str:
    """The name of an array; equal small ones share it."""
    array = np.asarray(array, order='C')
    small = array.nbytes <= _COMPARED_BYTES
    key = (array.dtype.str, array.shape, array.tobytes()) if small else object()
    if key not in self._names_of:
      self._names_of[key] = self.name('constant')
      self.constants[self._names_of[key]] = array
    return self._names_of[key]

  def value_of(self, name: str) -> np.ndarray | None:
    """The array of a constant; None for what is known only when the model runs."""
    return self.constants.get(name)

  def op(self, kind: str, *inputs: Value, **attributes: Any) -> str:
    """Adds an operator with one output, and names it."""
    return self.ops(kind, 1, *inputs, **attributes)[0]

  def ops(
    self, kind: str, outputs: int, *inputs: Value, **attributes: Any
  ) -> list[str]:
    """Adds an operator with several outputs; '' is an input that is left out."""
    names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
    results = [self.name(kind.lower()) for _ in range(outputs)]
    self.nodes.append(helper.make_node(kind, names, results, **attributes))
    return results

  def reshape(self, x: str, old: Sequence[int], new: Sequence[int]) -> str:
    """`x` of shape `old` in another shape."""
    if tuple(old) == tuple(new):
      return x
    if (known := self.value_of(x)) is not None:
      return self.constant(known.reshape(new))
    return self.op('Reshape', x, np.array(new, np.int64))

  def transpose(self, x: str, order: Sequence[int]) -> str:
    """`x` with its axes in another order."""
    if list(order) == list(range(len(order))):
      return x
    return self.op('Transpose', x, perm=[int(axis) for axis in order])

  def cast(self, x: Value, dtype: Any) -> str:
    """`x` in another type."""
    return self.op('Cast', x, to=element_type(dtype))

  def where(self, which: str, chosen: Value, other: Value, dtype: Any) -> str:
    """`chosen` where `which` is true, `other` elsewhere; both of one type."""
    if dtype != np.bool_:
      return self.op('Where', which, chosen, other)
    # Runtimes have no Where for truth values.
    chosen = self.op('And', which, chosen)
    return self.op('Or', chosen, self.op('And', self.op('Not', which), other))

  def inline(
    self, jaxpr: Jaxpr | ClosedJaxpr, inputs: Sequence[str], consts: Sequence[str] = ()
  ) -> list[str]:
    """Adds a whole jaxpr.

    Args:
      jaxpr: what to compute; what its results do not need is left out.
      inputs: names of its arguments.
      consts: of its constants, if it does not hold them.

    Returns:
      Names of its results.

    Raises:
      ValueError: a primitive that there is no rule for.
    """
    if isinstance(jaxpr, ClosedJaxpr):
      consts = [self.constant(np.asarray(array)) for array in jaxpr.consts]
      jaxpr = jaxpr.jaxpr
    names = dict(
      zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True)
    )

    def read(atom) -> str:
      if isinstance(atom, Literal):
        return self.constant(np.asarray(atom.val, atom.aval.dtype))
      return names[atom]

    for equation in _needed(jaxpr):
      primitive = equation.primitive.name
      if primitive not in self.rules:
        raise ValueError(
          f'no operators of ONNX are known for the primitive {primitive}'
        )
      found = self.rules[primitive](self, equation, *map(read, equation.invars))
      found = [found] if isinstance(found, str) else found
      names.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def body(self, name: str, inputs: Sequence[ValueInfoProto]) -> 'Body':
    """A graph within this one, for a loop or a choice."""
    return Body(self, name, inputs)


class Body(Graph):
  """The graph of a loop's or a choice's body, which reads values of the outer one."""

  def __init__(self, outer: Graph, name: str, inputs: Sequence[ValueInfoProto]):
    super().__init__(outer.rules, outer)
    self._name, self._inputs = name, inputs

  def proto(self, results: Sequence[str], avals: Sequence[Any]) -> GraphProto:
    """The finished graph: its results are values of its own, each once."""
    named = [self.op('Identity', result) for result in results]
    outputs = [
      info(name, aval.dtype, aval.shape)
      for name, aval in zip(named, avals, strict=True)
    ]
    return helper.make_graph(self.nodes, self._name, self._inputs, outputs)


def element_type(dtype: Any) -> int:
  """ONNX's number of a type.

  Raises:
    ValueError: bfloat16, which runtimes compute in on some devices only.
  """
  if dtype == jnp.bfloat16:
    raise ValueError(
      'this model computes in bfloat16, which ONNX is not written in: --dtype float32'
    )
  return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def info(name: str, dtype: Any, shape: Sequence[int | str]) -> ValueInfoProto:
  """Name, type and shape of a value."""
  return helper.make_tensor_value_info(name, element_type(dtype), shape)


def initializer(name: str, array: np.ndarray) -> TensorProto:
  """A constant of the model."""
  return numpy_helper.from_array(array, name)


def _needed(jaxpr: Jaxpr) -> list[Any]:
  """The equations that the results depend on."""
  wanted = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
  equations = []
  for equation in reversed(jaxpr.eqns):
    if wanted.intersection(equation.outvars):
      wanted.update(a for a in equation.invars if not isinstance(a, Literal))
      equations.append(equation)
  return equations[::-1]
