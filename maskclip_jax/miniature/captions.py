"""Sentences about scenes and parts of scenes."""

from collections.abc import Iterable, Sequence

import numpy as np

from maskclip_jax.miniature.words import COLOURS, PATTERNS, SHAPES, STUFF, Kind, Word

_NUMBERS = ('no', 'a', 'two', 'three', 'four', 'five', 'six', 'seven')
_OPENINGS = ('', '', '', 'a photo of ', 'a picture of ', 'there is ')
# Chance that a word is replaced by one that means the same.
OTHER = 0.25
# Shares of the picture below and above which things are called small and big.
_SMALL, _BIG = 0.4, 0.5

# A thing to be named: its kind, and a word for its size or ''.
Sized = tuple[Kind, str]


def size_word(share: float, rng: np.random.Generator) -> str:
  """What a thing of a size is called; empty in between.

  Args:
    share: side of its box, as a share of the picture's.
    rng: chooses between words.
  """
  if share < _SMALL:
    return ('small', 'little')[rng.integers(2)]
  if share > _BIG:
    return ('big', 'large')[rng.integers(2)]
  return ''


def noun(
  kind: Kind,
  rng: np.random.Generator,
  *,
  size: str = '',
  number: int = 1,
  other: float = OTHER,
) -> str:
  """The words of a kind of thing: 'small striped red star', or 'two blue disks'.

  Args:
    kind: which.
    rng: chooses synonyms.
    size: a word for its size.
    number: how many; above 1 it is part of the words.
    other: chance of each synonym.
  """
  pattern, after = PATTERNS[kind.pattern], ''
  # Few say that a thing is plain.
  before = _say(pattern, rng, other if pattern.name else other / 3)
  if pattern.after and rng.random() < other:
    before, after = '', pattern.after
  shape = _say(SHAPES[kind.shape], rng, other)
  if number > 1:
    shape += 's'
  words = (size, before, _say(COLOURS[kind.colour], rng, other), shape, after)
  text = ' '.join(word for word in words if word)
  return text if number == 1 else f'{_NUMBERS[number]} {text}'


def part(kind: Kind, rng: np.random.Generator) -> str:
  """Says less than all: 'a star', 'something red', 'a striped thing'."""
  shape, colour = _say(SHAPES[kind.shape], rng), _say(COLOURS[kind.colour], rng)
  choices = [
    f'a {shape}',
    f'a {colour} {shape}',
    f'a {colour} thing',
    f'something {colour}',
  ]
  pattern = PATTERNS[kind.pattern]
  if pattern.name:
    word = _say(pattern, rng)
    choices += [f'a {word} {shape}', f'a {word} thing', f'something {pattern.after}']
  return choices[rng.integers(len(choices))]


def things(
  things_: Iterable[Sized],
  rng: np.random.Generator,
  *,
  other: float = OTHER,
  most: int = 5,
) -> str:
  """Things in random order, equal ones together: 'a red star and two blue disks'.

  Args:
    things_: at least one.
    rng: where chance comes from.
    other: chance of each synonym.
    most: kinds to name at most.
  """
  groups: dict[Kind, list[str]] = {}
  for kind, size in things_:
    groups.setdefault(kind, []).append(size)
  texts = []
  for place in rng.permutation(len(groups))[:most].tolist():
    kind, sizes = list(groups.items())[place]
    same = len(set(sizes)) == 1 and rng.random() < 0.5
    text = noun(
      kind, rng, size=sizes[0] if same else '', number=len(sizes), other=other
    )
    texts.append(text if len(sizes) > 1 else f'a {text}')
  return _listing(texts)


def ground(stuff: int, rng: np.random.Generator, other: float = OTHER) -> str:
  """A ground with its article: 'a brick wall', 'sand'."""
  word = STUFF[stuff]
  text = _say(word, rng, other)
  # The other word for it may be a plural.
  return text if text.endswith('s') or not word.article else f'{word.article} {text}'


def grounds(
  stuff: Sequence[int], rng: np.random.Generator, other: float = OTHER
) -> str:
  """Grounds in random order: 'sand and a brick wall'."""
  return _listing([ground(n, rng, other) for n in rng.permutation(stuff).tolist()])


def place(stuff: Sequence[int], rng: np.random.Generator, other: float = OTHER) -> str:
  """Where things are: ' on sand and grass in front of a brick wall'."""
  low = [number for number in stuff if not STUFF[number].upright]
  high = [number for number in stuff if STUFF[number].upright]
  text = f' on {grounds(low, rng, other)}' if low else ''
  return text + (f' in front of {grounds(high, rng, other)}' if high else '')


def opening(text: str, rng: np.random.Generator) -> str:
  """Puts 'a photo of' and the like before a text, or nothing."""
  return _OPENINGS[rng.integers(len(_OPENINGS))] + text


def _say(word: Word, rng: np.random.Generator, other: float = OTHER) -> str:
  """A word, or now and then a synonym."""
  if word.synonyms and rng.random() < other:
    return word.synonyms[rng.integers(len(word.synonyms))]
  return word.name


def _listing(texts: Sequence[str]) -> str:
  """'a, b and c'."""
  *most, last = texts
  return f'{", ".join(most)} and {last}' if most else last
