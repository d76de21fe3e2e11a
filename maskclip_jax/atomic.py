"""Atomic writes: a file or directory is in its place whole, or not at all.

Everything is written beside its place, under a hidden name, and renamed when it is
complete. A full disk, an error or an interrupt leaves what was there before and nothing
else; after a kill the hidden part stays, and what was there before is still whole.
"""

import contextlib
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping

Path = str | os.PathLike


class WriteError(OSError):
  """Something cannot be written: one line that says what, and why.

  Args:
    text: the line.
    code: the system's number of the reason (`errno`), if it gave one.
  """

  def __init__(self, text: str, code: int | None = None):
    super().__init__(text)
    self.errno = code


@contextlib.contextmanager
def file(path: Path) -> Iterator[pathlib.Path]:
  """A path to write a file to, which takes its place when the block ends well.

  Args:
    path: the file, replaced if it exists; its directory is made if need be.

  Raises:
    WriteError: no permission, a full disk, or a file where a directory should be.
  """
  with _part(pathlib.Path(path)) as part:
    yield part
    part.replace(path)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[pathlib.Path]:
  """A new directory to fill, which takes its place when the block ends well.

  Args:
    path: the directory; what was there goes only when the new one is in its place.

  Raises:
    WriteError: no permission, a full disk, or a file where a directory should be.
  """
  path = pathlib.Path(path)
  with _part(path) as part:
    part.mkdir()
    yield part
    _take_place(part, path)


def write(path: Path, content: bytes | str) -> None:
  """Writes a file, text as UTF-8; raises as `file` does."""
  data = content.encode() if isinstance(content, str) else content
  with file(path) as part:
    part.write_bytes(data)


def write_together(where: Path, files: Mapping[str, bytes]) -> list[pathlib.Path]:
  """Writes several files of a directory: none takes its place before all are complete.

  Args:
    where: the directory.
    files: name -> content.

  Returns:
    Their paths.

  Raises:
    WriteError: as for `file`.
  """
  paths = [pathlib.Path(where) / name for name in files]
  with contextlib.ExitStack() as stack:
    for path, content in zip(paths, files.values(), strict=True):
      stack.enter_context(file(path)).write_bytes(content)
  return paths


def check_place(path: Path) -> None:
  """Fails early, and without creating anything, where nothing could be written.

  Args:
    path: a file or a directory that is to be written.

  Raises:
    WriteError: what will be its directory is a file, or may not be written to.
  """
  nearest = next(p for p in pathlib.Path(path).absolute().parents if p.exists())
  if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
    return
  reason = f'no permission in {nearest}' if nearest.is_dir() else f'{nearest} is a file'
  raise WriteError(f'cannot write {path}: {reason}; choose another place')


def check_folder(
  path: Path, what: str, is_ours: Callable[[pathlib.Path], bool]
) -> None:
  """Fails early where a folder could not be written, or is one of something else.

  Args:
    path: the folder.
    what: is to be written, 'bundle'.
    is_ours: whether a folder holds one already, which may be replaced.

  Raises:
    ValueError: something else is there.
    WriteError: as `check_place`.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    if any(path.iterdir()) and not is_ours(path):
      article = 'an' if what[0] in 'aeiou' else 'a'
      raise ValueError(
        f'{path} exists and is not {article} {what}, so it is not overwritten: choose '
        'another directory'
      )
  elif path.exists():
    raise ValueError(f'{path} is a file: choose a directory for the {what}')
  check_place(path)


@contextlib.contextmanager
def _part(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A hidden path beside `path`, of which nothing is left if the block fails."""
  token = f'{os.getpid()}-{threading.get_ident()}'
  part = path.with_name(f'.{path.name}.{token}.part')
  made = [parent for parent in path.absolute().parents if not parent.exists()]
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield part
  except BaseException as error:
    _remove(part)
    for parent in made:
      with contextlib.suppress(OSError):
        parent.rmdir()
    if isinstance(error, OSError) and not isinstance(error, WriteError):
      raise WriteError(
        f'cannot write {path}: {error.strerror or error}; choose another place or make '
        'room, then run again',
        error.errno,
      ) from error
    raise


def _remove(path: pathlib.Path) -> None:
  with contextlib.suppress(OSError):
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    else:
      path.unlink()


def _take_place(new: pathlib.Path, path: pathlib.Path) -> None:
  """Renames a directory; what was there goes only after that has worked."""
  if not path.exists():
    new.rename(path)
    return
  replaced = new.with_suffix('.replaced')
  path.rename(replaced)
  try:
    new.rename(path)
  except OSError:
    replaced.rename(path)
    raise
  shutil.rmtree(replaced)
