"""The owners' files under `--raw`: folders and archives as one tree.

A builder asks for folders and files by the end of their path, so it does not matter
whether an archive was extracted, where, and under which parent folder.
"""

import dataclasses
import fnmatch
import hashlib
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from maskclip_jax.data.builders import archives

# JPEG files as people have them, in lower case.
PHOTO_SUFFIXES = ('.jpg', '.jpeg')


@dataclasses.dataclass(frozen=True)
class RawFile:
  """A file on disk or in an archive.

  Attributes:
    path: where it is, for messages: 'raw/train2017.zip:train2017/000000000009.jpg'.
    name: the last part of its path.
  """

  path: str
  name: str
  reader: archives.Read

  @property
  def stem(self) -> str:
    return self.name.rpartition('.')[0]

  def read(self) -> bytes:
    """The content.

    Raises:
      ValueError: the file cannot be read; says which and what to do.
    """
    try:
      return self.reader()
    except OSError as error:
      raise ValueError(
        f'{self.path} cannot be read ({error.strerror or error}): check the disk and '
        'the permissions, or download it again'
      ) from error


class RawFiles:
  """All files under a folder, those in known archives included."""

  def __init__(self, root: str | os.PathLike, archive_names: Iterable[str] = ()):
    """Lists the files.

    Args:
      root: the folder, or one archive.
      archive_names: file names (or patterns) of archives to look into.

    Raises:
      FileNotFoundError: there is no such folder.
      DamagedArchiveError: an archive cannot be listed.
    """
    self.root = pathlib.Path(root).expanduser()
    if not self.root.exists():
      raise FileNotFoundError(
        f'no folder {self.root}: give the one with the downloaded files'
      )
    self.archives: list[pathlib.Path] = []
    self._folders: dict[str, dict[str, RawFile]] = {}
    wanted = tuple(name for name in archive_names if name.endswith(archives.SUFFIXES))
    for path in self._walk():
      if path == self.root or any(fnmatch.fnmatch(path.name, w) for w in wanted):
        self._add_archive(path)
      else:
        self._add(self._place(path), str(path), path.read_bytes)

  def _walk(self) -> Iterable[pathlib.Path]:
    if self.root.is_file():
      yield self.root
      return
    for folder, subfolders, names in os.walk(self.root, followlinks=True):
      subfolders.sort()
      for name in sorted(names):
        yield pathlib.Path(folder, name)

  def _place(self, path: pathlib.Path) -> str:
    # With the root's own name, so that `--raw VOC2012` finds 'VOC2012/JPEGImages'.
    root = self.root.resolve()
    return f'{root.name}/{path.relative_to(self.root).as_posix()}'.removesuffix('/.')

  def _add_archive(self, path: pathlib.Path) -> None:
    self.archives.append(path)
    for member, read in archives.members(path):
      self._add(f'{self._place(path)}/{member}', f'{path}:{member}', read)

  def _add(self, relative: str, shown: str, read: archives.Read) -> None:
    folder, _, name = relative.replace('/./', '/').rpartition('/')
    # Finder leaves '._' twins of every file in the archives it makes.
    if name.startswith('.') or '__MACOSX' in folder:
      return
    self._folders.setdefault(folder, {})[name] = RawFile(shown, name, read)

  def folder(self, *patterns: str, suffix: str | tuple[str, ...]) -> dict[str, RawFile]:
    """Files of the first folder whose path ends like a pattern.

    Args:
      *patterns: ends of paths, '*' allowed in a part: 'annotations/training'.
      suffix: the ending of the files to return, or several, in either case; a folder
        without such files does not count.

    Returns:
      Files by stem, sorted. Empty if there is no such folder.
    """
    for pattern in patterns:
      for path in sorted(self._folders, key=lambda path: (path.count('/'), path)):
        if _ends_with(path, pattern):
          found = {
            file.stem: file
            for name, file in sorted(self._folders[path].items())
            if name.lower().endswith(suffix)
          }
          if found:
            return found
    return {}

  def file(self, *patterns: str) -> RawFile | None:
    """The first file whose path ends like a pattern, or None."""
    for pattern in patterns:
      parent, _, name = pattern.rpartition('/')
      for path in sorted(self._folders, key=lambda path: (path.count('/'), path)):
        if name in self._folders[path] and (not parent or _ends_with(path, parent)):
          return self._folders[path][name]
    return None

  def folders(self) -> Mapping[str, Mapping[str, RawFile]]:
    """Everything: files by name by folder."""
    return self._folders

  def renamed(self, download: str) -> str | None:
    """A file that looks like a download under another name, such as 'x (1).zip'."""
    stem = download.partition('.')[0].rstrip('*')
    for files in self._folders.values():
      for name in files:
        archive = '.zip' in name or '.tar' in name
        if name != download and name.startswith(stem) and archive:
          return name
    return None

  def missing(self, what: str, patterns: Sequence[str], download: str) -> str:
    """The message for files that are not there."""
    renamed = self.renamed(download)
    hint = f"; '{renamed}' is there: finish or rename it" if renamed else ''
    return (
      f'no {what} under {self.root} (looked for {" or ".join(patterns)}): put '
      f'{download} there, as it is or extracted{hint}'
    )

  def fingerprint(self) -> str:
    """Changes when a file appears, goes, or when an archive is replaced."""
    digest = hashlib.sha256()
    for path in self.archives:
      digest.update(f'{path.name} {path.stat().st_size}\n'.encode())
    for folder in sorted(self._folders):
      digest.update(f'{folder}: {" ".join(sorted(self._folders[folder]))}\n'.encode())
    return digest.hexdigest()


def _ends_with(path: str, pattern: str) -> bool:
  want = pattern.split('/')
  parts = path.split('/')[-len(want) :]
  return len(parts) == len(want) and all(map(fnmatch.fnmatchcase, parts, want))
