"""What the three metric families have in common: a result, and a state that adds up.

An accumulator takes one image at a time. Its state is a dictionary of plain arrays, so
that a run can be saved anywhere and the states of many hosts can be merged; merging is
exact, and its order does not matter.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

State = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
  """Numbers of an evaluation, in percent as the literature prints them.

  Attributes:
    values: headline numbers by name; NaN where there was nothing to judge.
    per_class: by metric, one number per class; NaN where a class never occurred.
  """

  values: Mapping[str, float]
  per_class: Mapping[str, Float[np.ndarray, ' k']]


def joined_states(parts: Mapping[str, State]) -> State:
  """One state of several, by name."""
  return {
    f'{part}/{name}': array
    for part, state in parts.items()
    for name, array in state.items()
  }


def state_of(part: str, state: State) -> State:
  """The state of one part of a joined one."""
  prefix = f'{part}/'
  return {
    name.removeprefix(prefix): array
    for name, array in state.items()
    if name.startswith(prefix)
  }


def ratio(
  numerator: Float[np.ndarray, '...'], denominator: Float[np.ndarray, '...']
) -> Float[np.ndarray, '...']:
  """The quotient in double precision, NaN where the denominator is zero."""
  numerator = np.asarray(numerator, np.float64)
  denominator = np.asarray(denominator, np.float64)
  out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
  np.divide(numerator, denominator, out=out, where=denominator != 0)
  return out


def mean(values: Float[np.ndarray, ' n']) -> float:
  """The mean of what is defined; NaN where nothing is."""
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else float('nan')


def check_groups(groups: Mapping[str, tuple[int, ...]], classes: int) -> None:
  """Refuses groups of classes that do not exist.

  Raises:
    ValueError: an empty group, or an index outside the classes.
  """
  for name, members in groups.items():
    if not members or min(members) < 0 or max(members) >= classes:
      raise ValueError(
        f'the group {name!r} must hold class indices from 0 to {classes - 1}'
      )


def check_shape(state: State, key: str, shape: tuple[int, ...]) -> None:
  """Refuses the state of an accumulator of other classes.

  Raises:
    ValueError: the array is missing or has another shape.
  """
  found = state[key].shape if key in state else None
  if found != shape:
    raise ValueError(
      f'the saved state does not fit: {key} is {found} instead of {shape}; it is of '
      'another vocabulary or protocol'
    )
