"""Configuration files, and changes to them from the command line."""

import ast
import importlib.util
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

PREFIX = '--config.'


def is_override(word: str) -> bool:
  """Whether a word of the command line changes a field: '--config.a.b=value'."""
  return word.startswith(PREFIX)


def load(spec: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """The plain values of a configuration.

  Args:
    spec: 'file.py' or 'file.py:argument'.
    overrides: '--config.optim.lr=3e-4', applied in order.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a file without `get_config`, an argument it does not know, or an
      override without a value.
  """
  name, _, argument = spec.partition(':')
  path = pathlib.Path(name)
  if not path.is_file():
    raise FileNotFoundError(f'{name} does not exist: give a file such as configs/*.py')
  module = _import(path.absolute())
  if not hasattr(module, 'get_config'):
    raise ValueError(f'{name} has no get_config(): it is no configuration')
  values = module.get_config(argument or None).to_dict()
  for override in overrides:
    _apply(values, override)
  return values


def _import(path: pathlib.Path):
  """Runs a file that may import its neighbours as `configs.name`."""
  root = str(path.parent.parent)
  spec = importlib.util.spec_from_file_location(f'_config_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  sys.path.insert(0, root)
  try:
    spec.loader.exec_module(module)
  finally:
    sys.path.remove(root)
  return module


def _apply(values: dict[str, Any], override: str) -> None:
  name, equals, text = override.removeprefix(PREFIX).partition('=')
  if not equals:
    raise ValueError(f'{override} has no value: write {override}=VALUE')
  *parents, leaf = name.split('.')
  table = values
  for parent in parents:
    table = table.setdefault(parent, {})
    if not isinstance(table, dict):
      raise ValueError(f'{override}: {parent} is a value, not a table of fields')
  table[leaf] = _parse(text, table.get(leaf))


def _parse(text: str, current: Any) -> Any:
  """A number, a list, None or True as Python writes them; anything else is text."""
  if isinstance(current, str):
    return text
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def is_pipeline(values: Mapping[str, Any]) -> bool:
  """Whether a configuration is several stages."""
  return 'stages' in values
