"""Sentences about scenes and windows of scenes."""

from collections.abc import Iterable, Sequence

import numpy as np

from maskclip_jax.data.world.words import COLOURS, PATTERNS, SHAPES, STUFF, Kind

_NUMBERS = ('no', 'a', 'two', 'three', 'four', 'five', 'six', 'seven')
_PLURALS = {'box': 'boxes', 'cross': 'crosses', 'plus': 'pluses'}
# What stands before a whole sentence.
_OPENINGS = ('', '', '', 'a photo of ', 'a picture of ', 'there is ')
# Chance that a word is replaced by one that means the same.
_OTHER = 0.25
# Sizes, as shares of the picture, below and above which things are called so.
_SMALL, _BIG = 0.24, 0.36


def say(word, rng: np.random.Generator, other: float = _OTHER) -> str:
  """A word, or now and then a synonym."""
  if word.synonyms and rng.random() < other:
    return word.synonyms[rng.integers(len(word.synonyms))]
  return word.name


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
  other: float = _OTHER,
) -> str:
  """The words of a kind of thing: 'small striped red star', or 'two blue disks'.

  Args:
    kind: which.
    rng: chooses synonyms.
    size: a word for its size.
    number: how many; above 1 the number is part of the words.
    other: chance of each synonym.
  """
  pattern = PATTERNS[kind.pattern]
  shape, after = say(SHAPES[kind.shape], rng, other), ''
  before = say(pattern, rng, other if pattern.name else other / 3)
  if pattern.after and rng.random() < other:
    before, after = '', pattern.after
  if number > 1:
    shape = _PLURALS.get(shape, shape + 's')
  words = (size, before, say(COLOURS[kind.colour], rng, other), shape, after)
  text = ' '.join(word for word in words if word)
  return text if number == 1 else f'{_NUMBERS[number]} {text}'


def part(kind: Kind, rng: np.random.Generator) -> str:
  """Says less than all: 'a star', 'something red', 'a striped thing'."""
  shape = say(SHAPES[kind.shape], rng)
  colour, pattern = say(COLOURS[kind.colour], rng), PATTERNS[kind.pattern]
  choices = [f'a {shape}', f'a {colour} {shape}', f'something {colour}']
  choices.append(f'a {colour} thing')
  if pattern.name:
    name = say(pattern, rng)
    choices += [f'a {name} thing', f'a {name} {shape}', f'something {pattern.after}']
  return choices[rng.integers(len(choices))]


def ground(stuff: int, rng: np.random.Generator, other: float = _OTHER) -> str:
  """A ground with its article."""
  word = STUFF[stuff]
  text = say(word, rng, other)
  return (
    f'{word.article} {text}'
    if word.article and text != 'bricks' and text != 'planks'
    else text
  )


def listing(texts: Sequence[str]) -> str:
  """'a, b and c'."""
  *most, last = texts
  return f'{", ".join(most)} and {last}' if most else last


def things(
  kinds: Iterable[tuple[Kind, str]],
  rng: np.random.Generator,
  *,
  other: float = _OTHER,
  most: int = 5,
) -> str:
  """Things in random order, equal ones together.

  Args:
    kinds: each thing, with a word for its size or ''.
    rng: where chance comes from.
    other: chance of each synonym.
    most: kinds to name at most.
  """
  groups: dict[Kind, list[str]] = {}
  for kind, size in kinds:
    groups.setdefault(kind, []).append(size)
  order = list(groups)
  texts = []
  for position in rng.permutation(len(order))[:most].tolist():
    kind = order[position]
    sizes = set(groups[kind])
    number = len(groups[kind])
    size = sizes.pop() if len(sizes) == 1 and rng.random() < 0.5 else ''
    text = noun(kind, rng, size=size, number=number, other=other)
    texts.append(text if number > 1 else f'a {text}')
  return listing(texts)


def on(stuff: Iterable[int], rng: np.random.Generator, other: float = _OTHER) -> str:
  """' on grass and water'."""
  texts = [
    ground(number, rng, other) for number in rng.permutation(list(stuff)).tolist()
  ]
  return ' on ' + listing(texts)


def opening(text: str, rng: np.random.Generator) -> str:
  """Puts 'a photo of' and the like before a text, or nothing."""
  return _OPENINGS[rng.integers(len(_OPENINGS))] + text
