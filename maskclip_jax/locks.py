"""One process at a time: a lock file, whose lock dies with the process."""

import contextlib
import fcntl
import os
import pathlib
import socket
import warnings
from collections.abc import Iterator
from typing import TextIO


class Locked(OSError):
  """Another process holds a lock; the text says which."""


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> Iterator[None]:
  """Holds a lock on a file that is made for it and removed after it.

  Where the file system has no locks, a warning says so and the block runs.

  Args:
    path: the file, in a directory that exists.

  Raises:
    Locked: another process holds it.
  """
  file = _acquire(path)
  try:
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    yield
  finally:
    # While the lock is held, the file can be nobody else's.
    path.unlink(missing_ok=True)
    file.close()


def _acquire(path: pathlib.Path) -> TextIO:
  while True:
    file = path.open('a+')
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      with file:
        file.seek(0)
        raise Locked(file.read() or 'another process') from None
    except OSError as error:
      warnings.warn(
        f'{path.parent} cannot be locked ({error.strerror}): see to it that no other '
        'process uses it',
        stacklevel=4,
      )
      return file
    if _is_at(file, path):
      return file
    # Its holder has just removed it; a lock on it would keep nobody out.
    file.close()


def _is_at(file: TextIO, path: pathlib.Path) -> bool:
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False
