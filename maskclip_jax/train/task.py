"""What a task is, and how its parameters divide into trained and frozen ones.

A task owns a model, frozen helpers (a teacher), constants (text vectors) and a loss,
and says by regular expressions which parameters train. Everything else of training is
the same for all tasks.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.io import params
from maskclip_jax.io.restore import abstract_model
from maskclip_jax.zoo import Preset

Flat = Mapping[str, Array]
Terms = Mapping[str, Float[Array, '']]

MODEL = 'model'
# Rows of the table of trained parameters before it is folded.
_LONGEST_TABLE = 12


class Make(Protocol):
  """Builds a module of a system and its config."""

  def __call__(self, system: str, config: Any, *, dtype: Any) -> nnx.Module: ...


class Task(Protocol):
  """One stage of training.

  Attributes:
    preset: the model that is trained and exported.
    trainable: regular expressions over its parameter paths.
    unused: parts of the model that training never reads (CLIP's text tower); they take
      no memory and are copied into the exported bundle.
    constants: arrays that are neither parameters nor part of a batch, by path.
  """

  preset: Preset
  trainable: tuple[str, ...]
  unused: tuple[str, ...]
  constants: Flat

  def modules(self, make: Make = abstract_model) -> dict[str, nnx.Module]:
    """The whole model, called `model`, and frozen helpers."""

  def derive(self, values: Flat, path: str) -> Array | None:
    """The starting value of a path that no file gives, if it follows from others."""

  def loss(
    self,
    modules: Mapping[str, nnx.Module],
    constants: Flat,
    batch: Mapping[str, Array],
    key: Array,
  ) -> tuple[Float[Array, ''], Terms]:
    """The loss of a batch, and what is worth logging, scalars by name."""


def flatten_modules(modules: Mapping[str, nnx.Module]) -> dict[str, Any]:
  """Path -> value of every variable; a helper's paths start with its name."""
  flat: dict[str, Any] = {}
  for name, module in modules.items():
    for path, leaf in params.flatten(module).items():
      path = _join(name, path)
      if path in flat:
        raise ValueError(f'the model and a helper both have a parameter {path}')
      flat[path] = leaf
  return flat


def _prune(module: nnx.Module, unused: Sequence[str]) -> None:
  """Takes parts out of a module."""
  for path in unused:
    *parents, name = path.split('/')
    delattr(functools.reduce(getattr, parents, module), name)


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
    modules = task.modules()
    _prune(modules[MODEL], task.unused)
    shapes = flatten_modules(modules)
    parts = {name: nnx.split(module) for name, module in modules.items()}
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
    """The trained parameters with their counts: layers folded, or parts if many."""
    groups: dict[str, list[int]] = {}
    for path in self.trained:
      name = re.sub(r'(^|/)\d+(?=/|$)', r'\1*', path)
      groups.setdefault(name, []).append(params.count({path: self.shapes[path]}))
    if len(groups) > _LONGEST_TABLE:
      parts: dict[str, list[int]] = {}
      for name, sizes in groups.items():
        parts.setdefault(f'{name.partition("/")[0]}/**', []).extend(sizes)
      groups = parts
    width = max(len(name) for name in groups)
    lines = [
      f'  {name:<{width}}  {len(sizes):>4} arrays  {sum(sizes):>12,}'
      for name, sizes in groups.items()
    ]
    trained = params.count({p: self.shapes[p] for p in self.trained})
    frozen = params.count(self.shapes) - trained
    return '\n'.join([f'{trained:,} parameters train, {frozen:,} are frozen:', *lines])


def _join(module: str, path: str) -> str:
  return path if module == MODEL else f'{module}/{path}'
