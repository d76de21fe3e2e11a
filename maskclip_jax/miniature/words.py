"""What there is in the world, and what it is called.

A thing is a shape, a colour and a pattern ('striped red star'; a plain thing's pattern
has no word). A third of the 108 things is novel, by a Latin square: each pair of a
thing's three attributes also occurs among the base words, so that what is new about a
novel word is only the combination.

The far split keeps values of attributes from the base words: things in certain colours
and of one pattern are far, and what is left of the novel ones is near.
"""

import dataclasses
import functools
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Word:
  """A word and others that mean the same."""

  name: str
  synonyms: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Pattern(Word):
  """A pattern. `after` is how it is said after the noun: 'a star with stripes'."""

  after: str = ''


@dataclasses.dataclass(frozen=True)
class Colour(Word):
  """A colour. `fill` of plain areas and `mark` of stripes and dots, as sRGB."""

  fill: tuple[int, int, int] = (0, 0, 0)
  mark: tuple[int, int, int] = (250, 244, 226)


@dataclasses.dataclass(frozen=True)
class Stuff(Word):
  """A ground.

  Attributes:
    color: the mean of its texture, as sRGB.
    article: what stands before the word in a sentence.
    upright: it is seen above other grounds, as a wall or the sky.
  """

  color: tuple[int, int, int] = (0, 0, 0)
  article: str = ''
  upright: bool = False


SHAPES = (
  Word('disk', ('circle',)),
  Word('bar', ('stick',)),
  Word('star'),
)
# Marks are light on dark colours and dark on light ones; a mark is never the colour of
# another thing.
COLOURS = (
  Colour('red', fill=(216, 24, 36)),
  Colour('orange', fill=(255, 112, 0), mark=(104, 44, 8)),
  Colour('yellow', fill=(252, 222, 24), mark=(120, 72, 8)),
  Colour('green', fill=(24, 176, 60)),
  Colour('cyan', ('turquoise',), fill=(24, 208, 214), mark=(10, 66, 84)),
  Colour('blue', fill=(30, 76, 232)),
  Colour('purple', ('violet',), fill=(140, 36, 190)),
  Colour('pink', fill=(255, 112, 182), mark=(112, 16, 70)),
  Colour('white', fill=(246, 246, 246), mark=(62, 62, 70)),
)
PATTERNS = (
  Pattern('', ('plain',)),
  Pattern('striped', ('stripy',), 'with stripes'),
  Pattern('dotted', ('spotted',), 'with dots'),
  Pattern('checked', ('checkered',), 'with checks'),
)
STUFF = (
  Stuff('grass', ('lawn',), (91, 112, 51)),
  Stuff('water', ('sea',), (77, 138, 153)),
  Stuff('sand', ('beach',), (207, 184, 138)),
  Stuff('brick wall', ('bricks',), (148, 97, 82), 'a', upright=True),
  Stuff('wooden floor', ('planks',), (130, 92, 58), 'a'),
  Stuff('pebbles', ('gravel',), (97, 93, 89)),
  Stuff('tiles', ('tiled floor',), (134, 146, 147)),
  Stuff('night sky', ('starry sky',), (28, 29, 57), 'a', upright=True),
)
# How much of black or white is in the colours of results.
_SHAPE_SHADES = ((0, 0.0), (0, 0.1), (255, 0.12))
_PATTERN_SHADES = ((0, 0.0), (0, 0.12), (255, 0.18), (0, 0.26))
THINGS = len(SHAPES) * len(COLOURS) * len(PATTERNS)
# Half of all things: 54, beside 36 base and 18 near ones, of each shape a third.
FAR_COLOURS, FAR_PATTERNS = ('cyan', 'purple', 'white'), ('checked',)


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of thing, by the positions of its attributes."""

  shape: int
  colour: int
  pattern: int

  @classmethod
  def of(cls, number: int) -> 'Kind':
    """The kind of a number, 0 to 107."""
    rest, pattern = divmod(number, len(PATTERNS))
    return cls(*divmod(rest, len(COLOURS)), pattern)

  @property
  def number(self) -> int:
    """Its place in the list of things."""
    return (self.shape * len(COLOURS) + self.colour) * len(PATTERNS) + self.pattern

  @property
  def novel(self) -> bool:
    """Whether it is kept from the base words."""
    return (self.shape + self.colour + 2 * self.pattern) % 3 == 0

  @property
  def far(self) -> bool:
    """Whether the far split has no base word of its colour or its pattern."""
    colour, pattern = COLOURS[self.colour].name, PATTERNS[self.pattern].name
    return colour in FAR_COLOURS or pattern in FAR_PATTERNS

  def group(self, split: str = 'near') -> str:
    """What its numbers are summed up with.

    Args:
      split: 'near', where it is 'base' or 'novel', or 'far', where it is 'base', 'near'
        or 'far'.
    """
    if split == 'far' and self.far:
      return 'far'
    if not self.novel:
      return 'base'
    return 'novel' if split == 'near' else 'near'

  @property
  def name(self) -> str:
    parts = (PATTERNS[self.pattern], COLOURS[self.colour], SHAPES[self.shape])
    return ' '.join(part.name for part in parts if part.name)

  def words(self) -> tuple[str, ...]:
    """The name, and a few others: one attribute is called otherwise at a time."""
    shape, colour = SHAPES[self.shape], COLOURS[self.colour]
    pattern = PATTERNS[self.pattern]
    start = f'{pattern.name} ' if pattern.name else ''
    return (
      self.name,
      *(f'{start}{colour.name} {other}' for other in shape.synonyms),
      *(f'{start}{other} {shape.name}' for other in colour.synonyms),
      *(f'{other} {colour.name} {shape.name}' for other in pattern.synonyms),
      *([f'{colour.name} {shape.name} {pattern.after}'] if pattern.after else []),
    )

  @property
  def color(self) -> tuple[int, int, int]:
    """What results are drawn in: a shade of its own colour for each shape and pattern,
    so that things of one colour are told apart."""
    color = COLOURS[self.colour].fill
    for toward, part in (_SHAPE_SHADES[self.shape], _PATTERN_SHADES[self.pattern]):
      color = tuple(round(value + part * (toward - value)) for value in color)
    return color


@functools.cache
def kinds() -> tuple[Kind, ...]:
  """All 108 kinds, in the order of the vocabulary."""
  return tuple(map(Kind.of, range(THINGS)))


# Which things and whether the stuff are in each vocabulary.
_VOCABULARIES = {
  'miniature-116': (lambda kind: True, True),
  'miniature-base': (lambda kind: not kind.novel, True),
  'miniature-novel': (lambda kind: kind.novel, False),
  'miniature-things': (lambda kind: True, False),
  'miniature-base-things': (lambda kind: not kind.novel, False),
  'miniature-far-base': (lambda kind: kind.group('far') == 'base', True),
  'miniature-far-base-things': (lambda kind: kind.group('far') == 'base', False),
  'miniature-near': (lambda kind: kind.group('far') == 'near', False),
  'miniature-far': (lambda kind: kind.far, False),
}
_PROVENANCE = (
  'The words of the generated miniature world (maskclip_jax/miniature/words.py): {}. '
  'The id is the category id and the semantic label, 1 to 108 for things and 109 to '
  '116 for stuff; 0 is void.'
)
_CONTENTS = {
  'miniature-116': 'all of them, 108 things and 8 stuff',
  'miniature-base': 'the 72 base things and the 8 stuff',
  'miniature-novel': 'the 36 novel things',
  'miniature-things': 'the 108 things',
  'miniature-base-things': 'the 72 base things',
  'miniature-far-base': 'the 36 base things of the far split and the 8 stuff',
  'miniature-far-base-things': 'the 36 base things of the far split',
  'miniature-near': 'the 18 novel things of colours and patterns that base things have',
  'miniature-far': 'the 54 things of a colour or a pattern that no base thing has',
}


def vocabulary_names() -> tuple[str, ...]:
  """The vocabularies of the world that come with the package."""
  return tuple(_VOCABULARIES)


def vocabulary(name: str) -> dict[str, Any]:
  """The content of a vocabulary file.

  Raises:
    KeyError: the world has none of that name.
  """
  chosen, stuff = _VOCABULARIES[name]
  rows = [
    {
      'name': kind.name,
      'words': kind.words(),
      'thing': True,
      'color': kind.color,
      'id': kind.number + 1,
    }
    for kind in kinds()
    if chosen(kind)
  ]
  if stuff:
    rows += [
      {
        'name': word.name,
        'words': (word.name, *word.synonyms),
        'thing': False,
        'color': word.color,
        'id': THINGS + 1 + number,
      }
      for number, word in enumerate(STUFF)
    ]
  return {
    'name': name,
    'provenance': _PROVENANCE.format(_CONTENTS[name]),
    'treatments': {'maskclip': 'name', 'masqclip': 'words', 'ovseg': 'name'},
    'classes': rows,
  }


def vocabulary_file(name: str) -> str:
  """The text of a vocabulary file, one class a line.

  Raises:
    KeyError: the world has none of that name.
  """
  content = vocabulary(name)
  lines = [json.dumps(row) for row in content.pop('classes')]
  head = json.dumps(content, indent=2).removesuffix('\n}')
  return head + ',\n  "classes": [\n    ' + ',\n    '.join(lines) + '\n  ]\n}\n'
