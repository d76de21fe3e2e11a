"""The classes of one's own: names of the labels, joined with words that people give."""

import dataclasses
import os
from collections.abc import Collection, Sequence

from maskclip_jax.data.described import VALUES
from maskclip_jax.names import cut, shown
from maskclip_jax.text.category import Category, normal
from maskclip_jax.text.library import is_thing
from maskclip_jax.text.vocabulary import Vocabulary

_SHOWN = 4


def named(
  found: Sequence[Category],
  given: str | os.PathLike | None,
  where: str,
  told: Collection[int] = (),
) -> tuple[Vocabulary, list[str]]:
  """The classes that labels name, with the words of a vocabulary where one is given.

  Args:
    found: the classes of the labels, each with the id that they are labelled by.
    given: `OwnData.classes`: its classes are found by name, or by id where it has ids.
    where: what names the classes, for messages.
    told: ids of classes of which the labels say whether they are things.

  Returns:
    The classes, and what people should know: what was guessed or is left over.

  Raises:
    ValueError: two classes of one name, or one that the vocabulary lacks.
  """
  try:
    words = Vocabulary(tuple(found))
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error
  if given is not None:
    return _joined(words, Vocabulary.parse(given), where)
  classes = [
    c if c.id in told else dataclasses.replace(c, thing=is_thing(c.words))
    for c in words.classes
  ]
  guessed = [c for c in classes if c.id not in told]
  notes = [guess_note(guessed)] if guessed else []
  return dataclasses.replace(words, classes=tuple(classes)), notes


def guess_note(classes: Sequence[Category]) -> str:
  """What to tell people about classes that were taken for things or stuff."""
  stuff = [c.name for c in classes if not c.thing]
  found = f'stuff: {listed(stuff)}' if stuff else 'no stuff'
  if len(stuff) == len(classes):
    found = 'no things'
  return f'names decide what is a thing or stuff ({found}); --classes says otherwise'


def numbered(words: Vocabulary) -> tuple[Vocabulary, list[str]]:
  """The same classes with ids that label maps can hold: their own, else 0, 1, 2, ...

  Raises:
    ValueError: some have an id and others have none.
  """
  ids = [category.id for category in words.classes]
  if None in ids and len(set(ids)) > 1:
    name = words.classes[ids.index(None)].name
    raise ValueError(f'class {shown(name)} has no id and others have: number all')
  if None not in ids and all(0 <= number < VALUES for number in ids):
    return words, []
  classes = tuple(
    dataclasses.replace(category, id=position)
    for position, category in enumerate(words.classes)
  )
  note = 'classes have no ids: the first is 0 in the masks, the next 1, ...'
  return dataclasses.replace(words, classes=classes), [note] if None in ids else [
    f'ids that are negative or above {VALUES - 1} were replaced by 0, 1, 2, ...'
  ]


def listed(names: Sequence[str]) -> str:
  """Some names for a message, the first ones of many."""
  more = f', ... ({len(names)})' if len(names) > _SHOWN else ''
  return ', '.join(map(cut, names[:_SHOWN])) + more


def _joined(
  found: Vocabulary, given: Vocabulary, where: str
) -> tuple[Vocabulary, list[str]]:
  """The classes that were found, in the order and with the words of those given."""
  left = list(found.classes)
  classes, unused = [], []
  for category in given.classes:
    match = _match(category, left)
    if match is None:
      unused.append(category.name)
      continue
    left.remove(match)
    classes.append(dataclasses.replace(category, id=match.id))
  if left:
    raise ValueError(
      f'{where} has the class {shown(left[0].name)}, which --classes lacks: add it'
    )
  notes = []
  if unused:
    notes = [f'no label is of {listed(unused)} of --classes: left out']
  return dataclasses.replace(given, classes=tuple(classes)), notes


def _match(category: Category, found: Sequence[Category]) -> Category | None:
  """The class that is meant: of the same name, one of its words, or the same id."""
  for names in ((category.name,), category.words):
    known = {normal(name) for name in names}
    for one in found:
      if normal(one.name) in known:
        return one
  return next(
    (c for c in found if category.id is not None and c.id == category.id), None
  )
