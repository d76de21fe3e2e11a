"""Primitives that read or write at places which are known only when they run.

Axes that are indexed become one, the first, and an index is a row of that table; axes
that are read or written whole come after it.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from jax.lax import GatherScatterMode as Mode

from maskclip_jax.deploy.onnx_graph.graph import Graph, Rule


@dataclasses.dataclass(frozen=True)
class _Table:
  """An array whose indexed axes are rows.

  Attributes:
    shape: of the array.
    indexed: axes that are looked up.
  """

  shape: tuple[int, ...]
  indexed: tuple[int, ...]

  @property
  def whole(self) -> tuple[int, ...]:
    """Axes that are not looked up."""
    return tuple(a for a in range(len(self.shape)) if a not in self.indexed)

  @property
  def order(self) -> tuple[int, ...]:
    return (*self.indexed, *self.whole)

  @property
  def rows(self) -> int:
    return math.prod(self.shape[axis] for axis in self.indexed)

  def step(self, axis: int) -> int:
    """Rows from one element of an indexed axis to the next."""
    later = self.indexed[self.indexed.index(axis) + 1 :]
    return math.prod(self.shape[a] for a in later)

  def arrange(self, graph: Graph, x: str) -> str:
    """The array as [rows, *whole]."""
    sides = [self.shape[axis] for axis in self.whole]
    moved = [self.shape[axis] for axis in self.order]
    return graph.reshape(graph.transpose(x, self.order), moved, [self.rows, *sides])

  def restore(self, graph: Graph, x: str) -> str:
    """What `arrange` made, as it was."""
    sides = [self.shape[axis] for axis in self.order]
    x = graph.reshape(x, [self.rows, *sides[len(self.indexed) :]], sides)
    return graph.transpose(x, np.argsort(self.order))


def _limited(graph: Graph, start: str, limit: int) -> str:
  """An index within [0, limit]."""
  return graph.op('Min', graph.op('Max', start, np.int32(0)), np.int32(limit))


def _joined(graph: Graph, kind: str, parts: Sequence[str]) -> str:
  """One operator between all of several values."""
  return functools.reduce(lambda x, y: graph.op(kind, x, y), parts)


def _inside(graph: Graph, starts: dict[int, str], limits: dict[int, int]) -> str:
  """Which look-ups have an index in [0, limit] on each axis."""
  parts = []
  for axis, start in starts.items():
    parts.append(graph.op('GreaterOrEqual', start, np.int32(0)))
    parts.append(graph.op('LessOrEqual', start, np.int32(limits[axis])))
  return _joined(graph, 'And', parts)


def _starts(graph: Graph, equation, indices: str, count: int) -> list[str]:
  """The parts of an index, each an array of the shape of the look-ups."""
  shape = equation.invars[1].aval.shape
  if count == 1:
    return [graph.reshape(indices, shape, shape[:-1])]
  return [graph.op('Gather', indices, np.int64(n), axis=-1) for n in range(count)]


def _rows_of(
  graph: Graph, table: _Table, starts: dict[int, str], limits: dict[int, int]
) -> str:
  """The row of every look-up, from its index on each axis."""
  parts = []
  for axis, start in starts.items():
    part = _limited(graph, start, limits[axis])
    if table.step(axis) != 1:
      part = graph.op('Mul', part, np.int32(table.step(axis)))
    parts.append(part)
  return _joined(graph, 'Add', parts)


def _gather(graph: Graph, equation, x: str, indices: str) -> str:
  p, shape = equation.params, equation.invars[0].aval.shape
  numbers, sizes = p['dimension_numbers'], p['slice_sizes']
  looked_up = {*numbers.start_index_map, *numbers.operand_batching_dims}
  table = _Table(
    shape,
    tuple(a for a in range(len(shape)) if a in looked_up or sizes[a] != shape[a]),
  )
  batch = equation.invars[1].aval.shape[:-1]
  dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
  windows = [axis for axis in table.indexed if axis not in dropped]

  starts = dict(
    zip(
      map(int, numbers.start_index_map),
      _starts(graph, equation, indices, len(numbers.start_index_map)),
      strict=True,
    )
  )
  limits = {axis: shape[axis] - sizes[axis] for axis in starts}
  rows = _rows_of(graph, table, starts, limits)
  wide = [*batch, *(1 for _ in windows)]
  rows = graph.reshape(rows, batch, wide)
  # What is known beforehand: the photo of a batch, and the places within a window.
  fixed = np.zeros(wide, np.int32)
  for axis, place in zip(
    numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
  ):
    fixed = fixed + _along(shape[axis], place, len(wide)) * table.step(axis)
  for number, axis in enumerate(windows):
    place = len(batch) + number
    fixed = fixed + _along(sizes[axis], place, len(wide)) * table.step(axis)
  if fixed.any():
    rows = graph.op('Add', rows, fixed.astype(np.int32))
  found = graph.op('Gather', table.arrange(graph, x), rows, axis=0)

  if p['mode'] == Mode.FILL_OR_DROP:
    inside = _inside(graph, starts, limits)
    rank = len(wide) + len(table.whole)
    inside = graph.reshape(inside, batch, [*batch, *[1] * (rank - len(batch))])
    found = _filled(graph, equation, inside, found)
  axes = [*windows, *table.whole]
  offsets = {axis: len(batch) + axes.index(axis) for axis in sorted(axes)}
  return graph.transpose(found, _interleaved(numbers.offset_dims, offsets, len(batch)))


def _along(length: int, place: int, rank: int) -> np.ndarray:
  """0, 1, ... along one axis of several."""
  return np.arange(length).reshape([-1 if axis == place else 1 for axis in range(rank)])


def _interleaved(offset_dims, offsets: dict[int, int], batch: int) -> list[int]:
  """For every axis of a gather's result, which axis of what was found it is."""
  of_windows, of_batch = iter(offsets.values()), iter(range(batch))
  return [
    next(of_windows if axis in offset_dims else of_batch)
    for axis in range(batch + len(offsets))
  ]


def _filled(graph: Graph, equation, inside: str, found: str) -> str:
  """What was found, and the fill value where an index lay outside."""
  value, dtype = equation.params['fill_value'], equation.invars[0].aval.dtype
  if value is None and np.issubdtype(dtype, np.floating):
    value = np.nan
  if value is None:
    raise ValueError(f'no fill value is known for a look-up in {dtype}')
  return graph.where(inside, found, np.asarray(value, dtype), dtype)


def _scatter(reduction: str) -> Rule:
  """The rule of writing, adding and so on at indices; those outside are left out."""

  def rule(graph: Graph, equation, x: str, indices: str, updates: str) -> str:
    p, shape = equation.params, equation.invars[0].aval.shape
    numbers, update = p['dimension_numbers'], equation.invars[2].aval.shape
    axes = tuple(map(int, numbers.scatter_dims_to_operand_dims))
    table = _Table(shape, tuple(sorted(axes)))
    windows = [int(axis) for axis in numbers.update_window_dims]
    if (
      set(numbers.inserted_window_dims) != set(axes)
      or numbers.operand_batching_dims
      or [update[a] for a in windows] != [shape[a] for a in table.whole]
      or p['mode'] == Mode.CLIP
    ):
      raise ValueError('writing windows at indices has no rule for ONNX')
    starts = dict(zip(axes, _starts(graph, equation, indices, len(axes)), strict=True))
    limits = {axis: shape[axis] - 1 for axis in axes}
    rows = _rows_of(graph, table, starts, limits)
    inside = _inside(graph, starts, limits)
    # One row more takes what lies outside.
    rows = graph.op('Where', inside, rows, np.int32(table.rows))
    batch = [axis for axis in range(len(update)) if axis not in windows]
    data = table.arrange(graph, x)
    sides = [shape[axis] for axis in table.whole]
    spare = np.zeros([1, *sides], equation.invars[0].aval.dtype)
    data = _write(
      graph,
      graph.op('Concat', data, spare, axis=0),
      graph.reshape(rows, [update[a] for a in batch], [*(update[a] for a in batch), 1]),
      graph.transpose(updates, [*batch, *windows]),
      reduction,
    )
    first, last, axis = (np.array([n], np.int64) for n in (0, table.rows, 0))
    return table.restore(graph, graph.op('Slice', data, first, last, axis))

  return rule


def _write(graph: Graph, data: str, rows: str, updates: str, reduction: str) -> str:
  rows = graph.cast(rows, np.int64)
  return graph.op('ScatterND', data, rows, updates, reduction=reduction)


def _dynamic_slice(graph: Graph, equation, x: str, *starts: str) -> str:
  shape, sizes = equation.invars[0].aval.shape, equation.params['slice_sizes']
  room = np.subtract(shape, sizes).astype(np.int64)
  axes = np.flatnonzero(room)
  if not len(axes):
    return x
  rows = [graph.reshape(starts[axis], (), [1]) for axis in axes]
  first = graph.op('Concat', *rows, axis=0) if len(rows) > 1 else rows[0]
  first = graph.op('Max', graph.cast(first, np.int64), np.zeros(1, np.int64))
  first = graph.op('Min', first, room[axes])
  last = graph.op('Add', first, np.array(sizes, np.int64)[axes])
  return graph.op('Slice', x, first, last, axes.astype(np.int64))


def _dynamic_update_slice(
  graph: Graph, equation, x: str, update: str, *starts: str
) -> str:
  shape, sizes = (atom.aval.shape for atom in equation.invars[:2])
  indexed = tuple(int(axis) for axis in np.flatnonzero(np.subtract(shape, sizes)))
  if not indexed:
    return update
  table = _Table(shape, indexed)
  limits = {axis: shape[axis] - sizes[axis] for axis in indexed}
  rows = _rows_of(graph, table, {axis: starts[axis] for axis in indexed}, limits)
  places = sum(
    _along(sizes[axis], number, len(indexed)) * table.step(axis)
    for number, axis in enumerate(indexed)
  )
  rows = graph.op('Add', rows, places[..., None].astype(np.int32))
  data = _write(
    graph,
    table.arrange(graph, x),
    rows,
    graph.transpose(update, table.order),
    'none',
  )
  return table.restore(graph, data)


RULES: dict[str, Rule] = {
  'dynamic_slice': _dynamic_slice,
  'dynamic_update_slice': _dynamic_update_slice,
  'gather': _gather,
  'scatter': _scatter('none'),
  'scatter-add': _scatter('add'),
  'scatter-max': _scatter('max'),
}
