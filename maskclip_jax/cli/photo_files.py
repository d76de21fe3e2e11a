"""The photos that files, folders and patterns of a command stand for."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

from maskclip_jax.photos import SUFFIXES
from maskclip_jax.results.folder import is_result

# Pictures of kinds that are not read; a folder of them must not look empty.
_UNREAD = frozenset(
  {
    *('.heic', '.heif', '.jxl', '.svg', '.psd', '.exr', '.hdr', '.pdf', '.eps'),
    *('.raw', '.dng', '.cr2', '.cr3', '.nef', '.arw', '.orf', '.rw2', '.raf'),
  }
)


@dataclasses.dataclass(frozen=True)
class PhotoFile:
  """A photo of a command.

  Attributes:
    path: where it is.
    name: where it is below the folder or pattern that it was found by; its own name if
      it was given as a file. Bytes that are not UTF-8 are spelt out, since JSON has
      none.
  """

  path: pathlib.Path
  name: str

  def __post_init__(self):
    name = os.fsencode(self.name).decode('utf-8', 'backslashreplace')
    object.__setattr__(self, 'name', name)


@dataclasses.dataclass(frozen=True)
class FoundPhotos:
  """What words of a command stand for.

  Attributes:
    photos: each once, in order; where there are several, some may not exist.
    problems: words that stand for no photo, one line each.
    notes: about pictures that were left out.
  """

  photos: tuple[PhotoFile, ...]
  problems: tuple[str, ...]
  notes: tuple[str, ...]


def find_photos(words: Sequence[str]) -> FoundPhotos:
  """The photos that words of a command stand for, in order.

  Folders are searched with all below them. Hidden files are not photos, nor are results
  of this program.

  Raises:
    FileNotFoundError: not one photo is there.
  """
  found: dict[pathlib.Path, PhotoFile] = {}
  left_out: list[pathlib.Path] = []
  problems: list[str] = []
  for word in words:
    path = pathlib.Path(word)
    if os.path.isdir(path):
      photos = _below(path, path, left_out)
      problem = f'the folder {word} holds no image'
    elif any(c in word for c in '*?[') and not os.path.lexists(path):
      photos = _matching(path, left_out)
      problem = f'no file matches {word}'
    else:
      photos = [PhotoFile(path, path.name)]
    found |= {photo.path: photo for photo in photos if photo.path not in found}
    if not photos:
      problems.append(problem)
  notes = (_explained(left_out),) if left_out else ()
  if not found:
    raise FileNotFoundError('; '.join([problems[0], *notes]))
  if not any(map(os.path.isfile, found)):
    path = next(iter(found))
    raise FileNotFoundError(f'{path} does not exist: give the path of an image file')
  return FoundPhotos(tuple(found.values()), tuple(problems), notes)


def _matching(pattern: pathlib.Path, left_out: list[pathlib.Path]) -> list[PhotoFile]:
  """The photos of a pattern, named below the part of it that exists."""
  base, rest = pathlib.Path(pattern.anchor or '.'), list(pattern.parts)
  if pattern.anchor:
    rest = rest[1:]
  # A folder may be called 'd[1]'.
  while len(rest) > 1 and (base / rest[0]).is_dir():
    base /= rest.pop(0)
  photos = []
  for path in sorted(base.glob('/'.join(rest))):
    if path.is_dir():
      photos += _below(path, base, left_out)
    else:
      photos.append(PhotoFile(path, str(path.relative_to(base))))
  return photos


def _below(
  folder: pathlib.Path, base: pathlib.Path, left_out: list[pathlib.Path]
) -> list[PhotoFile]:
  photos = []
  for path in _files(folder):
    if path.suffix.lower() in _UNREAD:
      left_out.append(path)
    elif path.suffix.lower() in SUFFIXES and not is_result(path):
      photos.append(PhotoFile(path, str(path.relative_to(base))))
  return photos


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for place, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    for name in sorted(names):
      # macOS writes a twin '._a.jpg' of every file onto foreign disks.
      if not name.startswith('.'):
        yield pathlib.Path(place, name)


def _explained(left_out: Sequence[pathlib.Path]) -> str:
  kinds = ', '.join(sorted({path.suffix.lower() for path in left_out}))
  return (
    f'{len(left_out)} pictures of kinds that are not read are left out, such as '
    f'{left_out[0]}: convert {kinds} to PNG or JPEG'
  )
