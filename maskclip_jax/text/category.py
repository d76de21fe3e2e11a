"""One class of a vocabulary: its name, its words, and how to count and draw it."""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from maskclip_jax.names import shown

# Letters of a word: encoding longer ones in all templates takes minutes.
_LONGEST_WORD = 200_000


def normal(word: str) -> str:
  """The form in which two words are the same to CLIP, and mostly to the eye: lower
  case, single blanks, nothing invisible, letters of one width."""
  if not word.isascii():
    word = unicodedata.normalize('NFKC', visible(word))
  return ' '.join(word.split()).lower()


def visible(text: str) -> str:
  """A text without marks of no width, which web pages and editors leave in it."""
  if text.isascii():
    return text
  return ''.join(c for c in text if unicodedata.category(c) != 'Cf')


@dataclasses.dataclass(frozen=True)
class Category:
  """A class and what to call it.

  Attributes:
    name: unique in a vocabulary; a data set's own spelling, character for character.
    words: readable words for the class, the best first; the name by default.
    thing: whether its segments are counted objects (the rest is stuff).
    color: red, green, blue, 0..255; None where the data set has none.
    id: the data set's number for the class; None for free vocabularies.
    prompts: by system, the exact words it was trained or published with.

  Raises:
    ValueError: an empty or repeated word, or a field of another type or range.
  """

  name: str
  words: tuple[str, ...] = ()
  thing: bool = True
  color: tuple[int, int, int] | None = None
  id: int | None = None
  prompts: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict, hash=False
  )

  def __post_init__(self):
    if not isinstance(self.name, str) and self.name is not None:
      raise ValueError(
        f'a class is called {shown(self.name)}, which is not a text: put it in quotes'
      )
    if self.name is None or not visible(self.name).strip():
      raise ValueError('a class has no name: give it a word')
    if not isinstance(self.thing, bool):
      raise ValueError(
        f"'thing' of class {shown(self.name)} is {shown(self.thing)}: write true or "
        'false'
      )
    words = self._checked(self.words or (self.name.strip(),), 'words')
    object.__setattr__(self, 'words', words)
    if not isinstance(self.prompts, Mapping):
      raise ValueError(
        f'the prompts of class {shown(self.name)} are not an object: give words by '
        'system'
      )
    prompts = {
      system: self._checked(words, f'prompts for {shown(system)[1:-1]}')
      for system, words in self.prompts.items()
    }
    object.__setattr__(self, 'prompts', prompts)
    object.__setattr__(self, 'id', self._checked_id())
    if self.color is not None:
      object.__setattr__(self, 'color', self._checked_color())

  def _checked(self, words: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(words, str) or not isinstance(words, Sequence):
      raise ValueError(
        f'the {what} of class {shown(self.name)} are not a list: give a list'
      )
    words = tuple(visible(w) if isinstance(w, str) else '' for w in words)
    if not words or not all(word.strip() for word in words):
      raise ValueError(
        f'class {shown(self.name)} has an empty word among its {what}: remove it, or '
        'the comma too many'
      )
    if (longest := max(map(len, words))) > _LONGEST_WORD:
      raise ValueError(
        f'class {shown(self.name)} has a word of {longest:,} letters, and a text tower '
        'reads 77 tokens: shorten it'
      )
    seen = set()
    for word in words:
      if normal(word) in seen:
        raise ValueError(
          f'class {shown(self.name)} names the word {shown(word.strip())} twice: '
          'remove one'
        )
      seen.add(normal(word))
    return words

  def _checked_id(self) -> int | None:
    number = self.id
    if isinstance(number, float) and number.is_integer():
      number = int(number)  # As spreadsheets export it.
    if isinstance(number, np.integer):
      number = int(number)
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
      raise ValueError(
        f'the id of class {shown(self.name)} is {shown(number)}: give an integer'
      )
    return number

  def _checked_color(self) -> tuple[int, int, int]:
    color = self.color
    if (
      not isinstance(color, Sequence)
      or len(color) != 3
      or any(c not in range(256) for c in color)
    ):
      raise ValueError(
        f'the colour of class {shown(self.name)} is {shown(color)}: give red, green '
        'and blue from 0 to 255'
      )
    return tuple(int(c) for c in color)

  @property
  def label(self) -> str:
    """The word to show to people."""
    return self.words[0]

  def words_for(self, system: str) -> tuple[str, ...]:
    """The words a system puts into its prompts."""
    return self.prompts.get(system, self.words)
