"""What a dataset of one's own says about itself: `classes.json` in its built folder.

The file is a vocabulary, so that it can be given wherever a vocabulary can, with one
part more:

  {"classes": [{"name": "car", "words": ["car", "van"], "thing": true, "id": 3}, ...],
   "dataset": {"views": {"panoptic": "segments", "semantic": "segments"},
               "splits": {"train": 180, "val": 20}, "ignore": [],
               "groups": {"seen": ["car"], "unseen": ["tram"]}}}

Words, colours and groups may be edited at any time. Ids, and which classes are things,
are in the records as well: to change those, build again.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from maskclip_jax import atomic, plain
from maskclip_jax.names import hint, shown, unknown
from maskclip_jax.places import DATA_DIR, building_path, dataset_path
from maskclip_jax.text.vocabulary import Vocabulary

Field = Literal['segments', 'semantic', 'instances']

FILE = 'classes.json'
# Values of label maps, and ids of classes, are below this.
VALUES = 65536
# The last parts of the names of views, the one whose classes are judged first.
VIEWS = ('panoptic', 'semantic', 'instances')
_HEAD = 'dataset'
# The split to judge on is the first of these that there is.
_JUDGED = ('val', 'test')


@dataclasses.dataclass(frozen=True)
class Contents:
  """What a built dataset holds.

  Attributes:
    views: by the last part of a view's name, the field of the records that it reads.
    splits: how many photos each split has.
    ignore: values of semantic maps that are not judged.
    groups: by group, the names of classes over which numbers are reported as well.

  Raises:
    ValueError: no view or split, or a view that reads no such field.
  """

  views: Mapping[str, Field]
  splits: Mapping[str, int]
  ignore: tuple[int, ...] = ()
  groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not self.views or not self.splits:
      raise ValueError('no views or no splits are left in it')
    for view in self.views:
      if view not in VIEWS:
        raise unknown('view', view, VIEWS)


@dataclasses.dataclass(frozen=True)
class Description:
  """A dataset of one's own.

  Attributes:
    name: what it is called.
    words: its classes, each with its id; their order is the class index.
    contents: its views, splits and groups.
    path: the file that says so; empty before it is built.

  Raises:
    ValueError: a class without an id that label maps can hold, or a group with a class
      that there is not.
  """

  name: str
  words: Vocabulary
  contents: Contents
  path: str = ''

  def __post_init__(self):
    names = [category.name for category in self.words.classes]
    for category in self.words.classes:
      if category.id is None or not 0 <= category.id < VALUES:
        raise ValueError(
          f'class {shown(category.name)} has the id {category.id}: the one it was '
          f'built with, from 0 to {VALUES - 1}, is needed'
        )
    for group, members in self.contents.groups.items():
      for member in members:
        if member not in names:
          raise ValueError(
            f'the group {shown(group)} names {shown(member)}, which is no class: '
            f'{hint(member, names)}'
          )

  @property
  def judged(self) -> str:
    """The split to evaluate on."""
    splits = self.contents.splits
    return next((split for split in _JUDGED if split in splits), next(iter(splits)))

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the file into a dataset's folder."""
    data = {'name': self.name, _HEAD: plain.to_dict(self.contents)}
    data = self.words.to_json() | data
    # A class a line, to be edited.
    lines = [json.dumps(one, ensure_ascii=False) for one in data.pop('classes')]
    head = json.dumps(data, ensure_ascii=False, indent=2).removesuffix('\n}')
    classes = ',\n    '.join(lines)
    text = f'{head},\n  "classes": [\n    {classes}\n  ]\n}}\n'
    atomic.write(pathlib.Path(folder, FILE), text)


def find(name: str, data_dir: str | os.PathLike | None = None) -> Description | None:
  """The description of a dataset of one's own; None if none of that name is built.

  Raises:
    ValueError: its file was edited to something that describes no dataset.
  """
  path = dataset_path(name, data_dir) / FILE
  if not name.isidentifier() or not path.is_file():
    return None
  words = Vocabulary.load(path)
  try:
    contents = plain.read(Contents, plain.read_json(path).get(_HEAD), _HEAD)
    return Description(name, words, contents, str(path))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def names(data_dir: str | os.PathLike | None = None) -> tuple[str, ...]:
  """Names of the datasets of one's own that are built."""
  places = pathlib.Path(os.path.expanduser(data_dir or DATA_DIR))
  found = places.glob(str(dataset_path('*', places).relative_to(places) / FILE))
  return tuple(sorted(path.parent.parent.name for path in found))


def nearby(name: str) -> pathlib.Path | None:
  """The folder of the working directory, or itself, in which a dataset is built."""
  if re.fullmatch(r'[\w-]+', name):
    for place in (pathlib.Path(), *sorted(pathlib.Path().glob('*/'))):
      if dataset_path(name, place).joinpath(FILE).is_file():
        return place
  return None


def unknown_name(
  kind: str, name: str, known: Sequence[str], data_dir: str | os.PathLike | None = None
) -> ValueError:
  """The error for a name that neither the package nor a built dataset has.

  Args:
    kind: what the name should be of, 'evaluation'.
    name: what was asked for.
    known: the names that come with the package.
    data_dir: where the built datasets lie.
  """
  own, place = names(data_dir), data_dir or DATA_DIR
  if os.path.exists(building_path(name, place)):
    return ValueError(
      f'{name} is not built to its end in {place}: run its `data build` again'
    )
  error = unknown(kind, name, (*known, *own))
  return ValueError(f'{error} (your own in {place}: {", ".join(own) or "none"})')


def named_words(
  vocabulary: str, data_dir: str | os.PathLike | None
) -> str | Vocabulary:
  """A vocabulary as a user gives it, where names of built datasets are known, too.

  Args:
    vocabulary: whatever `Vocabulary.parse` reads, or the name of a dataset of one's
      own, perhaps with a treatment ('shapes', 'shapes@masqclip').
    data_dir: where the built datasets lie.

  Returns:
    The words of the dataset; else what was given.
  """
  name, _, system = vocabulary.strip().partition('@')
  found = find(name, data_dir)
  return vocabulary if found is None else found.words.treated(system or None)
