"""Frozen dataclasses from plain values (those that JSON has), and back.

Configurations and bundles are read by this: every mistake is named by its full field,
`config.optim.lrr is not a field: did you mean 'lr'?`.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from maskclip_jax import names
from maskclip_jax.names import shown

T = TypeVar('T')

_FORMER = 'former name'
# Whole numbers are sizes, counts and seeds; larger ones do not fit 64 bits.
_NO_SIZE = 2**63
# Characters beyond 16 bits are written as two escapes, of which one may be lost.
_HALF = re.compile(r'\\u[dD][89a-fA-F]')


def renamed(former: str, default: Any) -> Any:
  """A field with a default value that `read` also knows by its former name."""
  return dataclasses.field(default=default, metadata={_FORMER: former})


def parse_json(text: str | bytes, name: str | os.PathLike) -> Any:
  """The value of a JSON text.

  Raises:
    ValueError: the text is not JSON, is nested too deeply, or holds half a character,
      which nothing can print; begins with `name`.
  """
  try:
    if isinstance(text, bytes):
      text = text.decode(json.detect_encoding(text))
    value = json.loads(text)
    if _HALF.search(text):
      json.dumps(value, ensure_ascii=False).encode()
    return value
  except RecursionError:
    raise ValueError(f'{name} is not valid JSON: nested too deeply') from None
  except ValueError as error:
    raise ValueError(f'{name} is not valid JSON: {error}') from None


def read_json(path: str | os.PathLike) -> Any:
  """The value of a JSON file in UTF-8, with or without a byte order mark.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is not JSON.
  """
  return parse_json(pathlib.Path(path).read_bytes().removeprefix(b'\xef\xbb\xbf'), path)


def to_dict(instance: Any) -> dict[str, Any]:
  """The plain values of a dataclass; `read` takes them back, from JSON too."""
  return dataclasses.asdict(instance)


def read(cls: type[T], values: Mapping[str, Any], where: str) -> T:
  """A dataclass of plain values.

  Args:
    cls: the dataclass. The types of its fields say where dataclasses, tuples and floats
      stand, which plain values write as tables, lists and whole numbers.
    values: field -> value.
    where: name of the whole, with which errors begin: 'config'.

  Raises:
    ValueError: an unknown or missing field, a wrong type, or what the dataclass itself
      refuses.
  """
  if not isinstance(values, Mapping):
    raise ValueError(f'{where} must be a table of fields, not {shown(values)}')
  values = _by_todays_names(cls, values)
  hints = _hints(cls, values, where)
  missing = [
    field.name
    for field in dataclasses.fields(cls)
    if field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
    and field.name not in values
  ]
  if missing:
    raise ValueError(f'{where} needs {", ".join(missing)}')
  converted = {
    name: _convert(hints[name], value, f'{where}.{name}')
    for name, value in values.items()
  }
  return _make(lambda: cls(**converted), where)


def change(instance: T, values: Mapping[str, Any], where: str) -> T:
  """A dataclass with some fields changed, nested ones too; errors as for `read`."""
  values = _by_todays_names(type(instance), values)
  hints = _hints(type(instance), values, where)
  changed = {}
  for name, value in values.items():
    current = getattr(instance, name)
    if dataclasses.is_dataclass(current) and isinstance(value, Mapping):
      changed[name] = change(current, value, f'{where}.{name}')
    else:
      changed[name] = _convert(hints[name], value, f'{where}.{name}')
  return _make(lambda: dataclasses.replace(instance, **changed), where)


def _by_todays_names(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
  todays = {
    field.metadata[_FORMER]: field.name
    for field in dataclasses.fields(cls)
    if _FORMER in field.metadata
  }
  return {todays.get(name, name): value for name, value in values.items()}


def field_type(cls: type, path: Sequence[str]) -> Any:
  """The type of a field of a dataclass or of those inside it; None if there is none.

  Args:
    cls: the dataclass.
    path: the names on the way to the field: ['optim', 'lr'].
  """
  hint: Any = cls
  for name in path:
    hint = next((a for a in members(hint) if a is not types.NoneType), None)
    if dataclasses.is_dataclass(hint):
      hint = typing.get_type_hints(hint).get(name)
    elif typing.get_origin(hint) is not None and issubclass(
      typing.get_origin(hint), Mapping
    ):
      hint = typing.get_args(hint)[1]
    else:
      return None
  return hint


def at_least(instance: Any, least: float, *names: str) -> None:
  """Fails where a number of a dataclass is smaller, or not finite; None may stand.

  Args:
    instance: the dataclass.
    least: the smallest number allowed.
    *names: fields, of one number or of a tuple of them.

  Raises:
    ValueError: with the name of the field.
  """
  _bounded(instance, names, lambda x: x >= least, f'at least {least}')


def above(instance: Any, limit: float, *names: str) -> None:
  """The same where the limit itself is too small."""
  _bounded(instance, names, lambda x: x > limit, f'above {limit}')


def _bounded(
  instance: Any, names: Sequence[str], allowed: Callable[[float], bool], what: str
) -> None:
  for name in names:
    value = getattr(instance, name)
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
      if number is not None and not (math.isfinite(number) and allowed(number)):
        raise ValueError(f'{name} must be {what}, not {value}')


def members(hint: Any) -> tuple[Any, ...]:
  """The types of a union; of another type, that alone."""
  return typing.get_args(hint) if _is_union(hint) else (hint,)


def _is_union(hint: Any) -> bool:
  return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def _hints(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Type of every field, if the values are of no other."""
  hints = typing.get_type_hints(cls)
  fields = [field.name for field in dataclasses.fields(cls)]
  for name in values:
    if name not in fields:
      raise ValueError(
        f'{where}.{str(name)[:80]} is not a field: {names.hint(name, fields)}'
      )
  return hints


def _make(make: Callable[[], T], where: str) -> T:
  """Says where the values stand that a dataclass's own checks refuse."""
  try:
    return make()
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from None


def _convert(hint: Any, value: Any, where: str) -> Any:
  """A plain value as the type of its field."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if _is_union(hint):
    chosen = next((a for a in arguments if _accepts(a, value)), arguments[0])
    return _convert(chosen, value, where)
  if dataclasses.is_dataclass(hint):
    return value if isinstance(value, hint) else read(hint, value, where)
  if (origin or hint) is tuple:
    return _convert_tuple(arguments or (Any, ...), value, where)
  if origin is Literal:
    if value not in arguments:
      choices = ', '.join(map(repr, arguments))
      raise ValueError(f'{where} must be one of {choices}, not {shown(value)}')
    return value
  if origin is not None and issubclass(origin, Mapping):
    if not isinstance(value, Mapping):
      raise ValueError(f'{where} must be a table, not {shown(value)}')
    inner = arguments[1]
    return {
      name: _convert(inner, v, f'{where}.{str(name)[:80]}') for name, v in value.items()
    }
  if origin is not None or hint is Any:
    return value
  return _convert_scalar(hint, value, where)


def _accepts(hint: Any, value: Any) -> bool:
  """Whether a plain value is of this member of a union."""
  if hint is Any:
    return True
  origin = typing.get_origin(hint) or hint
  if origin is Literal:
    return value in typing.get_args(hint)
  if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
    return set(value) <= {field.name for field in dataclasses.fields(hint)}
  if origin is tuple:
    return isinstance(value, list | tuple)
  if isinstance(value, bool):
    return origin is bool
  return isinstance(value, (int, float) if origin is float else origin)


def _convert_tuple(arguments: tuple, value: Any, where: str) -> tuple:
  if not isinstance(value, list | tuple):
    value = shown(value)
    raise ValueError(f'{where} must be a list such as [{value}], not {value}')
  if len(arguments) == 2 and arguments[1] is Ellipsis:
    arguments = arguments[:1] * len(value)
  if len(arguments) != len(value):
    raise ValueError(f'{where} must have {len(arguments)} entries, not {len(value)}')
  return tuple(
    _convert(hint, entry, f'{where}[{i}]')
    for i, (hint, entry) in enumerate(zip(arguments, value, strict=True))
  )


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
  if isinstance(value, int) and abs(value) >= _NO_SIZE:
    raise ValueError(f'{where} is {shown(value)}, which is no size of anything')
  # True is an int to Python, and a whole number is a fine float.
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
    raise ValueError(f'{where} must be {hint.__name__}, not {shown(value)}')
  return value
