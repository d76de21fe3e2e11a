"""What the forms of pairs have in common: one file or folder with pairs in it."""

import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from maskclip_jax.data.builders.raw import RawFile

# Lower case.
PHOTOS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


class Part(Protocol):
  """The pairs of a tar, a table or a folder; must survive pickling."""

  @property
  def path(self) -> pathlib.Path:
    """Where they are."""

  def __len__(self) -> int: ...

  def key(self, row: int) -> str:
    """The name of a pair, unique in the part."""

  def photo(self, row: int) -> RawFile:
    """The photo; raises ValueError when it is read and cannot be."""

  def captions(self, row: int) -> tuple[str, ...]:
    """The captions without blank ones.

    Raises:
      ValueError: the text cannot be read.
    """


class Opened(NamedTuple):
  """A part, and a line for everything in it that cannot be used."""

  part: Part
  problems: tuple[str, ...]


def walk(root: pathlib.Path, *suffixes: str) -> Iterator[pathlib.Path]:
  """Files below a folder, or the file itself, sorted; hidden ones are left out.

  Args:
    root: folder or file.
    *suffixes: endings in lower case.
  """
  if root.is_file():
    if root.name.lower().endswith(suffixes):
      yield root
    return
  for folder, subfolders, names in os.walk(root, followlinks=True):
    subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
    for name in sorted(names):
      if name.lower().endswith(suffixes) and not name.startswith('.'):
        yield pathlib.Path(folder, name)


def clean(captions: object) -> tuple[str, ...]:
  """Captions of a value: a text, or several; blank ones are left out.

  Raises:
    ValueError: the value is neither.
  """
  several = captions if isinstance(captions, list | tuple) else [captions]
  if not all(isinstance(text, str) for text in several):
    raise ValueError(f'a caption is text, not {str(captions)[:60]!r}')
  return tuple(text.strip() for text in several if text.strip())


def parse_text(path: str, read: Callable[[], bytes]) -> tuple[str, ...]:
  """The captions of a text file or of a JSON.

  Args:
    path: for messages; the ending decides.
    read: gives the content.

  Raises:
    ValueError: it is neither; names the file.
  """
  try:
    text = read().decode()
    if not path.lower().endswith('.json'):
      return clean(text.splitlines())
    data = json.loads(text)
    names = [name for name in ('captions', 'caption', 'text') if data.get(name)]
    return clean(data[names[0]]) if names else ()
  except OSError as error:
    raise ValueError(f'{path} cannot be read ({error.strerror or error})') from error
  except (ValueError, AttributeError) as error:
    raise ValueError(
      f'{path} holds no captions ({error}): it must be text in UTF-8, or JSON with '
      "'caption'"
    ) from error
