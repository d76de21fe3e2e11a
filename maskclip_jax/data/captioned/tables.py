"""Photos and captions that a table lists: COCO's captions, CSV and TSV files, parquet.

The photos of the first two are files of their own; parquet holds them in a column.
"""

import csv
import dataclasses
import functools
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from maskclip_jax.data.builders import coco_json
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.captioned.part import PHOTOS, Opened, clean, walk

# Names of columns as people write them, in lower case.
_PATH_COLUMNS = ('filepath', 'file_path', 'path', 'file_name', 'filename', 'image')
_CAPTION_COLUMNS = ('captions', 'caption', 'title', 'text', 'sentence', 'sentences')
_KEY_COLUMNS = ('key', 'image_id', 'id')
_PHOTO_COLUMNS = ('image', 'jpg', 'jpeg', 'png', 'webp', 'image_bytes', 'bytes')


@dataclasses.dataclass(frozen=True)
class _Table:
  """Pairs whose names and captions a table holds.

  Attributes:
    path: the table.
    keys: names of the pairs.
    texts: their captions.
  """

  path: pathlib.Path
  keys: tuple[str, ...]
  texts: tuple[tuple[str, ...], ...]

  def __len__(self) -> int:
    return len(self.keys)

  def key(self, row: int) -> str:
    return self.keys[row]

  def captions(self, row: int) -> tuple[str, ...]:
    return self.texts[row]


@dataclasses.dataclass(frozen=True)
class Listed(_Table):
  """Photos that a list names.

  Attributes:
    files: the photos.
  """

  files: tuple[pathlib.Path, ...]

  def photo(self, row: int) -> RawFile:
    file = self.files[row]
    return RawFile(str(file), file.name, file.read_bytes)


def _listed(
  path: pathlib.Path,
  rows: Mapping[str, tuple[pathlib.Path | None, Sequence[str]]],
) -> Opened:
  """The pairs of a list: by key, the photo (None: there is none) and its captions."""
  problems, kept = [], {}
  for key, (file, captions) in rows.items():
    texts = clean(captions)
    if file is None:
      problems.append(f'{path} lists {key}, which is not there: fetch it')
    elif not texts:
      problems.append(f'{file} has no caption in {path}: add one')
    else:
      kept[key] = file, texts
  files = tuple(file for file, _ in kept.values())
  texts = tuple(captions for _, captions in kept.values())
  return Opened(Listed(path, tuple(kept), texts, files), tuple(problems))


def open_coco(root: pathlib.Path) -> list[Opened]:
  """The JSON files of COCO's captions below a folder, with the photos they list."""
  opened, photos = [], None
  for path in walk(root, '.json'):
    if 'captions' not in path.name.lower():
      continue
    if photos is None:
      folder = root if root.is_dir() else root.parent
      photos = {file.name: file for file in walk(folder, *PHOTOS)}
    file = RawFile(str(path), path.name, path.read_bytes)
    data = coco_json.load(file, 'images', 'annotations')
    names = coco_json.photos(file, data)
    captions = coco_json.captions(file, data, names)
    rows = {
      str(number): (photos.get(name), captions.get(number, ()))
      for number, name in names.items()
    }
    opened.append(_listed(path, rows))
  return opened


def open_lists(root: pathlib.Path) -> list[Opened]:
  """The CSV and TSV files below a folder; paths are relative to them."""
  return [_open_list(path) for path in walk(root, '.tsv', '.csv')]


def _open_list(path: pathlib.Path) -> Opened:
  try:
    with path.open(newline='', encoding='utf-8') as file:
      first = file.readline()
      file.seek(0)
      rows = list(csv.reader(file, delimiter='\t' if '\t' in first else ','))
  except (OSError, ValueError, csv.Error) as error:
    raise ValueError(f'{path} cannot be read as a list ({error})') from error
  header = [name.strip().lower() for name in rows[0]] if rows else []
  where, what = _first(_PATH_COLUMNS, header), _first(_CAPTION_COLUMNS, header)
  body = rows[1:]
  if where is None or what is None:
    where, what, body = *_columns(path, rows), rows
  found: dict[str, tuple[pathlib.Path | None, list[str]]] = {}
  short = []
  for number, row in enumerate(body, 1 + len(rows) - len(body)):
    if len(row) <= max(where, what):
      # An empty line is nothing that is missing.
      short += [f'{path}: line {number} lacks a column: complete it'] if row else []
      continue
    file = path.parent / row[where].strip()
    known = found.setdefault(row[where].strip(), (file if file.is_file() else None, []))
    known[1].append(row[what])
  part, problems = _listed(path, found)
  return Opened(part, (*short, *problems))


def _columns(path: pathlib.Path, rows: Sequence[Sequence[str]]) -> tuple[int, int]:
  """Which of two columns without a head has paths, and which captions.

  Raises:
    ValueError: neither names a file.
  """
  cells = rows[0] if rows else ()
  for where, cell in enumerate(cells[:2]):
    if (path.parent / cell.strip()).is_file() and len(cells) > 1:
      return where, 1 - where
  if any('://' in cell for cell in cells):
    raise ValueError(
      f'{path} lists addresses and not files: fetch the photos first, for example by '
      'img2dataset, and give its tars'
    )
  raise ValueError(
    f"{path} names no photo: it needs a head such as 'filepath' and 'caption', or two "
    'columns, one with paths relative to it'
  )


def _first(wanted: Sequence[str], names: Sequence[str]) -> int | None:
  """Where the first wanted name is."""
  return next((names.index(name) for name in wanted if name in names), None)


@dataclasses.dataclass(frozen=True)
class ParquetTable(_Table):
  """Pairs of a parquet file; photos are read a row group at a time.

  Attributes:
    column: that of the photos: bytes, or a struct with a field 'bytes'.
    places: row group of each pair, and its row there.
  """

  column: str
  places: tuple[tuple[int, int], ...]

  def photo(self, row: int) -> RawFile:
    path = f'{self.path}:{self.keys[row]}'
    return RawFile(path, self.keys[row], functools.partial(self._read, row))

  def _read(self, row: int) -> bytes:
    group, position = self.places[row]
    # Threads that want the same group wait for one reading of it.
    with _READING:
      value = _row_group(self.path, group, self.column)[position].as_py()
    return (value.get('bytes') if isinstance(value, dict) else value) or b''


_READING = threading.Lock()


def _parquet() -> Any:
  try:
    import pyarrow.parquet
  except ImportError as error:
    raise ValueError(
      'parquet tables need pyarrow: pip install maskclip_jax[parquet]'
    ) from error
  return pyarrow.parquet


@functools.lru_cache(maxsize=2)
def _row_group(path: pathlib.Path, group: int, column: str) -> Any:
  return _parquet().ParquetFile(path).read_row_group(group, [column]).column(0)


def open_parquet(root: pathlib.Path) -> list[Opened]:
  """The parquet files below a folder.

  Raises:
    ValueError: pyarrow is not installed, or a file has no photos.
  """
  return [_open_parquet(path) for path in walk(root, '.parquet')]


def _open_parquet(path: pathlib.Path) -> Opened:
  arrow = _parquet()
  try:
    table = arrow.ParquetFile(path)
  except (OSError, ValueError) as error:
    raise ValueError(f'{path} is not a parquet file or is cut off ({error})') from error
  names = table.schema_arrow.names
  lower = [name.lower() for name in names]
  photo, caption = _first(_PHOTO_COLUMNS, lower), _first(_CAPTION_COLUMNS, lower)
  if photo is None or caption is None:
    lacks = 'photos' if photo is None else 'captions'
    raise ValueError(
      f'{path} has no column of {lacks}: there are {", ".join(names)}, and one of '
      f'{", ".join(_PHOTO_COLUMNS if photo is None else _CAPTION_COLUMNS)} is needed'
    )
  key = _first(_KEY_COLUMNS, lower)
  wanted = [names[column] for column in (caption, key) if column is not None]
  keys, places, texts, problems = [], [], [], []
  for group in range(table.num_row_groups):
    columns = table.read_row_group(group, wanted).to_pydict()
    for row, value in enumerate(columns[names[caption]]):
      number = columns[names[key]][row] if key is not None else f'{group}-{row:06d}'
      captions = clean(_texts(value))
      if not captions:
        problems.append(f'{path}:{number} has no caption: remove the row')
        continue
      keys.append(str(number))
      places.append((group, row))
      texts.append(captions)
  part = ParquetTable(path, tuple(keys), tuple(texts), names[photo], tuple(places))
  return Opened(part, tuple(problems))


def _texts(value: object) -> object:
  """A caption cell: text, a list of texts, or nothing."""
  if value is None:
    return []
  return [text for text in value if text] if isinstance(value, list) else value
