"""Looking things up by name: one error that says what was meant, or what there is."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar('T')
# What is longer is not a misspelling, and comparing it takes long.
_LONGEST = 100
# How much of a value stands in a message.
_SHOWN = 80
# Sounds that 'an' stands before: vowels, and letters that are spelt out, as in FC.
_VOWEL = re.compile('[AEIOaeio]|[FHLMNRSX][A-Z]')


def an(name: str) -> str:
  """A name after 'a' or 'an', as it is said: an OVSeg, an FC-CLIP, a MaskCLIP."""
  return f'{"an" if _VOWEL.match(name) else "a"} {name}'


def cut(text: str, longest: int = _SHOWN) -> str:
  """The beginning of a text, for a message."""
  return text if len(text) <= longest else text[:longest] + '...'


def shown(value: Any) -> str:
  """A value in quotes for a message, cut where it is long."""
  if isinstance(value, str):
    return repr(cut(value))
  # Of lists and tables the first entries: they may be long and deep.
  return reprlib.repr(value)


def hint(name: str, known: Iterable[str]) -> str:
  """What a name that does not exist may have meant, else every name there is."""
  known, name = list(known), str(name).lower()[:_LONGEST]
  lower = {k.lower(): k for k in known}
  close = difflib.get_close_matches(name, lower, n=3)
  longer = [k for k in lower if name and k.startswith(name)]
  likely = list(dict.fromkeys(lower[k] for k in (*longer, *close)))
  if likely:
    return f'did you mean {" or ".join(map(repr, likely))}?'
  return f'known: {", ".join(known)}'


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
  """The error for a name that does not exist.

  Args:
    kind: what the name should be of, 'dataset'.
    name: what was asked for.
    known: the names there are, in the order to list them.
  """
  return ValueError(f'no {kind} is called {shown(name)}: {hint(name, known)}')


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
  """The entry of a table.

  Raises:
    ValueError: there is none of that name; see `unknown`.
  """
  if name not in table:
    raise unknown(kind, name, table)
  return table[name]
