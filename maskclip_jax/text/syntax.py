"""Reading vocabularies: typed text and JSON to classes.

In text `;` or a new line separates classes and `,` the words of one class; a leading
`stuff:` or `thing:` says whether its segments are counted. Without a mark a class is a
thing, unless COCO panoptic or ADE20K know its word as stuff only (sky, road, grass).
Where every class has a number in front, the numbers are the classes' ids.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskclip_jax.names import hint, shown
from maskclip_jax.text import library
from maskclip_jax.text.category import Category, normal, visible

_CATEGORY_KEYS = ('name', 'words', 'thing', 'id', 'color', 'prompts')
_MARKS = {'stuff': False, 'thing': True}
# Separators as Chinese and Japanese keyboards write them.
_NARROW = str.maketrans('\uff1b\uff0c\u3001\uff1a', ';,,:')
# Classes with their numbers: '1, cat', '1: cat', '1. cat', and 'cat, 1'.
_NUMBER_FIRST = re.compile(r'(?P<number>\d{1,9})(?:\s*[,:\t]\s*|[.)]\s+)(?P<name>\S.*)')
_NUMBER_LAST = re.compile(r'(?P<name>.*\S)\s*,\s*(?P<number>\d{1,9})')
_NUMBER_LINE = re.compile(r'(?P<number>\d{1,9})\s*;\s*(?P<name>[^;]*[^;\s])\s*;?')
_NUMBER_BLANK = re.compile(r'(?P<number>\d{1,9})\s+(?P<name>\S.*)')


def from_text(text: str, *, comments: bool = True) -> tuple[Category, ...]:
  """Classes from typed text.

  Args:
    text: the text.
    comments: whether lines that start with # are comments.

  Raises:
    ValueError: an empty class or word, an unknown mark, or a word given twice.
  """
  lines = [line.strip() for line in text.translate(_NARROW).splitlines()]
  typed = [
    line
    for line in lines
    if line.strip('; ') and not (comments and line.startswith('#'))
  ]
  if len(typed) > 1 and (pairs := _numbers(typed, (_NUMBER_LINE,))):
    return numbered(*pairs)
  entries = [entry for line in typed for entry in line.removesuffix(';').split(';')]
  patterns = (_NUMBER_FIRST, _NUMBER_LAST)
  return numbered(
    *(_numbers(entries, patterns) or _counted(entries) or (entries, None))
  )


def _numbers(
  entries: Sequence[str], patterns: Sequence[re.Pattern]
) -> tuple[list[str], list[str]] | None:
  """Names and numbers, where every entry has a number of its own; else None."""
  for pattern in patterns:
    found = [pattern.fullmatch(entry.strip()) for entry in entries]
    if found and all(found):
      numbers = [match['number'] for match in found]
      if len(set(map(int, numbers))) == len(numbers):
        return [match['name'] for match in found], numbers
  return None


def _counted(entries: Sequence[str]) -> tuple[list[str], list[str]] | None:
  """The same of '0 cat', where the numbers count from 0 or 1: '2 wheels' is a name."""
  pairs = _numbers(entries, (_NUMBER_BLANK,)) if len(entries) > 1 else None
  if pairs is None:
    return None
  numbers = [int(number) for number in pairs[1]]
  first = numbers[0]
  counts = numbers == list(range(first, first + len(numbers)))
  return pairs if first in (0, 1) and counts else None


def numbered(
  entries: Sequence[str], numbers: Sequence[str | int] | None
) -> tuple[Category, ...]:
  """Classes from typed ones, each with its number if there are any.

  Raises:
    ValueError: an empty class or word, an unknown mark, a word given twice, or a number
      that is not one.
  """
  classes = [_from_entry(entry) for entry in entries]
  if numbers is not None:
    if bad := [n for n in numbers if not str(n).strip().isdecimal()]:
      raise ValueError(f'the number of a class is {shown(bad[0])}: give an integer')
    classes = [
      dataclasses.replace(category, id=int(number))
      for category, number in zip(classes, numbers, strict=True)
    ]
  owner: dict[str, Category] = {}
  for category in classes:
    for word in category.words:
      first = owner.setdefault(normal(word), category)
      if first is category:
        continue
      if normal(first.name) == normal(category.name):
        raise ValueError(f'the class {shown(category.name)} is given twice: remove one')
      raise ValueError(
        f'the word {shown(word)} is in class {shown(first.name)} and in class '
        f'{shown(category.name)}: keep it in one'
      )
  return tuple(classes)


def _from_entry(entry: str) -> Category:
  entry = _unquoted(visible(entry.translate(_NARROW)))
  if not entry:
    raise ValueError('an empty class between two semicolons: remove one of them')
  mark, colon, rest = entry.partition(':')
  if not colon:
    mark, rest = None, entry
  elif normal(mark) not in _MARKS:
    raise ValueError(
      f"{shown(entry)} starts with an unknown mark: write 'stuff: ...', "
      "'thing: ...' or no colon"
    )
  words = tuple(map(_unquoted, _unquoted(rest).split(',')))
  if not all(words):
    raise ValueError(
      f'the class {shown(entry)} has an empty word: remove the comma too many, or '
      'name the class'
    )
  thing = library.is_thing(words) if mark is None else _MARKS[normal(mark)]
  return Category(words[0], words, thing)


def separated(text: str) -> str:
  """A list of classes: where there are commas and nothing else, they separate classes.

  For whoever types 'cat, dog' into a field and means two.
  """
  narrow = text.translate(_NARROW)
  return text if set(narrow) & {';', '\n'} else narrow.replace(',', ';')


def is_marked(text: str) -> bool:
  """Whether a text begins with the mark of a class."""
  mark, colon, _ = text.partition(':')
  return bool(colon) and normal(mark) in _MARKS


def _unquoted(text: str) -> str:
  """A text without blanks around it, and without quotes around all of it."""
  text = text.strip()
  quote = text[:1]
  inside = text[1:-1]
  if quote in ('"', "'") and text.endswith(quote) and inside and quote not in inside:
    return inside.strip()
  return text


def from_json(data: Any) -> tuple[Category, ...]:
  """Classes from the JSON of a vocabulary.

  Args:
    data: a list of typed classes ('sofa, couch'), an object with a list `classes` of
      those or of objects (keys name, words, thing, id, color, prompts), or COCO's
      object with `categories`; or names by number, {0: 'sofa'}, or words by name,
      {'sofa': ['sofa', 'couch']}.

  Raises:
    ValueError: another structure, or a class that is not one.
  """
  if isinstance(data, Mapping) and not {'classes', 'categories'} & set(data):
    data = _from_table(data)
  if isinstance(data, list):
    data = {'classes': data}
  if not isinstance(data, Mapping):
    data = {}
  coco = 'categories' in data
  entries = data.get('categories' if coco else 'classes')
  if not isinstance(entries, list):
    raise ValueError("the JSON must be a list of classes or hold one under 'classes'")
  if coco:
    entries = [_from_coco(entry) for entry in entries]
  treatments = data.get('treatments', {})
  if not isinstance(treatments, Mapping):
    raise ValueError(
      f'treatments is {shown(treatments)}: give "name" or "words" by system'
    )
  for system, reads in treatments.items():
    if reads not in ('name', 'words'):
      raise ValueError(f'{shown(system)} reads {shown(reads)}: write "name" or "words"')
  return tuple(_from_any(entry, treatments) for entry in entries)


def _from_table(data: Mapping) -> list:
  """A list of classes, from names by number or words by name."""
  if data and all(_is_number(key) for key in data):
    return [{'id': int(key), **_named(words)} for key, words in data.items()]
  if not data or not all(
    isinstance(words, str | list | tuple) for words in data.values()
  ):
    raise ValueError("the JSON must be a list of classes or hold one under 'classes'")
  return [
    {'name': name, 'words': _split(words) if isinstance(words, str) else words}
    for name, words in data.items()
  ]


def _named(words: Any) -> dict[str, Any]:
  """The fields of a class that has a name, or a list of words with the name first."""
  if isinstance(words, list | tuple) and words:
    return {'name': words[0], 'words': words}
  return {'name': words}


def _split(words: str) -> list[str]:
  return [word.strip() for word in words.split(',')]


def _is_number(key: Any) -> bool:
  if isinstance(key, str):
    return key.isdecimal()
  return isinstance(key, int | np.integer) and not isinstance(key, bool)


def _from_any(entry: Any, treatments: Mapping[str, str]) -> Category:
  if isinstance(entry, Category):
    return entry
  if isinstance(entry, str):
    return _from_entry(entry)
  if isinstance(entry, list | tuple) and entry and isinstance(entry[0], str):
    entry = _named(entry)
  return _from_object(entry, treatments)


def _from_coco(entry: Any) -> Any:
  if not isinstance(entry, Mapping):
    return entry
  kept = {key: entry[key] for key in ('name', 'id', 'color') if key in entry}
  if words := _synonyms(entry.get('name'), entry.get('synonyms')):
    kept['words'] = words
  # Instance annotations carry no flag: all their categories are things.
  thing = entry.get('isthing', True)
  if thing not in (0, 1):
    raise ValueError(
      f'isthing of category {shown(entry.get("name"))} is {shown(thing)}: write 0 or 1'
    )
  return kept | {'thing': bool(thing)}


def _synonyms(name: Any, synonyms: Any) -> list[str]:
  """The words of a category that lists synonyms, as LVIS has them, its name first."""
  listed = [name, *synonyms] if isinstance(synonyms, list) else []
  if not all(isinstance(word, str) for word in listed):
    return []
  words = {normal(word): word for word in reversed(listed) if normal(word)}
  return list(reversed(words.values()))


def _from_object(entry: Any, treatments: Mapping[str, str]) -> Category:
  if not isinstance(entry, Mapping) or 'name' not in entry:
    raise ValueError(
      f'a class must be a text or an object with a name, not {shown(entry)}'
    )
  for key in entry:
    if key not in _CATEGORY_KEYS:
      raise ValueError(
        f'class {shown(entry["name"])} has an unknown key {shown(key)}: '
        f'{hint(key, _CATEGORY_KEYS)}'
      )
  fields = dict(entry)
  name = fields['name']
  if fields.get('words') is None and isinstance(name, str) and ',' in name:
    # Data sets write synonyms so: 'sofa, couch' is one name with two words.
    fields['words'] = _split(name)
  # A data set's rule for a system ("name": the name is the one prompt) holds for the
  # classes that do not list prompts of their own.
  by_name = (system for system, reads in treatments.items() if reads == 'name')
  rule = {system: [name] for system in by_name}
  category = Category(**fields)
  return dataclasses.replace(
    category,
    thing=fields.get('thing', library.is_thing(category.words)),
    prompts=rule | dict(category.prompts),
  )
