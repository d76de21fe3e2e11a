"""Primitives that bring elements together: products, convolutions, sums, sorting."""

import math

import numpy as np

from maskclip_jax.deploy.onnx_graph.graph import Graph, Rule


def _dot(graph: Graph, equation, x: str, y: str) -> str:
  """A product of matrices, with axes in between brought into its order."""
  (x_summed, y_summed), (x_batch, y_batch) = equation.params['dimension_numbers']
  shapes = [atom.aval.shape for atom in equation.invars]
  free = [
    [axis for axis in range(len(shape)) if axis not in (*summed, *batch)]
    for shape, summed, batch in zip(
      shapes, (x_summed, y_summed), (x_batch, y_batch), strict=True
    )
  ]
  batch = [shapes[0][axis] for axis in x_batch]
  depth = math.prod(shapes[0][axis] for axis in x_summed)
  rows, columns = (
    [shape[axis] for axis in axes] for shape, axes in zip(shapes, free, strict=True)
  )

  def arranged(value, shape, order, wanted) -> str:
    value = graph.transpose(value, order)
    return graph.reshape(value, [shape[axis] for axis in order], wanted)

  # Without batch axes a matrix on the right serves all rows, whatever their shape.
  lead = rows if not batch and rows else [*batch, math.prod(rows)]
  x = arranged(x, shapes[0], [*x_batch, *free[0], *x_summed], [*lead, depth])
  y = arranged(
    y, shapes[1], [*y_batch, *y_summed, *free[1]], [*batch, depth, math.prod(columns)]
  )
  product = graph.op('MatMul', x, y)
  return graph.reshape(
    product, [*lead, math.prod(columns)], equation.outvars[0].aval.shape
  )


def _convolution(graph: Graph, equation, x: str, kernel: str) -> str:
  p = equation.params
  if any(n != 1 for n in p['lhs_dilation']) or p['batch_group_count'] != 1:
    raise ValueError('a transposed convolution has no rule for ONNX')
  numbers = p['dimension_numbers']
  low, high = zip(*p['padding'], strict=True)
  y = graph.op(
    'Conv',
    graph.transpose(x, numbers.lhs_spec),
    graph.transpose(kernel, numbers.rhs_spec),
    strides=list(p['window_strides']),
    pads=[*low, *high],
    dilations=list(p['rhs_dilation']),
    group=p['feature_group_count'],
  )
  return graph.transpose(y, np.argsort(numbers.out_spec))


def _max_pool(graph: Graph, equation, x: str) -> str:
  p = equation.params
  windows = p['window_dimensions']
  outer = [axis for axis, side in enumerate(windows) if side == 1]
  inner = [axis for axis, side in enumerate(windows) if side != 1]
  dilated = any(n != 1 for n in (*p['base_dilation'], *p['window_dilation']))
  if len(outer) != 2 or dilated:
    raise ValueError('a maximum of windows is known for maps with channels only')
  order = [*outer, *inner]
  low, high = zip(*(p['padding'][axis] for axis in inner), strict=True)
  y = graph.op(
    'MaxPool',
    graph.transpose(x, order),
    kernel_shape=[windows[axis] for axis in inner],
    strides=[p['window_strides'][axis] for axis in inner],
    pads=[*low, *high],
  )
  return graph.transpose(y, np.argsort(order))


def _reduction(kind: str) -> Rule:
  """The rule of a sum, product or extreme over axes."""

  def rule(graph: Graph, equation, x: str) -> str:
    axes = np.array(equation.params['axes'], np.int64)
    if not len(axes):
      return x
    truth = equation.invars[0].aval.dtype == np.bool_
    # Runtimes reduce numbers only.
    x = graph.cast(x, np.int32) if truth else x
    x = graph.op(kind, x, axes, keepdims=0)
    return graph.cast(x, np.bool_) if truth else x

  return rule


def _argmax(graph: Graph, equation, x: str) -> str:
  (axis,) = equation.params['axes']
  if equation.invars[0].aval.dtype == np.bool_:
    x = graph.cast(x, np.int32)
  x = graph.op('ArgMax', x, axis=int(axis), keepdims=0)
  return graph.cast(x, equation.params['index_dtype'])


def _cumulative_sum(graph: Graph, equation, x: str) -> str:
  axis = np.int64(equation.params['axis'])
  return graph.op('CumSum', x, axis, reverse=int(equation.params['reverse']))


def _sort(graph: Graph, equation, key: str, *others: str) -> list[str]:
  """By one key; of equal elements the first comes first, as TopK has it."""
  p, aval = equation.params, equation.invars[0].aval
  if p['num_keys'] != 1:
    raise ValueError('a sort by several keys has no operator of ONNX')
  axis = int(p['dimension'])
  truth = aval.dtype == np.bool_
  x = graph.cast(key, np.int32) if truth else key
  count = np.array([aval.shape[axis]], np.int64)
  x, order = graph.ops('TopK', 2, x, count, axis=axis, largest=0, sorted=1)
  x = graph.cast(x, np.bool_) if truth else x
  return [x, *(graph.op('GatherElements', y, order, axis=axis) for y in others)]


def _top_k(graph: Graph, equation, x: str) -> list[str]:
  axis = int(equation.params['axis'])
  count = np.array([equation.params['k']], np.int64)
  x, order = graph.ops('TopK', 2, x, count, axis=axis, largest=1, sorted=1)
  return [x, graph.cast(order, equation.outvars[1].aval.dtype)]


RULES: dict[str, Rule] = {
  'argmax': _argmax,
  'conv_general_dilated': _convolution,
  'cumsum': _cumulative_sum,
  'dot_general': _dot,
  'reduce_and': _reduction('ReduceMin'),
  'reduce_max': _reduction('ReduceMax'),
  'reduce_min': _reduction('ReduceMin'),
  'reduce_or': _reduction('ReduceMax'),
  'reduce_prod': _reduction('ReduceProd'),
  'reduce_sum': _reduction('ReduceSum'),
  'reduce_window_max': _max_pool,
  'sort': _sort,
  'top_k': _top_k,
}
