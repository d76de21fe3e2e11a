"""Finding the photos and maps that annotations name, in folders as people have them."""

import copy
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence

from maskclip_jax.data.builders import archives
from maskclip_jax.data.builders.raw import RawFile, RawFiles
from maskclip_jax.names import cut, shown

# How folders and files call their split, and how the split is called here.
_SPLITS = {
  **dict.fromkeys(('train', 'training'), 'train'),
  **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
  **dict.fromkeys(('test', 'testing'), 'test'),
}
_WORD = re.compile(rf'(?:^|[_\-. ])({"|".join(_SPLITS)})\d*(?=$|[_\-. ])', re.I)
_UPLOAD = re.compile('[0-9a-f]{8}-')
_SHOWN = 3


def split_of(name: str) -> str | None:
  """The split that a file is named after: 'instances_val2017' is 'val'."""
  found = _WORD.findall(name)
  return _SPLITS[found[-1].lower()] if found else None


def split_of_folder(name: str) -> str | None:
  """The split that a folder is: 'valid' and 'val2017' are 'val', 'test photos' none."""
  return split_of(name) if _WORD.fullmatch(name) else None


class FileIndex:
  """The files of some kinds under a folder or in an archive, to be found by name.

  Attributes:
    files: them by their path below the root, sorted.
  """

  def __init__(self, root: str | os.PathLike, suffixes: Iterable[str], what: str):
    """Lists the files.

    Args:
      root: the folder, or one archive.
      suffixes: their endings, in lower case; files with others are passed over.
      what: what they are, for messages: 'photos'.

    Raises:
      FileNotFoundError: there is no such folder, or no such file in it.
    """
    self.root, self._what = pathlib.Path(root), what
    if not self.root.expanduser().exists():
      raise FileNotFoundError(f'there is no {root}: give the folder with the {what}')
    if self.root.expanduser().is_file() and not str(root).endswith(archives.SUFFIXES):
      raise ValueError(f'{root} is a file: give the folder with the {what}, or a zip')
    suffixes, others = tuple(suffixes), set()
    raw, self.files = RawFiles(root), dict[str, RawFile]()
    for folder, files in sorted(raw.folders().items()):
      below = folder.partition('/')[2]
      for name, file in sorted(files.items()):
        ending = pathlib.PurePath(name).suffix.lower()
        if ending in suffixes:
          self.files[f'{below}/{name}'.lstrip('/')] = file
        else:
          others.add(ending or name)
    if not self.files:
      there = ', '.join(sorted(others)[:_SHOWN])
      seen = f'there are {there}' if others else 'it is empty'
      raise FileNotFoundError(
        f'no {what} under {root} ({seen}): give the folder, or the zip, that has them'
      )
    self._index()

  def without(self, other: 'FileIndex') -> 'FileIndex':
    """The same without the files of another index, whose folder may lie in this one."""
    theirs = {pathlib.Path(file.path).resolve() for file in other.files.values()}
    kept = copy.copy(self)
    kept.files = {
      path: file
      for path, file in self.files.items()
      if pathlib.Path(file.path).resolve() not in theirs
    }
    kept._index()
    return kept

  def _index(self) -> None:
    self._by_name: dict[str, list[str]] = {}
    for path in self.files:
      self._by_name.setdefault(_last(path).lower(), []).append(path)

  def find(self, name: str, split: str | None = None) -> RawFile | None:
    """The file that an annotation names, with its folders or without, in any case.

    Args:
      name: the path as it was written, on Windows too.
      split: prefer the files in a folder of this split.

    Returns:
      The file; None if there is none.

    Raises:
      ValueError: several files could be meant.
    """
    for wanted in _spellings(name):
      if found := self._by_name.get(_last(wanted)):
        return self.files[self._meant(found, wanted, split)]
    return None

  def _meant(self, found: Sequence[str], wanted: str, split: str | None) -> str:
    """The one of several paths that is meant; see `find`."""
    for fits in (
      lambda path: path == wanted,
      lambda path: f'/{path}'.endswith(f'/{wanted}'),
      # Paths of another computer: ours is their end.
      lambda path: f'/{wanted}'.endswith(f'/{path}'),
      lambda path: split in map(split_of_folder, path.split('/')[:-1]),
    ):
      chosen = [path for path in found if fits(path.lower())]
      if len(chosen) == 1:
        return chosen[0]
    if len(found) > 1:
      raise ValueError(
        f'{shown(wanted)} may be {found[0]} or {found[1]} under {self.root}: write the '
        'folder before the name, or rename one'
      )
    return found[0]

  def find_all(
    self, names: Iterable[str], where: str, split: str | None = None
  ) -> dict[str, RawFile]:
    """The files of several names.

    Args:
      names: as of `find`.
      where: what names them, for messages.
      split: as of `find`.

    Raises:
      FileNotFoundError: some are not there; says how many and which.
      ValueError: several files could be meant by one name.
    """
    found = {name: self.find(name, split) for name in names}
    missing = [name for name, file in found.items() if file is None]
    if missing:
      listed = ', '.join(map(cut, missing[:_SHOWN])) + ', ...' * bool(missing[_SHOWN:])
      raise FileNotFoundError(
        f'{where} names {len(found)} {self._what}, and {len(missing)} of them are not '
        f'under {self.root} ({listed}): add them, or give the folder they are in'
      )
    return {name: file for name, file in found.items() if file is not None}


def by_folder(paths: Iterable[str]) -> dict[str, str]:
  """The split of each path by its folders; empty where not all are in such a folder."""
  found: dict[str, str] = {}
  for path in paths:
    splits = [s for s in map(split_of_folder, path.split('/')[:-1]) if s]
    if not splits:
      return {}
    found[path] = splits[-1]
  return found


def _spellings(name: str) -> Iterator[str]:
  """What a name may mean, in lower case: itself; without the query of an address; and
  without the eight digits that Label Studio writes before the name of an upload."""
  wanted = normal_path(name).lower()
  yield wanted
  address = normal_path(urllib.parse.unquote(wanted.rpartition('?d=')[2]))
  if address != wanted:
    yield address
  folder, slash, last = address.rpartition('/')
  if _UPLOAD.match(last):
    yield folder + slash + _UPLOAD.sub('', last)


def normal_path(name: str) -> str:
  """A path as it was written anywhere, with forward slashes and without '.'."""
  parts = name.replace('\\', '/').split('/')
  return '/'.join(part for part in parts if part not in ('', '.'))


def stamps(paths: Iterable[str | os.PathLike]) -> Mapping[str, tuple[int, int]]:
  """Size and time of every file in some places, which change when one is edited."""
  found = {}
  for place in map(pathlib.Path, paths):
    files = [place] if place.is_file() else sorted(place.rglob('*'))
    for file in files:
      if file.is_file():
        status = file.stat()
        found[str(file)] = status.st_size, status.st_mtime_ns
  return found


def _last(path: str) -> str:
  return path.rpartition('/')[2]
