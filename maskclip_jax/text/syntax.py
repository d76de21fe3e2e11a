"""Reading vocabularies: typed text and JSON to classes.

In text `;` or a new line separates classes and `,` the words of one class; a leading
`stuff:` or `thing:` says whether its segments are counted. Without a mark a class is a
thing, unless COCO panoptic or ADE20K know its word as stuff only (sky, road, grass).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from maskclip_jax.names import hint
from maskclip_jax.text import library
from maskclip_jax.text.category import Category, normal

_CATEGORY_KEYS = ('name', 'words', 'thing', 'id', 'color', 'prompts')
_MARKS = {'stuff': False, 'thing': True}


def from_text(text: str) -> tuple[Category, ...]:
  """Classes from typed text; lines that start with # are comments.

  Raises:
    ValueError: an empty class or word, an unknown mark, or a word given twice.
  """
  lines = [line.strip() for line in text.splitlines()]
  typed = [line for line in lines if line.strip('; ') and not line.startswith('#')]
  classes = [
    _from_entry(entry) for line in typed for entry in line.removesuffix(';').split(';')
  ]
  owner: dict[str, Category] = {}
  for category in classes:
    for word in category.words:
      first = owner.setdefault(normal(word), category)
      if first is category:
        continue
      if normal(first.name) == normal(category.name):
        raise ValueError(f'the class {category.name!r} is given twice: remove one')
      raise ValueError(
        f'the word {word!r} is in class {first.name!r} and in class '
        f'{category.name!r}: keep it in one'
      )
  return tuple(classes)


def _from_entry(entry: str) -> Category:
  if not entry.strip():
    raise ValueError('an empty class between two semicolons: remove one of them')
  mark, colon, rest = entry.partition(':')
  if not colon:
    mark, rest = None, entry
  elif normal(mark) not in _MARKS:
    raise ValueError(
      f"{entry.strip()!r} starts with an unknown mark: write 'stuff: ...', "
      "'thing: ...' or no colon"
    )
  words = tuple(word.strip() for word in rest.split(','))
  if not all(words):
    raise ValueError(
      f'the class {entry.strip()!r} has an empty word: remove the comma too many, or '
      'name the class'
    )
  thing = library.is_thing(words) if mark is None else _MARKS[normal(mark)]
  return Category(words[0], words, thing)


def from_json(data: Any) -> tuple[Category, ...]:
  """Classes from the JSON of a vocabulary.

  Args:
    data: a list of typed classes ('sofa, couch'), an object with a list `classes` of
      those or of objects (keys name, words, thing, id, color, prompts), or COCO's
      object with `categories`.

  Raises:
    ValueError: another structure, or a class that is not one.
  """
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
  for system, reads in treatments.items():
    if reads not in ('name', 'words'):
      raise ValueError(f'{system!r} reads {reads!r}: write "name" or "words"')
  return tuple(
    _from_entry(entry) if isinstance(entry, str) else _from_object(entry, treatments)
    for entry in entries
  )


def _from_coco(entry: Any) -> Any:
  if not isinstance(entry, Mapping):
    return entry
  kept = {key: entry[key] for key in ('name', 'id', 'color') if key in entry}
  # Instance annotations carry no flag: all their categories are things.
  return kept | {'thing': bool(entry.get('isthing', True))}


def _from_object(entry: Any, treatments: Mapping[str, str]) -> Category:
  if not isinstance(entry, Mapping) or 'name' not in entry:
    raise ValueError(f'a class must be a text or an object with a name, not {entry!r}')
  for key in entry:
    if key not in _CATEGORY_KEYS:
      raise ValueError(
        f'class {entry["name"]!r} has an unknown key {key!r}: '
        f'{hint(key, _CATEGORY_KEYS)}'
      )
  fields = dict(entry)
  if not isinstance(fields.get('thing', True), bool):
    raise ValueError(
      f"'thing' of class {entry['name']!r} is {fields['thing']!r}: write true or false"
    )
  # A data set's rule for a system ("name": the name is the one prompt) holds for the
  # classes that do not list prompts of their own.
  by_name = (system for system, reads in treatments.items() if reads == 'name')
  rule = {system: [entry['name']] for system in by_name}
  category = Category(**fields)
  return dataclasses.replace(
    category,
    thing=fields.get('thing', library.is_thing(category.words)),
    prompts=rule | dict(category.prompts),
  )
