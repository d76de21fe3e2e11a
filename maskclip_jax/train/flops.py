"""Floating-point operations of a program, counted before it is compiled.

Compilers count the body of a loop once however often it runs, so their numbers say
little of a network whose equal blocks are a loop.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend import core


def count_flops(program: core.Jaxpr | core.ClosedJaxpr) -> int:
  """Operations of all matrix products and convolutions, on all devices together.

  What a gradient computes again counts again. Of branches the most expensive one
  counts, of a loop that runs until something holds, one round. Of forms for different
  platforms the cheapest counts: others multiply where they would have to look up.

  Args:
    program: such as `jax.jit(f).trace(x).jaxpr`.
  """
  if isinstance(program, core.ClosedJaxpr):
    program = program.jaxpr
  return sum(map(_of_equation, program.eqns))


def _of_equation(eqn: core.JaxprEqn) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    sides = eqn.invars[0].aval.shape
    return 2 * eqn.outvars[0].aval.size * math.prod(sides[axis] for axis in contracted)
  if name == 'conv_general_dilated':
    kernel = eqn.invars[1].aval
    outputs = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
    products = eqn.outvars[0].aval.size * (kernel.size // outputs)
    # Between the numbers of a dilated input lie zeros.
    return 2 * products // math.prod(params['lhs_dilation'])
  inside = [count_flops(program) for program in _programs(params)]
  if name == 'cond':
    return min(inside) if params.get('branches_platforms') else max(inside)
  if name == 'scan':
    return params['length'] * sum(inside)
  if name == 'shard_map':
    return params['mesh'].size * sum(inside)
  return sum(inside)


def _programs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr | core.ClosedJaxpr]:
  for value in params.values():
    for one in value if isinstance(value, (list, tuple)) else (value,):
      if isinstance(one, (core.Jaxpr, core.ClosedJaxpr)):
        yield one
