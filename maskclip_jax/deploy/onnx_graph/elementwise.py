"""Primitives that compute every element by itself."""

import numpy as np

from maskclip_jax.deploy.onnx_graph.graph import Graph, Rule


def _operator(kind: str, **attributes) -> Rule:
  """The rule of a primitive that is an operator."""
  return lambda graph, equation, *inputs: graph.op(kind, *inputs, **attributes)


def _not_of(kind: str) -> Rule:
  return lambda graph, equation, *inputs: graph.op('Not', graph.op(kind, *inputs))


def _of_bits(logical: str, bitwise: str) -> Rule:
  """One operator for truth values, one for integers."""

  def rule(graph: Graph, equation, *inputs: str) -> str:
    return graph.op(logical if _type(equation) == np.bool_ else bitwise, *inputs)

  return rule


def _type(equation) -> np.dtype:
  """The type of the first input."""
  return equation.invars[0].aval.dtype


def _number(equation, value: float) -> np.ndarray:
  return np.asarray(value, _type(equation))


def _rsqrt(graph: Graph, equation, x: str) -> str:
  return graph.op('Reciprocal', graph.op('Sqrt', x))


def _square(graph: Graph, equation, x: str) -> str:
  return graph.op('Mul', x, x)


def _integer_pow(graph: Graph, equation, x: str) -> str:
  return graph.op('Pow', x, _number(equation, equation.params['y']))


def _erfc(graph: Graph, equation, x: str) -> str:
  return graph.op('Sub', _number(equation, 1), graph.op('Erf', x))


def _log1p(graph: Graph, equation, x: str) -> str:
  """log(1 + x), precise for small x: the error of u = 1 + x divides out of
  log(u) x / (u - 1) (Higham, Accuracy and Stability, 1.14.1)."""
  one = _number(equation, 1)
  u = graph.op('Add', x, one)
  lost = graph.op('Sub', u, one)
  same = graph.op('Equal', lost, _number(equation, 0))
  # Infinity stays what it is: it would be divided by itself.
  same = graph.op('Or', same, graph.op('IsInf', u))
  share = graph.op('Div', x, graph.op('Where', same, one, lost))
  whole = graph.op('Mul', graph.op('Log', u), share)
  return graph.op('Where', same, x, whole)


def _expm1(graph: Graph, equation, x: str) -> str:
  """exp(x) - 1, near zero as 2 t / (1 - t) of t = tanh(x / 2), which loses nothing."""
  one, two = _number(equation, 1), _number(equation, 2)
  t = graph.op('Tanh', graph.op('Div', x, two))
  near = graph.op('Div', graph.op('Mul', two, t), graph.op('Sub', one, t))
  far = graph.op('Sub', graph.op('Exp', x), one)
  return graph.op('Where', graph.op('Less', graph.op('Abs', x), one), near, far)


def _is_finite(graph: Graph, equation, x: str) -> str:
  odd = graph.op('Or', graph.op('IsNaN', x), graph.op('IsInf', x))
  return graph.op('Not', odd)


def _select(graph: Graph, equation, which: str, *cases: str) -> str:
  if len(cases) != 2 or _type(equation) != np.bool_:
    raise ValueError('a choice between other than two arrays has no operator of ONNX')
  other, chosen = cases
  return graph.where(which, chosen, other, equation.outvars[0].aval.dtype)


def _convert(graph: Graph, equation, x: str) -> str:
  wanted = equation.outvars[0].aval.dtype
  return x if wanted == _type(equation) else graph.cast(x, wanted)


def _same(graph: Graph, equation, *inputs: str) -> tuple[str, ...]:
  """What says how a program is compiled or derived, and computes nothing."""
  return inputs


RULES: dict[str, Rule] = {
  'abs': _operator('Abs'),
  'add': _operator('Add'),
  'and': _of_bits('And', 'BitwiseAnd'),
  'ceil': _operator('Ceil'),
  'convert_element_type': _convert,
  'copy': _same,
  'cos': _operator('Cos'),
  'div': _operator('Div'),
  'eq': _operator('Equal'),
  'erf': _operator('Erf'),
  'erfc': _erfc,
  'exp': _operator('Exp'),
  'expm1': _expm1,
  'floor': _operator('Floor'),
  'ge': _operator('GreaterOrEqual'),
  'gt': _operator('Greater'),
  'integer_pow': _integer_pow,
  'is_finite': _is_finite,
  'le': _operator('LessOrEqual'),
  'log': _operator('Log'),
  'log1p': _log1p,
  'logistic': _operator('Sigmoid'),
  'lt': _operator('Less'),
  'max': _operator('Max'),
  'min': _operator('Min'),
  'mul': _operator('Mul'),
  'ne': _not_of('Equal'),
  'neg': _operator('Neg'),
  'not': _of_bits('Not', 'BitwiseNot'),
  'optimization_barrier': _same,
  'or': _of_bits('Or', 'BitwiseOr'),
  'pow': _operator('Pow'),
  'rem': _operator('Mod', fmod=1),
  'rsqrt': _rsqrt,
  'select_n': _select,
  'sign': _operator('Sign'),
  'sin': _operator('Sin'),
  'sqrt': _operator('Sqrt'),
  'square': _square,
  'stop_gradient': _same,
  'sub': _operator('Sub'),
  'tanh': _operator('Tanh'),
  'xor': _of_bits('Xor', 'BitwiseXor'),
}
