"""Photos with captions as people have them: folders, webdataset tars, parquet, lists.

  photos = open_captioned('cc3m')    # a folder of 00000.tar, 00001.tar, ...
  record = photos[0]                # see records.py: `image`, `captions`, `image_id`

These are a source like that of a built dataset (`sources.open_source`), so whatever
reads one reads the other. Training reads built datasets, whose photos were checked:
`data build NAME --from captions --raw DIR` makes one of any of these forms
(`builders/captions.py`). Sources: [segclip 3.1], [ovseg 5.8].
"""

import bisect
import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal

from maskclip_jax.data import records
from maskclip_jax.data.builders.files import read_photo
from maskclip_jax.data.captioned import beside, tables
from maskclip_jax.data.captioned.part import Opened, Part
from maskclip_jax.data.examples import ID_BYTES

OnError = Literal['stop', 'skip']

# Photos smaller than a patch of the usual towers show nothing: on the web they are
# counters of visits and empty banners.
LEAST_SIDE = 16

# In this order, since some forms come with files that look like another: beside its
# tars img2dataset writes parquet tables without photos.
_FORMS: tuple[Callable[[pathlib.Path], list[Opened]], ...] = (
  beside.open_tars,
  tables.open_coco,
  tables.open_lists,
  beside.open_folders,
  tables.open_parquet,
)


@dataclasses.dataclass(frozen=True)
class CaptionedPhotos(Sequence[records.Record]):
  """All pairs of a folder, in the order of its files; may be pickled.

  Attributes:
    root: the folder.
    parts: its tars, tables or folders.
    refused: what cannot be used, a line for each; empty unless it is to be skipped.
    least_side: photos of which a side has fewer pixels are refused when read.
  """

  root: pathlib.Path
  parts: tuple[Part, ...]
  refused: tuple[str, ...] = ()
  least_side: int = LEAST_SIDE

  def __post_init__(self):
    ends = itertools.accumulate(len(part) for part in self.parts)
    object.__setattr__(self, '_ends', tuple(ends))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def _place(self, index: int) -> tuple[Part, int]:
    if not -len(self) <= index < len(self):
      raise IndexError(f'{self.root} has {len(self)} pairs, so no number {index}')
    index %= len(self)
    number = bisect.bisect_right(self._ends, index)
    part = self.parts[number]
    return part, index - (self._ends[number] - len(part))

  def key(self, index: int) -> str:
    """The name of a pair, its `image_id`; needs no reading."""
    part, row = self._place(index)
    if part.path == self.root:
      return short_key(part.key(row))
    relative = part.path.relative_to(self.root).with_suffix('').as_posix()
    return short_key(f'{relative}/{part.key(row)}')

  def __getitem__(self, index: int) -> records.Record:
    """Reads a pair.

    Raises:
      IndexError: there is no such pair.
      ValueError: its photo is damaged or too small, or it has no caption.
    """
    part, row = self._place(index)
    file = part.photo(row)
    captions = part.captions(row)
    if not captions:
      raise ValueError(f'{file.path} has no caption: its text is empty')
    data, (height, width) = read_photo(file)
    if min(height, width) < self.least_side:
      raise ValueError(
        f'{file.path} is {width} x {height} pixels, less than a patch of '
        f'{self.least_side}: remove it'
      )
    return records.make(
      data, self.key(index), file.name, (height, width), captions=captions
    )

  def fingerprint(self) -> str:
    """Changes when a file of the folder is replaced."""
    digest = hashlib.sha256()
    for part in self.parts:
      name = part.path.relative_to(self.root).as_posix()
      digest.update(f'{name} {len(part)} {part.path.stat().st_size}\n'.encode())
    return digest.hexdigest()


def open_captioned(
  root: str | os.PathLike, *, on_error: OnError = 'stop', least_side: int = LEAST_SIDE
) -> CaptionedPhotos:
  """Finds the pairs under a folder.

  The first of these forms that is there is read, in all subfolders: webdataset tars
  (photo and text of the same name follow each other); a JSON of COCO's captions; a CSV
  or TSV list of paths and captions, as of CC3M; photos, each beside a text of the same
  name (`.txt`, a caption a line, or `.json` with `caption`); parquet tables with photos
  in them.

  Args:
    root: the folder, or one file of it.
    on_error: whether what cannot be used (a photo without caption, a damaged tar) stops
      or is left out and listed in `refused`.
    least_side: see `CaptionedPhotos`.

  Raises:
    FileNotFoundError: there is no such folder, or no pairs in it.
    ValueError: something in it cannot be used.
  """
  root = pathlib.Path(root).expanduser()
  if not root.exists():
    raise FileNotFoundError(f'no folder {root}: give the one with photos and captions')
  opened = next(filter(None, (form(root) for form in _FORMS)), [])
  problems = tuple(problem for one in opened for problem in one.problems)
  parts = tuple(one.part for one in opened if len(one.part))
  if problems and (on_error == 'stop' or not parts):
    more = f' ({len(problems) - 1} more)' if problems[1:] else ''
    raise ValueError(f'{problems[0]}{more}; or leave such out: --on_error skip')
  if not parts:
    raise FileNotFoundError(
      f'no pairs under {root}: looked for tars (webdataset), a JSON of COCO captions, '
      'a CSV or TSV list, photos beside .txt files, and parquet tables'
    )
  base = root if root.is_dir() else root.parent
  return CaptionedPhotos(base, parts, problems, least_side)


def short_key(key: str) -> str:
  """A key that fits where image ids do: long ones end with a digest of the whole."""
  data = key.encode()
  if len(data) <= ID_BYTES:
    return key
  digest = hashlib.sha256(data).hexdigest()[:16]
  return data[: ID_BYTES - 17].decode(errors='ignore') + f'-{digest}'
