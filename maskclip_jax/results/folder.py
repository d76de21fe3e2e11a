"""A folder of results: whose its files are, what is there already, and all in one.

The JSON of a photo begins with `info`: the settings it was made with, the state of the
photo, and the files beside it. So a run that is started again makes only what is
missing, results are not taken for photos, and no file of anybody else is overwritten.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from maskclip_jax import atomic, plain
from maskclip_jax._version import __version__
from maskclip_jax.postprocess import OutputKind
from maskclip_jax.results.page import MARK, PageRow, index_page

PREDICTIONS, PAGE = 'predictions', 'index.html'
_PROGRAM = 'maskclip_jax'
_OVERLAY, _JSON, _PANOPTIC = '.overlay.png', '.json', '.panoptic.json'
_PICTURES = (_OVERLAY, '.panoptic.png', '.semantic.png', '.instance.png')
# How the JSON of this version begins, and that of 0.1.0, which had no `info`.
_BEGINNING = f'{{\n "info": {{\n  "description": "{_PROGRAM} '
_EARLIER = '{\n "images": [\n  {\n   "id": 1,\n   "file_name": "",'
_HEAD = 1 << 16


@dataclasses.dataclass(frozen=True)
class Entry:
  """The results of one photo, as the head of its JSON tells them.

  Attributes:
    stem: the path of the files in the folder, without endings.
    files: their names.
    settings: a key of all that decides them; '' for an earlier version's.
    photo: size and time of the photo they were made of.
    image: COCO's row of the photo.
  """

  stem: str
  files: tuple[str, ...]
  settings: str = ''
  photo: Mapping[str, int] = dataclasses.field(default_factory=dict)
  image: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def still_holds(
    self, settings: str, photo: pathlib.Path, folder: pathlib.Path
  ) -> bool:
    """Whether making the results again would give the same, and all files are there."""
    place = (folder / self.stem).parent
    return (
      self.settings == settings
      and self.photo == photo_state(photo)
      and all((place / name).is_file() for name in self.files)
    )


def result_names(stem: str, tasks: Sequence[OutputKind]) -> tuple[str, ...]:
  """The files that a prediction with a photo is saved in, as `Prediction.save` does."""
  endings = [f'.{task}.png' for task in tasks] + [_JSON, _OVERLAY]
  if {'panoptic', 'instance'} <= set(tasks):
    endings.append(_PANOPTIC)
  return tuple(stem + ending for ending in endings)


def settings_key(settings: Mapping[str, Any]) -> str:
  """A key of everything that decides the results, this version among it."""
  text = json.dumps({'version': __version__, **settings}, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def photo_state(path: pathlib.Path) -> dict[str, int]:
  """What tells that a photo has not changed; empty if it cannot be seen."""
  try:
    found = path.stat()
  except OSError:
    return {}
  return {'bytes': found.st_size, 'modified': found.st_mtime_ns}


def make_info(
  model: str, settings: str, photo: Mapping[str, int], files: Sequence[str]
) -> dict[str, Any]:
  """COCO's `info` of a photo's results, which `read_entry` reads again."""
  return {
    'description': f'{_PROGRAM} {__version__}',
    'model': model,
    'settings': settings,
    'photo': dict(photo),
    'files': [pathlib.PurePath(name).name for name in files],
  }


def read_entry(path: pathlib.Path, stem: str) -> Entry | None:
  """What the JSON of a photo tells; None if we did not write it.

  Args:
    path: the file.
    stem: its path in the folder, without the ending.
  """
  if not path.is_file():
    return None
  name = pathlib.PurePath(stem).name
  with path.open(encoding='utf-8', errors='replace') as file:
    text = file.read(_HEAD)
    if text.startswith(_EARLIER):
      return Entry(stem, tuple(name + e for e in (*_PICTURES, _JSON)))
    if not text.startswith(_BEGINNING):
      return None
    head = _Head(text, file)
    try:
      info, (image, *_) = head.value('info'), head.value('images')
      files, settings, photo = (info[key] for key in ('files', 'settings', 'photo'))
      if name + _OVERLAY not in files:
        return None  # The panoptic form of another stem, or a merged file.
      return Entry(stem, tuple(files), settings, photo, dict(image))
    except (ValueError, KeyError, TypeError, RecursionError):
      return None  # Somebody changed it, so it is theirs.


def is_result(path: pathlib.Path) -> bool:
  """Whether a picture is a result, and not a photo."""
  for ending in _PICTURES:
    if path.name.endswith(ending):
      stem = path.name.removesuffix(ending)
      entry = read_entry(path.with_name(stem + _JSON), stem)
      return entry is not None and path.name in entry.files
  return False


def other_results(
  folder: pathlib.Path, stem: str, kept: Sequence[str]
) -> list[pathlib.Path]:
  """Results of a photo that its new JSON will not list.

  Nothing would say what is in them, and the next run would take them for photos.

  Args:
    folder: where the results are.
    stem: the photo's.
    kept: paths in the folder that will be written.
  """
  entry = read_entry(folder / (stem + _JSON), stem)
  if entry is None:
    return []
  names = {pathlib.PurePath(name).name for name in kept}
  place = (folder / stem).parent
  others = [
    place / name
    for name in map(str, entry.files)
    if name not in names and pathlib.PurePath(name).name == name
  ]
  return [path for path in others if path.is_file() and not path.is_symlink()]


def entries(folder: pathlib.Path, stems: Sequence[str]) -> dict[str, Entry]:
  """The results in a folder: what its merged file lists, and what lies beside stems.

  Args:
    folder: where the results go.
    stems: the stems of photos; only the directories they are in are searched.
  """
  found = dict.fromkeys(_listed(folder))
  for place in {pathlib.PurePath(stem).parent for stem in stems}:
    for path in sorted((folder / place).glob(f'*{_JSON}')):
      found[str(place / path.stem)] = None
  read = ((stem, read_entry(folder / f'{stem}{_JSON}', stem)) for stem in found)
  return {stem: entry for stem, entry in read if entry is not None}


def _listed(folder: pathlib.Path) -> tuple[str, ...]:
  path = folder / f'{PREDICTIONS}{_JSON}'
  if not is_ours(path):
    return ()
  # What was changed lists nothing, and the results beside the photos are found.
  with (
    contextlib.suppress(ValueError, KeyError, TypeError, RecursionError),
    path.open(encoding='utf-8', errors='replace') as file,
  ):
    info = _Head(file.read(_HEAD), file).value('info')
    return tuple(map(str, info['results']))
  return ()


def is_ours(path: pathlib.Path) -> bool:
  """Whether we wrote a merged file or the page."""
  if not path.is_file():
    return False
  with path.open(encoding='utf-8', errors='replace') as file:
    text = file.read(_HEAD)
  return text.startswith(_BEGINNING) or MARK in text


class _Head:
  """The first values of a JSON object, without reading what follows them."""

  def __init__(self, text: str, file: TextIO):
    self._text, self._file = text, file

  def value(self, key: str) -> Any:
    """The value of a key that stands on a line of its own.

    Raises:
      ValueError: the file ends before.
    """
    decoder = json.JSONDecoder()
    while True:
      begin = self._text.find(f'\n "{key}": ')
      try:
        if begin >= 0:
          return decoder.raw_decode(self._text, begin + len(key) + 6)[0]
        raise ValueError(f'no {key}')
      except ValueError:
        more = self._file.read(len(self._text))
        if not more:
          raise
        self._text += more


def write_merged(
  folder: pathlib.Path,
  found: Sequence[Entry],
  model: str,
  failures: Mapping[str, str],
) -> list[pathlib.Path]:
  """Writes all photos' JSON as one, and a page to look at them.

  Annotations are numbered anew; ids of photos stay. Panoptic segments have a file of
  their own where there are detections too.

  Args:
    folder: the folder of results.
    found: the results, all of the same settings.
    model: its name.
    failures: by name of the photo, why it has none.

  Raises:
    OSError: the folder cannot be written to.
  """
  info = make_info(model, found[0].settings, {}, ())
  info['results'] = [entry.stem for entry in found]
  written, rows = [], []
  for ending in (_JSON, _PANOPTIC):
    chosen = [e for e in found if pathlib.PurePath(e.stem).name + ending in e.files]
    path = folder / f'{PREDICTIONS}{ending}'
    if not chosen:
      if is_ours(path):
        path.unlink()  # Of other tasks or words.
      continue
    with atomic.file(path) as part, part.open('w', encoding='utf-8') as file:
      merged = _write_one(file, info, folder, chosen, ending)
    rows = rows or merged
    written.append(path)
  page = folder / PAGE
  atomic.write(page, index_page(rows, failures))
  return [*written, page]


def _write_one(
  file: TextIO,
  info: Mapping[str, Any],
  folder: pathlib.Path,
  found: Sequence[Entry],
  ending: str,
) -> list[PageRow]:
  """Writes one merged file photo by photo; returns the rows of the page."""

  def contents() -> Iterator[tuple[Entry, dict[str, Any]]]:
    for entry in found:
      yield entry, plain.read_json(folder / f'{entry.stem}{ending}')

  first = next(contents())[1]
  images = [entry.image for entry in found]
  head = {'info': info, 'images': images, 'categories': first['categories']}
  file.write(json.dumps(head, ensure_ascii=False, indent=1).removesuffix('\n}'))
  rows = []
  for key in ('annotations', 'semantic'):
    if key not in first:
      continue
    number, comma = 0, ''
    file.write(f',\n "{key}": [')
    for entry, content in contents():
      for row in content[key]:
        number += 1
        file.write(comma + '\n  ' + json.dumps(_in_folder(row, number, entry.stem)))
        comma = ','
      if key == ('annotations' if 'annotations' in first else 'semantic'):
        rows.append(_page_row(entry, content[key]))
    file.write('\n ]')
  file.write('\n}\n')
  return rows


def _in_folder(row: dict[str, Any], number: int, stem: str) -> dict[str, Any]:
  """A row of a photo as a row of the folder."""
  if 'segments_info' in row:
    return row | {'file_name': str(pathlib.PurePath(stem).parent / row['file_name'])}
  return row | {'id': number}


def _page_row(entry: Entry, rows: Sequence[Mapping[str, Any]]) -> PageRow:
  parts = [part for row in rows for part in row.get('segments_info', [row])]
  return PageRow(
    entry.image['file_name'],
    f'{entry.stem}{_OVERLAY}',
    f'{entry.stem}{_JSON}',
    tuple(part['category_name'] for part in parts),
  )
