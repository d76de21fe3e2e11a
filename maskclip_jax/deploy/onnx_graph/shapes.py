"""Primitives that move elements, to places that are known beforehand."""

import numpy as np

from maskclip_jax.deploy.onnx_graph.graph import Graph, Rule


def _numbers(values) -> np.ndarray:
  return np.array(values, np.int64)


def _reshape(graph: Graph, equation, x: str) -> str:
  """Also of what adds or removes axes of one element."""
  return graph.reshape(x, equation.invars[0].aval.shape, equation.outvars[0].aval.shape)


def _transpose(graph: Graph, equation, x: str) -> str:
  return graph.transpose(x, equation.params['permutation'])


def _broadcast(graph: Graph, equation, x: str) -> str:
  old, new = equation.invars[0].aval.shape, equation.params['shape']
  spread = [1] * len(new)
  for axis, side in zip(equation.params['broadcast_dimensions'], old, strict=True):
    spread[axis] = side
  x = graph.reshape(x, old, spread)
  return x if tuple(spread) == tuple(new) else graph.op('Expand', x, _numbers(new))


def _iota(graph: Graph, equation) -> str:
  axis, shape = equation.params['dimension'], equation.params['shape']
  sides = [1] * len(shape)
  sides[axis] = shape[axis]
  steps = np.arange(shape[axis], dtype=equation.params['dtype']).reshape(sides)
  if tuple(sides) == tuple(shape):
    return graph.constant(steps)
  return graph.op('Expand', steps, _numbers(shape))


def _slice(graph: Graph, equation, x: str) -> str:
  first, last = equation.params['start_indices'], equation.params['limit_indices']
  steps = equation.params['strides'] or [1] * len(first)
  axes = _numbers(range(len(first)))
  return graph.op('Slice', x, *map(_numbers, (first, last)), axes, _numbers(steps))


def _reverse(graph: Graph, equation, x: str) -> str:
  axes = equation.params['dimensions']
  ends = np.full(len(axes), np.iinfo(np.int64).min)
  back = np.full(len(axes), -1)
  return graph.op('Slice', x, *map(_numbers, (back, ends, axes, back)))


def _concatenate(graph: Graph, equation, *inputs: str) -> str:
  return graph.op('Concat', *inputs, axis=int(equation.params['dimension']))


def _stack(graph: Graph, equation, *inputs: str) -> str:
  axis = int(equation.params['axis'])
  rows = [graph.op('Unsqueeze', x, _numbers([axis])) for x in inputs]
  return graph.op('Concat', *rows, axis=axis)


def _split(graph: Graph, equation, x: str) -> list[str]:
  sizes = equation.params['sizes']
  axis = int(equation.params['axis'])
  return graph.ops('Split', len(sizes), x, _numbers(sizes), axis=axis)


def _pad(graph: Graph, equation, x: str, value: str) -> str:
  low, high, between = zip(*equation.params['padding_config'], strict=True)
  if any(between):
    raise ValueError('padding between elements has no operator of ONNX')
  return graph.op('Pad', x, _numbers([*low, *high]), value)


RULES: dict[str, Rule] = {
  'broadcast_in_dim': _broadcast,
  'concatenate': _concatenate,
  'iota': _iota,
  'pad': _pad,
  'reshape': _reshape,
  'rev': _reverse,
  'slice': _slice,
  'split': _split,
  'squeeze': _reshape,
  'stack': _stack,
  'transpose': _transpose,
}
