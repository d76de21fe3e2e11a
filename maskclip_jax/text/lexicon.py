"""A vocabulary's words in running text: plurals and synonyms are found, the longest
match wins.

No grammar is known: 'people watch' has a watch in it if the vocabulary has. A tagger
tells such words apart.
"""

import dataclasses
import re

from maskclip_jax.text.category import normal
from maskclip_jax.text.vocabulary import Vocabulary

# Both forms of the apostrophe.
_TOKEN = re.compile("[^\\W_]+(?:['\u2019][^\\W_]+)*")
_POSSESSIVE = re.compile("['\u2019]s?$")
# fmt: off
_IRREGULAR = {
  'children': 'child', 'dice': 'die', 'feet': 'foot', 'geese': 'goose',
  'lenses': 'lens', 'men': 'man', 'mice': 'mouse', 'oxen': 'ox', 'people': 'person',
  'teeth': 'tooth', 'women': 'woman',
}
# Plurals in -ves, -oes and -ies whose singular does not follow the common rule.
_VES = {
  'calves': 'calf', 'elves': 'elf', 'halves': 'half', 'hooves': 'hoof',
  'knives': 'knife', 'leaves': 'leaf', 'loaves': 'loaf', 'scarves': 'scarf',
  'shelves': 'shelf', 'thieves': 'thief', 'wives': 'wife', 'wolves': 'wolf',
}
_OES = frozenset((
  'buffaloes', 'dominoes', 'echoes', 'heroes', 'mangoes', 'mosquitoes', 'potatoes',
  'tomatoes', 'tornadoes', 'volcanoes',
))
_IES = frozenset((
  'brownies', 'calories', 'cookies', 'hoodies', 'movies', 'selfies', 'smoothies',
  'zombies',
))
_NO_PLURAL = frozenset(('news', 'series', 'species', 'lens'))
_NOT_MEN = frozenset(('abdomen', 'omen', 'regimen', 'specimen'))
# fmt: on
_HISSING = ('sses', 'xes', 'ches', 'shes', 'zzes')


def singular(word: str) -> str:
  """The singular of an English noun in lower case; other words may be cut, too.

  Meant for comparing: both sides of a comparison go through it.
  """
  if known := _IRREGULAR.get(word) or _VES.get(word):
    return known
  if word.endswith('men') and len(word) > 5 and word not in _NOT_MEN:
    return word[:-2] + 'an'
  ends = word.endswith('s') and not word.endswith(('ss', 'us', 'is'))
  if not ends or len(word) < 4 or word in _NO_PLURAL:
    return word
  if word.endswith('ies') and len(word) > 4 and word not in _IES:
    return word[:-3] + 'y'
  # Buses, but not houses.
  by_us = word.endswith('uses') and not word.endswith(('ouses', 'auses'))
  if word.endswith(_HISSING) or by_us or word in _OES:
    return word[:-2]
  return word[:-1]


def plural(word: str) -> str:
  """The plural of an English noun in lower case, one that `singular` takes back."""
  for many in (*_IRREGULAR, *_VES):
    if singular(many) == word:
      return many
  if word in _NO_PLURAL:
    return word
  changed = f'{word[:-1]}ies' if word[-2:-1] not in 'aeiou' else f'{word}s'
  for many in (f'{word}es', changed, f'{word}s'):
    if singular(many) == word:
      return many
  return word


@dataclasses.dataclass(frozen=True)
class Match:
  """A class that a text names.

  Attributes:
    index: of the class.
    written: the words as they stand in the text, in lower case.
  """

  index: int
  written: str


class Lexicon:
  """Finds the classes that texts name.

  Blanks and hyphens count for nothing, so 'hot dog' is 'hotdog'. Of two classes with
  one word the first is found; a class with exactly the words of the text goes before
  one with their singular.

  Args:
    vocabulary: the classes and their words.
  """

  def __init__(self, vocabulary: Vocabulary):
    self.vocabulary = vocabulary
    self._exact: dict[str, int] = {}
    self._singular: dict[str, int] = {}
    self._longest = 1
    for index, category in enumerate(vocabulary.classes):
      for word in category.words:
        tokens = _tokens(word)
        if not tokens:
          continue
        self._longest = max(self._longest, len(tokens))
        self._exact.setdefault(''.join(tokens), index)
        self._singular.setdefault(''.join(map(singular, tokens)), index)

  def find(self, text: str) -> list[Match]:
    """The classes that a text names, in its order; none of its words counts twice."""
    tokens = _tokens(text)
    found, start = [], 0
    while start < len(tokens):
      for end in range(min(start + self._longest, len(tokens)), start, -1):
        index = self._look_up(tokens[start:end])
        if index is not None:
          found.append(Match(index, ' '.join(tokens[start:end])))
          start = end
          break
      else:
        start += 1
    return found

  def _look_up(self, tokens: list[str]) -> int | None:
    exact = self._exact.get(''.join(tokens))
    if exact is not None:
      return exact
    return self._singular.get(''.join(map(singular, tokens)))


def _tokens(text: str) -> list[str]:
  """The words of a text, without possessive endings."""
  tokens = (_POSSESSIVE.sub('', token) for token in _TOKEN.findall(normal(text)))
  return [token for token in tokens if token]
