"""Photo and text as two files of the same name, in a folder or in a tar.

In a tar that is webdataset's form. Nothing is unpacked: where each file lies in the tar
is listed once, 100 bytes or so a pair, and read from there.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int64

from maskclip_jax.data.builders.archives import DamagedArchiveError, tar_spans
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.captioned.part import PHOTOS, Opened, parse_text, walk

# The first of them that is there has the captions.
_TEXTS = ('.txt', '.caption', '.json')


@dataclasses.dataclass(frozen=True)
class _Names:
  """Names of pairs: the photo is stem + suffixes[0], the text stem + suffixes[1]."""

  stems: tuple[str, ...]
  suffixes: tuple[tuple[str, str], ...]

  @classmethod
  def of(cls, names: Iterable[str], where: str) -> tuple['_Names', tuple[str, ...]]:
    """Puts files together in pairs, in the order of their photos.

    Args:
      names: of files.
      where: what they are in, for messages.

    Returns:
      The pairs, and a line for each photo without a text.
    """
    photos: dict[str, str] = {}
    texts: dict[str, str] = {}
    for name in names:
      stem, dot, end = name.rpartition('.')
      suffix = dot + end
      if suffix.lower() in PHOTOS:
        photos[stem] = suffix
      elif suffix in _TEXTS:
        known = texts.get(stem, _TEXTS[-1])
        texts[stem] = min(known, suffix, key=_TEXTS.index)
    pairs = {stem: photos[stem] for stem in photos if stem in texts}
    alone = [stem + suffix for stem, suffix in photos.items() if stem not in texts]
    found = cls(tuple(pairs), tuple((pairs[stem], texts[stem]) for stem in pairs))
    return found, tuple(
      f'{where}{name} has no caption: put it into a .txt of the same name'
      for name in alone
    )


@dataclasses.dataclass(frozen=True)
class Folder:
  """The pairs of a folder, without those of its subfolders."""

  path: pathlib.Path
  names: _Names

  def __len__(self) -> int:
    return len(self.names.stems)

  def key(self, row: int) -> str:
    return self.names.stems[row]

  def photo(self, row: int) -> RawFile:
    file = self.path / (self.names.stems[row] + self.names.suffixes[row][0])
    return RawFile(str(file), file.name, file.read_bytes)

  def captions(self, row: int) -> tuple[str, ...]:
    file = self.path / (self.names.stems[row] + self.names.suffixes[row][1])
    return parse_text(str(file), file.read_bytes)


@dataclasses.dataclass(frozen=True, eq=False)
class TarShard:
  """The pairs of a tar.

  Attributes:
    path: the tar.
    names: names of the files in it.
    spans: start and length of photo and text of each pair, in bytes.
  """

  path: pathlib.Path
  names: _Names
  spans: Int64[np.ndarray, 'n 2 2']

  def __len__(self) -> int:
    return len(self.names.stems)

  def key(self, row: int) -> str:
    return self.names.stems[row]

  def _file(self, row: int, which: int) -> RawFile:
    name = self.names.stems[row] + self.names.suffixes[row][which]
    start, length = self.spans[row, which].tolist()
    read = functools.partial(_read_span, self.path, start, length)
    return RawFile(f'{self.path}:{name}', name.rpartition('/')[2], read)

  def photo(self, row: int) -> RawFile:
    return self._file(row, 0)

  def captions(self, row: int) -> tuple[str, ...]:
    file = self._file(row, 1)
    return parse_text(file.path, file.read)


def _read_span(path: pathlib.Path, start: int, length: int) -> bytes:
  with path.open('rb') as file:
    file.seek(start)
    return file.read(length)


def open_tars(root: pathlib.Path) -> list[Opened]:
  """The tars below a folder."""
  return [_open_tar(path) for path in walk(root, '.tar', '.tar.gz', '.tgz')]


def _open_tar(path: pathlib.Path) -> Opened:
  spans: dict[str, tuple[int, int]] = {}
  problems = ()
  if path.suffix == '.tar':
    try:
      for name, start, length in tar_spans(path):
        spans[name] = start, length
    except DamagedArchiveError as error:
      problems = (str(error),)
  else:
    problems = (f'{path} is compressed and cannot be read at random: gunzip it',)
  names, alone = _Names.of(spans, f'{path}:')
  rows = [
    [spans[stem + suffix] for suffix in suffixes]
    for stem, suffixes in zip(names.stems, names.suffixes, strict=True)
  ]
  table = np.array(rows, np.int64).reshape(-1, 2, 2)
  # What a damaged tar ends with may have lost its text to the damage.
  return Opened(TarShard(path, names, table), (*problems, *alone))


def open_folders(root: pathlib.Path) -> list[Opened]:
  """The folders that have photos beside texts; none if no photo has one."""
  folders: dict[pathlib.Path, list[str]] = {}
  for path in walk(root, *PHOTOS, *_TEXTS):
    folders.setdefault(path.parent, []).append(path.name)
  opened = []
  for folder, files in folders.items():
    names, alone = _Names.of(files, f'{folder}/')
    if names.stems or alone:
      opened.append(Opened(Folder(folder, names), alone))
  return opened if any(len(one.part) for one in opened) else []
