"""One class of a vocabulary: its name, its words, and how to count and draw it."""

import dataclasses
from collections.abc import Mapping, Sequence


def normal(word: str) -> str:
  """The form in which two words are the same to CLIP: lower case, single blanks."""
  return ' '.join(word.split()).lower()


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
    if not isinstance(self.name, str) or not self.name.strip():
      raise ValueError('a class has no name: give it a word')
    words = self._checked(self.words or (self.name.strip(),), 'words')
    object.__setattr__(self, 'words', words)
    if not isinstance(self.prompts, Mapping):
      raise ValueError(
        f'the prompts of class {self.name!r} are not an object: give words by system'
      )
    prompts = {
      system: self._checked(words, f'prompts for {system}')
      for system, words in self.prompts.items()
    }
    object.__setattr__(self, 'prompts', prompts)
    if self.id is not None and not isinstance(self.id, int):
      raise ValueError(f'the id of class {self.name!r} is {self.id!r}: give an integer')
    if self.color is not None:
      object.__setattr__(self, 'color', self._checked_color())

  def _checked(self, words: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(words, str) or not isinstance(words, Sequence):
      raise ValueError(f'the {what} of class {self.name!r} are no list: give a list')
    if not words or not all(isinstance(w, str) and w.strip() for w in words):
      raise ValueError(
        f'class {self.name!r} has an empty word among its {what}: remove it, or the '
        'comma too many'
      )
    seen = set()
    for word in words:
      if normal(word) in seen:
        raise ValueError(
          f'class {self.name!r} names the word {word.strip()!r} twice: remove one'
        )
      seen.add(normal(word))
    return tuple(words)

  def _checked_color(self) -> tuple[int, int, int]:
    color = self.color
    if (
      not isinstance(color, Sequence)
      or len(color) != 3
      or any(c not in range(256) for c in color)
    ):
      raise ValueError(
        f'the colour of class {self.name!r} is {color!r}: give red, green and blue '
        'from 0 to 255'
      )
    return tuple(color)

  @property
  def label(self) -> str:
    """The word to show to people."""
    return self.words[0]

  def words_for(self, system: str) -> tuple[str, ...]:
    """The words a system puts into its prompts."""
    return self.prompts.get(system, self.words)
