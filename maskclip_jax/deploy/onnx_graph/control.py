"""Primitives that hold programs: calls, loops and choices."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from maskclip_jax.deploy.onnx_graph.graph import Graph, Rule, info

# Whose form is taken where a program chooses one by platform: look-ups and grouped
# convolutions are operators of ONNX, and GPUs have no loop around them.
PLATFORM = 'cuda'


def _call(parameter: str) -> Rule:
  """The rule of a call, which is inlined."""
  return lambda graph, equation, *inputs: graph.inline(
    equation.params[parameter], inputs
  )


def _platform(graph: Graph, equation) -> str:
  """Which branch of a choice by platform is the one for `PLATFORM`."""
  for number, names in enumerate(equation.params['platforms']):
    if names is None or PLATFORM in names:
      return graph.constant(np.int32(number))
  raise ValueError(f'a choice by platform has no form for {PLATFORM}')


def _cond(graph: Graph, equation, index: str, *inputs: str) -> list[str]:
  branches, chosen = equation.params['branches'], graph.value_of(index)
  if chosen is not None:
    place = min(max(int(chosen), 0), len(branches) - 1)
    return graph.inline(branches[place], inputs)
  if len(branches) != 2:
    raise ValueError('a choice between other than two programs has no rule for ONNX')
  avals = [atom.aval for atom in equation.outvars]
  bodies = []
  for branch in branches:
    body = graph.body('branch', [])
    bodies.append(body.proto(body.inline(branch, inputs), avals))
  first = graph.op('LessOrEqual', index, np.int32(0))
  return graph.ops(
    'If', len(avals), first, then_branch=bodies[0], else_branch=bodies[1]
  )


def _while(graph: Graph, equation, *inputs: str) -> list[str]:
  p = equation.params
  split = p['cond_nconsts'], p['cond_nconsts'] + p['body_nconsts']
  of_test, of_body = inputs[: split[0]], inputs[split[0] : split[1]]
  carry, avals = inputs[split[1] :], [atom.aval for atom in equation.outvars]
  truth = jax.ShapeDtypeStruct((), np.bool_)

  names, described = _arguments(graph, avals)
  turn = info(graph.name('turn'), np.int64, ())
  unfinished = info(graph.name('unfinished'), np.bool_, ())
  body = graph.body('loop', [turn, unfinished, *described])
  after = body.inline(p['body_jaxpr'], [*of_body, *names])
  (again,) = body.inline(p['cond_jaxpr'], [*of_test, *after])
  proto = body.proto([again, *after], [truth, *avals])
  (begin,) = graph.inline(p['cond_jaxpr'], [*of_test, *carry])
  return graph.ops('Loop', len(avals), '', begin, *carry, body=proto)


def _scan(graph: Graph, equation, *inputs: str) -> list[str]:
  p, jaxpr = equation.params, equation.params['jaxpr']
  first, second = p['num_consts'], p['num_consts'] + p['num_carry']
  consts, carry, rows = inputs[:first], inputs[first:second], inputs[second:]
  if p['length'] == 1:
    return _once(graph, equation, consts, carry, rows)
  names, described = _arguments(graph, jaxpr.in_avals[first:])
  if not rows:
    # A scan of ONNX goes over something.
    rows = [graph.constant(np.arange(p['length']))]
    described.append(info(graph.name('turn'), np.int64, ()))
  body = graph.body('scan', described)
  proto = body.proto(body.inline(jaxpr, [*consts, *names]), jaxpr.out_avals)
  results = len(jaxpr.out_avals)
  backwards = {}
  if p['reverse']:
    backwards['scan_input_directions'] = [1] * len(rows)
    if stacked := results - p['num_carry']:
      backwards['scan_output_directions'] = [1] * stacked
  return graph.ops(
    'Scan', results, *carry, *rows, body=proto, num_scan_inputs=len(rows), **backwards
  )


def _once(
  graph: Graph,
  equation,
  consts: Sequence[str],
  carry: Sequence[str],
  rows: Sequence[str],
) -> list[str]:
  """A loop of one turn, without a loop."""
  jaxpr, kept = equation.params['jaxpr'], equation.params['num_carry']

  def reshaped(values, avals, *, stacked: bool) -> list[str]:
    """Rows with the loop's axis, or without it."""
    shapes = [((1, *aval.shape), aval.shape)[:: -1 if stacked else 1] for aval in avals]
    return [
      graph.reshape(value, *shape) for value, shape in zip(values, shapes, strict=True)
    ]

  avals = jaxpr.in_avals[len(consts) + len(carry) :]
  found = graph.inline(jaxpr, [*consts, *carry, *reshaped(rows, avals, stacked=False)])
  stacked = reshaped(found[kept:], jaxpr.out_avals[kept:], stacked=True)
  return [*found[:kept], *stacked]


def _arguments(graph: Graph, avals: Sequence[Any]) -> tuple[list[str], list[Any]]:
  """New names for the arguments of a body, and their descriptions."""
  names = [graph.name('argument') for _ in avals]
  return names, [
    info(name, aval.dtype, aval.shape) for name, aval in zip(names, avals, strict=True)
  ]


RULES: dict[str, Rule] = {
  'cond': _cond,
  'custom_jvp_call': _call('call_jaxpr'),
  'custom_vjp_call': _call('call_jaxpr'),
  'jit': _call('jaxpr'),
  'platform_index': _platform,
  'remat2': _call('jaxpr'),
  'scan': _scan,
  'while': _while,
}
