"""Sizes of a network, read off the shapes of a checkpoint.

What shapes cannot tell (the activation, heads that are packed, pixel statistics) comes
from the preset the sizes are laid over.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar('T')
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class KnownSizes:
  """What the files of a conversion tell about a model.

  Attributes:
    shapes: our path -> shape of every tensor whose layout needs no head count.
    keys: official keys of the main file.
    clip: fields of CLIP's config that a file beside its weights tells.
    main: fields of the config of the main file's network, likewise.
  """

  shapes: Shapes
  keys: frozenset[str] = frozenset()
  clip: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  main: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def below(self, part: str) -> 'KnownSizes':
    """The same of a part, such as 'clip', under the part's own paths."""
    prefix = f'{part}/'
    shapes = {
      path.removeprefix(prefix): shape
      for path, shape in self.shapes.items()
      if path.startswith(prefix)
    }
    return dataclasses.replace(self, shapes=shapes)

  def size(self, path: str, axis: int) -> int | None:
    """A side of a tensor; None if there is no such tensor."""
    shape = self.shapes.get(path, ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None

  def layers(self, template: str) -> int | None:
    """How many paths exist for i = 0, 1, ...; None for none."""
    count = 0
    while template.format(i=count) in self.shapes:
      count += 1
    return count or None


def resized(config: T, **sizes: Any) -> T:
  """A config with some fields changed; a size that is None keeps the config's."""
  known = {name: size for name, size in sizes.items() if size is not None}
  return dataclasses.replace(config, **known)


def _kinds(name: str, ours: Any, theirs: Any) -> str:
  """How parts differ of which there is only one, or which are of two kinds."""
  if ours is None or theirs is None:
    return f'there is {"no" if theirs is None else "a"} {name}'
  kinds = (type(part).__name__.removesuffix('Config') for part in (theirs, ours))
  return f'{name} is a {" and not a ".join(kinds)}'


def differences(base: Any, sized: Any) -> list[str]:
  """Fields that differ, as 'patch_size is 14, not 16'; a class head may be extra."""
  lines = []
  for field in dataclasses.fields(base):
    ours, theirs = getattr(base, field.name), getattr(sized, field.name)
    if dataclasses.is_dataclass(ours) and type(ours) is type(theirs):
      lines += differences(ours, theirs)
    elif dataclasses.is_dataclass(ours) or dataclasses.is_dataclass(theirs):
      lines.append(_kinds(field.name, ours, theirs))
    elif ours != theirs and (field.name, ours) != ('num_classes', None):
      lines.append(f'{field.name} is {theirs}, not {ours}')
  return lines
