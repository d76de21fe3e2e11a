"""Cycles of a compiled TPU program, read from its text, by what the work is for.

The compiler writes `estimated_cycles` beside most operations, but not beside gathers,
scatters and sorts, nor beside kernels of our own. A sum that leaves those out says how
long the arithmetic around the look-ups takes. Here the rows that are looked up are
counted, and cost between what was found in final bundles and in a profile; kernels are
named with how often they run.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

# Cycles a row of a gather takes: without any stall, and as profiled (a v6e).
ROW_CYCLES = (1.9, 6.6)
# Parts by the innermost file of ours that an operation comes from; the first that fits.
PARTS = (
  ('deformable sampling', 'ops/deformable'),
  ('backbone', 'nn/(resnet|swin|convnext)'),
  ('pixel decoder', 'nn/(pixel_decoder|deformable|fpn)'),
  ('mask decoder', 'nn/(mask_decoder|pooled_decoder|detr_decoder)|systems/mask2former'),
  ('CLIP', 'nn/clip|systems/(crops|regions|masqclip|maskclip|ovseg|fcclip)'),
  ('losses', 'losses/'),
  ('optimiser', 'train/optim|optax'),
)
OTHER = 'rest'
# What the compiler writes where it cannot tell is larger.
_UNKNOWN = 10**12
_LOOKUPS = ('gather', 'scatter', 'sort')
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%([\w.\-]+) = (.*)$')
_OPCODE = re.compile(r'(?:^|[\s})\]])([a-z][\w\-]*)\(')
_SHAPE = re.compile(r'\w+\[([\d,]*)\]')
_TABLES = ('FileNames', 'FunctionNames', 'FileLocations', 'StackFrames')
_ROW = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')


@dataclasses.dataclass
class Part:
  """What one part of a program costs.

  Attributes:
    counted: cycles that the compiler estimates.
    rows: rows that are looked up, of which it says nothing.
    kernels: how often kernels run of which it says nothing.
  """

  counted: float = 0.0
  rows: int = 0
  kernels: int = 0

  def cycles(self) -> tuple[float, float]:
    """At least and at most, without kernels that are not counted."""
    return tuple(self.counted + self.rows * each for each in ROW_CYCLES)


class Program:
  """The text of a compiled module.

  Args:
    text: `compiled.as_text()`.

  Raises:
    ValueError: it has no entry computation.
  """

  def __init__(self, text: str):
    self._tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    self._computations: dict[str, list[tuple[str, str]]] = {}
    self._results: dict[str, str] = {}
    self._entry = ''
    table = body = None
    for line in text.splitlines():
      if body is not None:
        if line.startswith('}'):
          body = None
        elif found := _INSTRUCTION.match(line):
          body.append((found[1], found[2]))
          self._results[found[1]] = found[2]
      elif line in _TABLES:
        table = self._tables[line]
      elif table is not None and (found := _ROW.match(line)):
        table[int(found[1])] = found[2] if found[2] is not None else found[3]
      elif found := _COMPUTATION.match(line):
        body = self._computations.setdefault(found[1], [])
        if line.startswith('ENTRY'):
          self._entry = found[1]
    if not self._entry:
      raise ValueError('the text is not that of a compiled program: it has no entry')

  def parts(self) -> dict[str, Part]:
    """What each part costs, the most expensive first."""
    found: dict[str, Part] = collections.defaultdict(Part)
    for rhs, times in self._walk(self._entry, 1):
      part = found[self._part(rhs)]
      cycles = re.search(r'"estimated_cycles":"(\d+)"', rhs)
      if cycles and int(cycles[1]) < _UNKNOWN:
        part.counted += times * int(cycles[1])
      part.rows += times * self._rows(rhs)
      part.kernels += times * ('tpu_custom_call' in rhs)
    return dict(sorted(found.items(), key=lambda item: -item[1].cycles()[1]))

  def _walk(self, computation: str, times: int) -> Iterator[tuple[str, int]]:
    """Every operation that runs, and how often; of branches the last."""
    for _, rhs in self._computations[computation]:
      operation = _opcode(rhs)
      if operation == 'while':
        body = _named('body', rhs)
        yield from self._walk(body, times * self._rounds(rhs))
      elif operation == 'conditional':
        branches = re.search(r'branch_computations=\{(.*?)\}', rhs)
        if branches:
          last = re.findall(r'%([\w.\-]+)', branches[1])[-1]
        else:
          last = _named('true_computation', rhs)
        yield from self._walk(last, times)
      elif operation == 'call':
        yield from self._walk(_named('to_apply', rhs), times)
      else:
        yield rhs, times

  def _rounds(self, rhs: str) -> int:
    """How often a loop runs; once where that depends on the data."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', rhs):
      return int(known[1])
    numbers, todo = [1], [_named('condition', rhs)]
    for computation in todo:
      for _, inner in self._computations.get(computation, ()):
        numbers += map(int, re.findall(r's32\[\][^ ]* constant\((\d+)\)', inner))
        todo += re.findall(r'calls=%([\w.\-]+)', inner)
    return max(numbers)

  def _rows(self, rhs: str) -> int:
    """Rows that an operation, or what is fused into it, looks up."""
    operation = _opcode(rhs)
    if operation == 'scatter':
      return self._written(rhs)
    if operation in _LOOKUPS:
      return _looked_up(operation, rhs)
    called = re.search(r'calls=%([\w.\-]+)', rhs)
    if operation != 'fusion' or not called:
      return 0
    inside = self._computations.get(called[1], ())
    return sum(self._rows(inner) for _, inner in inside)

  def _written(self, rhs: str) -> int:
    """Rows that a scatter writes: its last operand's, whatever they are written to."""
    operands = re.search(r' scatter\((.*?)\)', rhs)[1]
    update = re.findall(r'%([\w.\-]+)', operands)[-1]
    dims = _SHAPE.search(self._results[update])[1].split(',')
    sides = [int(side) for side in dims if side]
    window = re.search(r'update_window_dims=\{([\d,]*)\}', rhs)[1]
    within = {int(dim) for dim in window.split(',') if dim}
    return math.prod(side for dim, side in enumerate(sides) if dim not in within)

  def _part(self, rhs: str) -> str:
    files = self._files(rhs)
    called = re.search(r'calls=%([\w.\-]+)', rhs)
    if not files and called:
      for _, inner in reversed(self._computations.get(called[1], ())):
        if files := self._files(inner):
          break
    for file in files:
      for part, pattern in PARTS:
        if re.search(pattern, file):
          return part
    return OTHER

  def _files(self, rhs: str) -> Sequence[str]:
    """Files that an operation comes from, the innermost first."""
    frame = re.search(r'stack_frame_id=(\d+)', rhs)
    found, number = [], int(frame[1]) if frame else 0
    while number in self._tables['StackFrames']:
      fields = _fields(self._tables['StackFrames'][number])
      place = _fields(self._tables['FileLocations'][fields['file_location_id']])
      found.append(self._tables['FileNames'][place['file_name_id']])
      # One more than the frame's number: 1 is none.
      number = fields.get('parent_frame_id', 1) - 1
    return found


def _fields(text: str) -> Mapping[str, int]:
  return {name: int(value) for name, value in re.findall(r'(\w+)=(\d+)', text)}


def _opcode(rhs: str) -> str:
  found = _OPCODE.search(rhs)
  return found[1] if found else ''


def _named(what: str, rhs: str) -> str:
  return re.search(rf'{what}=%([\w.\-]+)', rhs)[1]


def _looked_up(operation: str, rhs: str) -> int:
  """Rows of a gather or a sort: slices that are read, keys."""
  sizes = [
    math.prod(int(side) for side in dims.split(',') if side)
    for dims in _SHAPE.findall(rhs.partition(f' {operation}(')[0])
  ]
  if operation == 'gather':
    each = re.search(r'slice_sizes=\{([\d,]*)\}', rhs)
    return sizes[0] // max(math.prod(int(s) for s in each[1].split(',') if s), 1)
  return max(sizes, default=0)
