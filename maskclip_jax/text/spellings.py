"""Other words that a class could go by: spellings, and what other vocabularies say."""

import functools
import re
from collections.abc import Iterator, Sequence

from maskclip_jax.text import library, syntax
from maskclip_jax.text.category import Category, normal
from maskclip_jax.text.lexicon import plural, singular
from maskclip_jax.text.lint import word_key

# Several words in one, and what data sets add to a name: 'wall-other-merged'.
_NOT_A_WORD = re.compile(r',|-(merged|other)\b')


def other_words(category: Category) -> tuple[str, ...]:
  """Words that a class could go by beside its own, the nearest first.

  Its name; singular and plural, hyphen and blank; and the words and prompts of every
  bundled vocabulary for a class that has this one's name, or its first word, among its
  words.
  """
  own = {normal(word) for word in category.words}
  words = [
    category.name,
    *(word for prompts in category.prompts.values() for word in prompts),
    *(form for word in category.words for form in spellings(word)),
    *(w for key in _keys(category.name, category.words[0]) for w in _bundled(key)),
  ]
  found = {normal(word): word.strip() for word in reversed(words)}
  return tuple(
    word
    for key, word in reversed(found.items())
    if key not in own and not _NOT_A_WORD.search(key)
  )


def spellings(word: str) -> Iterator[str]:
  """A word in its other number, and with blanks for hyphens or the reverse."""
  *front, last = normal(word).split(' ')
  for form in (singular(last), plural(singular(last))):
    if form != last:
      yield ' '.join((*front, form))
  for sign, other in (('_', ' '), ('-', ' '), (' ', '-')):
    if sign in word:
      yield word.replace(sign, other)
  if len(front) == 1:
    yield front[0] + last


def _keys(*words: str) -> Sequence[str]:
  return tuple(dict.fromkeys(map(word_key, words)))


@functools.cache
def _classes() -> dict[str, list[Category]]:
  """The classes of the bundled vocabularies by the keys of their words."""
  found: dict[str, list[Category]] = {}
  for name in library.names():
    for category in syntax.from_json(library.read(name)):
      for key in _keys(category.name, *category.words):
        found.setdefault(key, []).append(category)
  return found


def _bundled(key: str) -> Iterator[str]:
  for category in _classes().get(key, ()):
    yield from category.words
    for prompts in category.prompts.values():
      yield from prompts
