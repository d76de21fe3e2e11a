"""Photos and classes of one's own: from what annotation tools write to a dataset.

  data = open_own(OwnData('coco', 'photos', ('labels.json',), val=0.1))
  photo, *_ = data.splits['val']
  photo.read()                     # see annotated.py

To read another tool's files, write a function like `coco.read` and name it in
`READERS`; views, words, checks and evaluation then follow.
"""

import dataclasses
import hashlib
import importlib
from collections.abc import Mapping

from maskclip_jax.data.own.annotated import Annotated, LabelledPhoto, OwnData
from maskclip_jax.names import look_up, unknown

# By form, the function from `OwnData` to `Annotated`; imported when it is used.
READERS: Mapping[str, str] = {
  'coco': 'maskclip_jax.data.own.coco:read',
  'cvat': 'maskclip_jax.data.own.cvat:read',
  'labelme': 'maskclip_jax.data.own.labelme:read',
  'masks': 'maskclip_jax.data.own.masks:read',
  'yolo': 'maskclip_jax.data.own.yolo:read',
}


def open_own(given: OwnData) -> Annotated:
  """Finds and lists the photos and their labels, and draws a split where asked.

  Raises:
    FileNotFoundError: photos, labels or folders are not there; says which.
    ValueError: labels that cannot be used; names the file and what to do.
  """
  module, _, function = look_up('form of labels', given.form, READERS).partition(':')
  data = getattr(importlib.import_module(module), function)(given)
  groups(given, data)  # Says now what would be found wrong in the end.
  _check_apart(data)
  return _drawn(data, given) if given.val else _told(data)


def _check_apart(data: Annotated) -> None:
  """Fails where a file is in two splits, as numbers on it would be too good, and where
  two photos of a split cannot be told apart."""
  owners: dict[str, str] = {}
  for split, photos in data.splits.items():
    named: dict[str, str] = {}
    for photo in photos:
      first = named.setdefault(photo.key, photo.file.path)
      if first != photo.file.path:
        raise ValueError(
          f'{first} and {photo.file.path} are both called {photo.key} in {split}: keep '
          'one of them, or rename it'
        )
      other = owners.setdefault(photo.file.path, split)
      if other != split:
        raise ValueError(
          f'{photo.file.path} is in {other} and in {split}: leave it out of one of them'
        )


def groups(given: OwnData, data: Annotated) -> dict[str, tuple[str, ...]]:
  """The classes of 'seen' and 'unseen' where one of the two was given.

  Raises:
    ValueError: a class is in both, or is none.
  """
  names = [category.name for category in data.classes.classes]
  # A name with a comma can only be given by its words.
  meant = {word: c.name for c in data.classes.classes for word in c.words}
  meant |= {name: name for name in names}
  for name in (*given.seen, *given.unseen):
    if name not in meant:
      raise unknown('class', name, names)
  if not given.seen and not given.unseen:
    return {}
  chosen, others = (
    tuple(dict.fromkeys(meant[name] for name in some))
    for some in (given.seen, given.unseen)
  )
  if both := set(chosen) & set(others):
    raise ValueError(f'{min(both)!r} is in --seen and in --unseen: keep it in one')
  seen, unseen = (
    mine or tuple(name for name in names if name not in theirs)
    for mine, theirs in ((chosen, others), (others, chosen))
  )
  if not seen or not unseen:
    raise ValueError('every class is among --seen or --unseen: name some of them only')
  return {'seen': seen, 'unseen': unseen}


def _told(data: Annotated) -> Annotated:
  if len(data.splits) > 1:
    return data
  note = (
    'there is one split: --val 0.1 draws a tenth of the photos to evaluate on, and '
    'files or folders named train and val are taken as such'
  )
  return dataclasses.replace(data, notes=(*data.notes, note))


def _drawn(data: Annotated, given: OwnData) -> Annotated:
  """The same with a part of its photos as 'val'.

  A photo's name decides, so that most photos stay where they are when others are added.

  Raises:
    ValueError: there are splits already, or too few photos for two.
  """
  if len(data.splits) > 1:
    raise ValueError(
      f'the labels are split into {" and ".join(data.splits)} already: leave --val out'
    )
  photos = next(iter(data.splits.values()))
  count = max(1, round(given.val * len(photos)))
  if count >= len(photos):
    raise ValueError(
      f'--val {given.val:g} of {len(photos)} photos leaves none to train on: give '
      'more photos, or leave --val out'
    )
  ranked = sorted(photos, key=lambda photo: _rank(photo, given.seed))
  chosen = {photo.key for photo in ranked[:count]}
  splits = {
    'train': [photo for photo in photos if photo.key not in chosen],
    'val': [photo for photo in photos if photo.key in chosen],
  }
  note = (
    f'val is {count} of the {len(photos)} photos, drawn with --seed {given.seed}; '
    'where several show one scene, split them by hand'
  )
  return dataclasses.replace(data, splits=splits, notes=(*data.notes, note))


def _rank(photo: LabelledPhoto, seed: int) -> bytes:
  return hashlib.sha256(f'{seed} {photo.key}'.encode()).digest()
