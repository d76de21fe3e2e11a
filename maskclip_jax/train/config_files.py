"""Configuration files, and changes to them from the command line."""

import ast
import importlib.util
import pathlib
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any

import maskclip_jax
from maskclip_jax import names, plain

PREFIX = '--config.'
_PACKAGE = 'configs'
# What the configurations share is none itself.
_SHARED = ('__init__', 'common')


def is_override(word: str) -> bool:
  """Whether a word of the command line changes a field: '--config.a.b=value'."""
  return word.startswith(PREFIX)


def load(spec: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """The plain values of a configuration.

  Args:
    spec: a name of `shipped()` or a file, and after a colon its argument:
      'masqclip:stage=masq', 'configs/masqclip.py:stage=masq'.
    overrides: '--config.optim.lr=3e-4', applied in order.

  Raises:
    FileNotFoundError: no such name or file.
    ValueError: a file without `get_config`, an argument it does not know, or an
      override without a value.
  """
  name, _, argument = spec.partition(':')
  module = _import(find(name).absolute())
  if not hasattr(module, 'get_config'):
    raise ValueError(f'{name} has no get_config(): it is not a configuration')
  values = module.get_config(argument or None).to_dict()
  if overrides:
    # Not needed to know which words are overrides.
    from maskclip_jax.train.config import TrainConfig

    for override in overrides:
      _apply(values, override, TrainConfig)
  return values


def find(name: str) -> pathlib.Path:
  """The file of a configuration.

  Args:
    name: one of `shipped()`, or a path that ends in .py.

  Raises:
    FileNotFoundError: there is none.
  """
  path = pathlib.Path(name)
  if path.suffix == '.py':
    if path.is_file():
      return path
    raise FileNotFoundError(
      f'{name} does not exist: give a file, or a configuration that comes with the '
      f'package: {", ".join(shipped())}'
    )
  if name not in shipped():
    known, hint = ', '.join(shipped()), names.hint(name, shipped())
    hint = hint if known in hint else f'{hint} There are {known}'
    raise FileNotFoundError(
      f'no configuration is called {name!r}: {hint} (or give a file that ends in .py)'
    )
  return shipped()[name]


def shipped() -> dict[str, pathlib.Path]:
  """The configurations that come with the package, by name."""
  files = sorted(_folder().glob('*.py'))
  return {f.stem: f for f in files if f.stem not in _SHARED}


def _folder() -> pathlib.Path:
  """`configs/`: inside the package where a wheel was installed, else beside it."""
  package = pathlib.Path(maskclip_jax.__file__).parent
  inside = package / _PACKAGE
  return inside if inside.is_dir() else package.parent / _PACKAGE


def _import(path: pathlib.Path):
  """Runs a file, which may import its neighbours, and the shipped configurations, as
  `configs.name`."""
  spec = importlib.util.spec_from_file_location(f'{_PACKAGE}.{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  neighbours = types.ModuleType(_PACKAGE)
  neighbours.__path__ = [str(path.parent), str(_folder())]
  kept = {name: sys.modules.pop(name) for name in _loaded()}
  sys.modules[_PACKAGE] = neighbours
  try:
    spec.loader.exec_module(module)
  finally:
    # Another folder's neighbours may have the same names.
    for name in _loaded():
      del sys.modules[name]
    sys.modules.update(kept)
  return module


def _loaded() -> list[str]:
  return [m for m in sys.modules if m == _PACKAGE or m.startswith(f'{_PACKAGE}.')]


def _apply(values: dict[str, Any], override: str, cls: type) -> None:
  name, equals, text = override.removeprefix(PREFIX).partition('=')
  if not equals:
    raise ValueError(f'{override} has no value: write {override}=VALUE')
  path = name.split('.')
  # A pipeline has the configurations of its stages: 'stages.teacher.optim.lr'.
  own = path[2:] if is_pipeline(values) else path
  *parents, leaf = path
  table = values
  for parent in parents:
    table = table.setdefault(parent, {})
    if not isinstance(table, dict):
      raise ValueError(f'{override}: {parent} is a value, not a table of fields')
  table[leaf] = _parse(text, plain.field_type(cls, own), table.get(leaf))


def _parse(text: str, hint: Any, current: Any) -> Any:
  """What was typed, as a field of a type takes it.

  Args:
    text: a number, a list, None or True as Python writes them, or text.
    hint: the field's type; None where it is not known.
    current: its value so far.
  """
  members = plain.members(hint)
  if text.lower() in ('none', 'null') and type(None) in members:
    return None
  if str in members or (hint in (None, Any) and isinstance(current, str)):
    # '2017' is a name where a name is wanted.
    return text
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
  whole = isinstance(value, float) and value.is_integer() and float not in members
  return int(value) if whole and int in members else value


def is_pipeline(values: Mapping[str, Any]) -> bool:
  """Whether a configuration is several stages."""
  return 'stages' in values
