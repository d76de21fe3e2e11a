"""The vocabularies that come with the package, and which words they know as stuff.

One JSON file per data set, with its provenance: names, ids, thing flags, colours where
there are any, and the prompts of the published systems [masqclip 6], [ovseg 6],
[segclip 4.1].
"""

import functools
import importlib.resources
import json
from collections.abc import Iterable

from maskclip_jax.names import unknown
from maskclip_jax.text.category import normal

# Sets with official thing flags: they tell things from stuff in free vocabularies.
_JUDGES = ('coco-panoptic-133', 'ade20k-150')


def _folder():
  return importlib.resources.files(__package__).joinpath('vocabularies')


@functools.cache
def names() -> tuple[str, ...]:
  """Names of the vocabularies that come with the package."""
  files = (entry.name for entry in _folder().iterdir())
  return tuple(sorted(f.removesuffix('.json') for f in files if f.endswith('.json')))


def read(name: str) -> dict:
  """The JSON of a vocabulary.

  Raises:
    ValueError: there is none of that name.
  """
  if name not in names():
    raise unknown('vocabulary', name, names())
  return json.loads(_folder().joinpath(f'{name}.json').read_bytes())


@functools.cache
def known_kinds() -> dict[str, bool]:
  """Whether a word is a thing, for the words of COCO panoptic and SceneParse150.

  Where the two disagree (door, table, curtain...) it is a thing: that merges nothing.
  """
  kinds = {}
  for vocabulary in _JUDGES:
    for entry in read(vocabulary)['classes']:
      for word in map(normal, entry.get('words', [entry['name']])):
        kinds[word] = kinds.get(word, False) or entry['thing']
  return kinds


def is_thing(words: Iterable[str]) -> bool:
  """Whether a class without a mark is a thing: its first known word decides.

  A plural counts as known ('clouds' like 'cloud'); a class of unknown words is a thing.
  """
  kinds = known_kinds()
  for word in map(normal, words):
    for form in (word, word.removesuffix('s')):
      if form in kinds:
        return kinds[form]
  return True
