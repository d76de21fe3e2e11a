"""Names of a class head's classes, as files of libraries have them, to a vocabulary."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from maskclip_jax.systems.system import Label
from maskclip_jax.text import library
from maskclip_jax.text.category import normal, visible

# What COCO adds to the names of stuff.
_SUFFIX = re.compile(r'(-(merged|other|stuff))+$')


def closed_vocabulary(names: Sequence[str]) -> dict[str, Any]:
  """The fields of a preset that say which classes a class head has.

  Args:
    names: of the classes, by column.

  Returns:
    `vocabulary` and `labels`: a bundled vocabulary, where all classes are its own in
    its order; else the names themselves, things where nothing is known of them.
  """
  for name in library.names():
    classes = library.read(name)['classes']
    if len(classes) == len(names) and all(map(_means, classes, names)):
      return {'vocabulary': name, 'labels': None}
  labels = tuple(
    Label(unique, _is_thing(name))
    for name, unique in zip(names, _distinct(names), strict=True)
  )
  return {'vocabulary': f'own-{len(names)}', 'labels': labels}


def _means(entry: Mapping[str, Any], name: str) -> bool:
  """Whether a name is that of an entry of a bundled vocabulary."""
  known = [entry['name'], ', '.join(entry.get('words', ())), *entry.get('words', ())]
  return normal(name) in map(normal, known)


def _is_thing(name: str) -> bool:
  words = [word.strip() for word in name.replace(';', ',').split(',')]
  return library.is_thing([*words, *(_SUFFIX.sub('', word) for word in words)])


def _distinct(names: Sequence[str]) -> list[str]:
  """The names, those that are empty or said before with the number of their column."""
  seen, distinct = set(), []
  for column, name in enumerate(names):
    name = name if visible(name).strip() else 'class'
    while normal(name) in seen or name == 'class':
      name = f'{name} {column}'
    seen.add(normal(name))
    distinct.append(name)
  return distinct
