"""What a task is, and how its parameters divide into trained and frozen ones.

A task owns a model, frozen helpers (a teacher), constants (text vectors) and a loss,
and says by regular expressions which parameters train. Everything else of training is
the same for all tasks.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.io import params
from maskclip_jax.zoo import Preset

Flat = Mapping[str, Array]
Terms = Mapping[str, Float[Array, '']]

MODEL = 'model'


class Task(Protocol):
  """One stage of training.

  Attributes:
    preset: the model that is trained and exported.
    trainable: regular expressions over its parameter paths.
    unused: regular expressions over paths that this training never reads (CLIP's text
      tower); they take no memory and are copied into the exported bundle.
    constants: arrays that are neither parameters nor part of a batch, by path.
  """

  preset: Preset
  trainable: tuple[str, ...]
  unused: tuple[str, ...]
  constants: Flat

  def modules(self) -> dict[str, nnx.Module]:
    """Abstract modules: `model`, without its unused parts, and frozen helpers."""

  def derive(self, flat: Flat, fresh: Sequence[str]) -> Flat:
    """Starting values that follow from others, for paths that no file has given."""

  def loss(
    self,
    modules: Mapping[str, nnx.Module],
    constants: Flat,
    batch: Mapping[str, Array],
    key: Array,
  ) -> tuple[Float[Array, ''], Terms]:
    """The loss of a batch, and what is worth logging, scalars by name."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which paths a task has, and which of them train.

  A path of the model is the model's own; a helper's paths start with its name.

  Attributes:
    shapes: path -> shape and type, of parameters and of frozen constants alike.
    trained: paths that train, in the order of `shapes`.
  """

  shapes: Mapping[str, jax.ShapeDtypeStruct]
  trained: tuple[str, ...]
  _parts: Mapping[str, tuple[nnx.GraphDef, nnx.State]]

  @classmethod
  def of(cls, task: Task) -> 'Layout':
    """The layout of a task.

    Raises:
      ValueError: an expression of `trainable` matches no parameter, or two modules
        have the same path.
    """
    parts = {name: nnx.split(module) for name, module in task.modules().items()}
    shapes: dict[str, jax.ShapeDtypeStruct] = {}
    for name, (_, state) in parts.items():
      for path, leaf in params.flatten(state).items():
        path = _join(name, path)
        if path in shapes:
          raise ValueError(f'the model and a helper both have a parameter {path}')
        shapes[path] = leaf
    # Frozen statistics are variables, but no parameters.
    own = [
      params.path_name(path)
      for path, leaf in nnx.to_flat_state(parts[MODEL][1])
      if isinstance(leaf, nnx.Param)
    ]
    return cls(shapes, tuple(params.select(own, *task.trainable)), parts)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Paths that do not train."""
    trained = set(self.trained)
    return tuple(path for path in self.shapes if path not in trained)

  def own(self, helper: str = MODEL) -> dict[str, str]:
    """Path in the layout -> path in the module itself, of the model or of a helper."""
    state = self._parts[helper][1]
    return {_join(helper, path): path for path in params.flatten(state)}

  def merge(self, flat: Flat) -> dict[str, nnx.Module]:
    """The modules with their arrays taken from `flat`."""
    return {
      name: nnx.merge(
        graphdef,
        params.unflatten(
          {path: flat[_join(name, path)] for path in params.flatten(state)}, state
        ),
      )
      for name, (graphdef, state) in self._parts.items()
    }

  def table(self) -> str:
    """The trained parameters, numbered layers folded, with their counts."""
    groups: dict[str, list[int]] = {}
    for path in self.trained:
      name = re.sub(r'(^|/)\d+(?=/|$)', r'\1*', path)
      groups.setdefault(name, []).append(params.count({path: self.shapes[path]}))
    width = max(len(name) for name in groups)
    lines = [
      f'  {name:<{width}} {len(sizes):>4} x {sizes[0]:>12,}'
      if len(set(sizes)) == 1
      else f'  {name:<{width}} {len(sizes):>4}   {sum(sizes):>12,}'
      for name, sizes in groups.items()
    ]
    trained = params.count({p: self.shapes[p] for p in self.trained})
    frozen = params.count(self.shapes) - trained
    return '\n'.join([f'{trained:,} parameters train, {frozen:,} are frozen', *lines])


def _join(module: str, path: str) -> str:
  return path if module == MODEL else f'{module}/{path}'
