"""Reading members of zip and tar archives at random, without extracting them."""

import gzip
import os
import pathlib
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

SUFFIXES = ('.zip', '.tar', '.tar.gz', '.tgz')
_DAMAGED = (
  zipfile.BadZipFile,
  tarfile.ReadError,
  gzip.BadGzipFile,
  EOFError,
  zlib.error,
)

Read = Callable[[], bytes]


class DamagedArchiveError(ValueError):
  """An archive, or a member of it, that cannot be read."""


def _damaged(name: str, error: Exception) -> DamagedArchiveError:
  return DamagedArchiveError(
    f'{name} is damaged or incomplete ({error}): download the archive again'
  )


def members(path: pathlib.Path) -> Iterator[tuple[str, Read]]:
  """Lists an archive; zips inside a zip are listed as folders of their name.

  Yields:
    The member's path, and a function that reads it; it may be called from any thread.

  Raises:
    DamagedArchiveError: the archive is not an archive or is cut off; reading a member
      raises it where that member is damaged.
  """
  try:
    if path.suffix == '.zip':
      yield from _zip_members(zipfile.ZipFile(path), str(path))
    else:
      yield from _tar_members(path)
  except _DAMAGED as error:
    raise _damaged(str(path), error) from error


def _zip_members(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[str, Read]]:
  for info in archive.infolist():
    if info.is_dir():
      continue
    if info.filename.endswith('.zip') and '__MACOSX' not in info.filename:
      inner_name = f'{name}:{info.filename}'
      inner = zipfile.ZipFile(_spool(archive.open(info)))
      for member, read in _zip_members(inner, inner_name):
        yield f'{info.filename}/{member}', read
    else:
      yield info.filename, _ZipMember(archive, info, name)


class _ZipMember:
  """Reads one member; the checksum in the zip tells whether it is whole."""

  def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str):
    self._archive, self._info, self._name = archive, info, name

  def __call__(self) -> bytes:
    try:
      return self._archive.read(self._info)
    except _DAMAGED as error:
      raise _damaged(f'{self._name}:{self._info.filename}', error) from error


def _tar_members(path: pathlib.Path) -> Iterator[tuple[str, Read]]:
  # The file stays open for the reader. Compressed streams cannot be read at random:
  # they are unpacked once, to a nameless file.
  stream = path.open('rb') if path.suffix == '.tar' else gzip.open(path)  # noqa: SIM115
  file = stream if path.suffix == '.tar' else _spool(stream)
  reader = _TarReader(file)
  for name, start, length in _spans(file):
    yield name, reader.member(start, length)


def tar_spans(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
  """Lists a tar that is not compressed: name, start and length of each file in it.

  Raises:
    DamagedArchiveError: it is not a tar or is cut off; after the files before.
  """
  try:
    with path.open('rb') as file:
      yield from _spans(file)
  except _DAMAGED as error:
    raise _damaged(str(path), error) from error


def _spans(file: IO[bytes]) -> Iterator[tuple[str, int, int]]:
  size = os.fstat(file.fileno()).st_size
  with tarfile.open(fileobj=file, mode='r:') as archive:
    for info in archive:
      if info.offset_data + info.size > size:
        raise tarfile.ReadError(f'it ends inside {info.name}')
      if info.isfile():
        yield info.name, info.offset_data, info.size
    # tarfile takes a damaged header for the end, which is a block of zeros.
    file.seek(archive.offset)
    end = file.read(tarfile.BLOCKSIZE)
  if len(end) < tarfile.BLOCKSIZE:
    raise tarfile.ReadError('its end is missing')
  if any(end):
    raise tarfile.ReadError(f'no file begins at byte {archive.offset}')


class _TarReader:
  def __init__(self, file: IO[bytes]):
    self._file, self._lock = file, threading.Lock()

  def member(self, start: int, length: int) -> Read:
    return lambda: self._read(start, length)

  def _read(self, start: int, length: int) -> bytes:
    with self._lock:
      self._file.seek(start)
      return self._file.read(length)


def _spool(stream: IO[bytes]) -> IO[bytes]:
  file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as its members are read)
  with stream:
    shutil.copyfileobj(stream, file, 1 << 20)
  file.flush()
  file.seek(0)
  return file
