"""Labels as a picture for each photo, whose values or colours are the classes."""

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8
from PIL import Image, UnidentifiedImageError

from maskclip_jax.data import records
from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.captioned import short_key
from maskclip_jax.data.described import VALUES
from maskclip_jax.data.own import classes, files
from maskclip_jax.data.own.annotated import (
  Annotated,
  LabelledPhoto,
  LabelMap,
  Labels,
  OwnData,
)
from maskclip_jax.names import shown
from maskclip_jax.photos import SUFFIXES
from maskclip_jax.text.vocabulary import Vocabulary

_LOSSLESS = ('.png', '.bmp', '.tif', '.tiff', '.gif')
_FORMATS = ('PNG', 'BMP', 'TIFF', 'GIF')
_LOSSY = ('.jpg', '.jpeg', '.webp')
# What stands for pixels of no class where masks are colours.
_UNNAMED = 255
# More values of no class than a table could lack.
_SMEARED = 20


@dataclasses.dataclass(frozen=True)
class _Table:
  """What the values and colours of masks mean.

  Attributes:
    known: which values are of a class or ignored.
    colours: id by colour, red + 256 green + 65536 blue; empty if classes have none.
    ignore: values that are not judged.
  """

  known: Bool[np.ndarray, ' values']
  colours: Mapping[int, int]
  ignore: tuple[int, ...]


def read(given: OwnData) -> Annotated:
  """Pairs photos with their masks, by name; photos without a mask are left out.

  Folders named after a split are that split.

  Raises:
    FileNotFoundError: there are no photos or masks, or a mask has no photo.
    ValueError: classes that are not told or not numbered, or masks in a lossy format.
  """
  if given.masks is None or given.classes is None:
    lacking = '--masks DIR' if given.masks is None else '--classes FILE'
    raise ValueError(f'--from masks needs {lacking}')
  words, notes = classes.numbered(Vocabulary.parse(given.classes))
  if any(category.color is not None for category in words.classes):
    notes = []  # Colours tell the classes.
  masks, photos = _masks(given), files.FileIndex(given.images, SUFFIXES, 'photos')
  photos = photos.without(masks)
  pairs, paired_notes = _pairs(photos, masks)
  table = _table(words, given)
  by_folder = files.by_folder(pairs) or files.by_folder(pairs.values())
  splits: dict[str, list[LabelledPhoto]] = {}
  for path, mask in pairs.items():
    split = by_folder.get(path) or by_folder.get(mask) or 'train'
    key = short_key(path.rpartition('.')[0])
    one = functools.partial(_labels, masks.files[mask], table)
    splits.setdefault(split, []).append(LabelledPhoto(key, photos.files[path], one))
  return Annotated(
    words,
    splits,
    ('semantic',),
    (given.images, given.masks),
    table.ignore,
    (*notes, *paired_notes, *_ignored(table)),
  )


def _ignored(table: _Table) -> list[str]:
  """What is not judged, in words."""
  if not table.ignore:
    return []
  values = ' or '.join(map(str, table.ignore))
  if not table.colours:
    return [f'pixels of value {values} are not judged']
  unnamed = [
    name
    for name, code in (('black', 0), ('white', 0xFFFFFF))
    if code not in table.colours
  ]
  return [f'{" and ".join(unnamed)} pixels are not judged'] if unnamed else []


def _masks(given: OwnData) -> files.FileIndex:
  try:
    return files.FileIndex(given.masks, _LOSSLESS, 'masks')
  except FileNotFoundError:
    lossy = files.FileIndex(given.masks, _LOSSY, 'masks')
  raise ValueError(
    f'{next(iter(lossy.files.values())).path} is a mask in a lossy format, which '
    'smears the values of classes into each other: export the masks as PNG'
  )


def _table(words: Vocabulary, given: OwnData) -> _Table:
  """What masks may hold.

  Raises:
    ValueError: a value is a class and ignored, or two classes have one colour.
  """
  known, colours = np.zeros(VALUES, bool), dict[int, int]()
  for category in words.classes:
    if category.id in given.ignore:
      raise ValueError(
        f'class {shown(category.name)} has the id {category.id}, which is not judged: '
        'say --ignore none, or leave the class out of --classes'
      )
    known[category.id] = True
    if category.color is not None:
      code = sum(
        c << shift for c, shift in zip(category.color, (0, 8, 16), strict=True)
      )
      if code in colours:
        raise ValueError(
          f'class {shown(category.name)} has the colour {list(category.color)}, as '
          'another one: give each its own'
        )
      colours[code] = category.id
  known[list(given.ignore)] = True
  return _Table(known, colours, given.ignore)


def _pairs(
  photos: files.FileIndex, masks: files.FileIndex
) -> tuple[dict[str, str], list[str]]:
  """Path of the mask by path of the photo, and what is left over.

  Raises:
    FileNotFoundError: a mask has no photo.
    ValueError: two photos or masks of one name.
  """
  stems = _by_stem(photos)
  by_stem, ending = _by_stem(masks), ''
  if not set(by_stem) & set(stems):
    ending = _ending(by_stem, stems)
  pairs, lost = {}, []
  for stem, mask in by_stem.items():
    photo = stems.get(stem.removesuffix(ending) if ending else stem)
    if photo is None:
      lost.append(mask)
    else:
      pairs[photo] = mask
  if lost:
    raise FileNotFoundError(
      f'{len(lost)} of {len(by_stem)} masks under {masks.root} have no photo of their '
      f'name under {photos.root} ({classes.listed(lost)}): add the photos, or remove '
      'the masks'
    )
  notes = [f'masks are called like their photos with {ending!r}'] if ending else []
  if bare := [path for path in stems.values() if path not in pairs]:
    notes.append(f'{len(bare)} photos have no mask ({classes.listed(bare)}): left out')
  return dict(sorted(pairs.items())), notes


def _by_stem(index: files.FileIndex) -> dict[str, str]:
  """Path by stem in lower case; with case or folders where only these tell two apart.

  Raises:
    ValueError: two files differ in their ending alone.
  """
  paths = [path.rpartition('.')[0] for path in index.files]
  names = [path.rpartition('/')[2] for path in paths]
  lower = [name.lower() for name in names]
  stems = next((some for some in (lower, names) if len(set(some)) == len(some)), paths)
  found: dict[str, str] = {}
  for stem, path in zip(stems, index.files, strict=True):
    if stem in found:
      raise ValueError(
        f'{found[stem]} and {path} under {index.root} have one name: keep one of them, '
        'or give another folder'
      )
    found[stem] = path
  return found


def _ending(masks: Mapping[str, str], photos: Mapping[str, str]) -> str:
  """What all masks have behind the names of their photos, such as '_mask'; or ''."""
  first = next(iter(masks))
  begins = [stem for stem in photos if first.startswith(stem)]
  return first.removeprefix(max(begins, key=len)) if begins else ''


def _labels(file: RawFile, table: _Table) -> Labels:
  """Reads a mask.

  Raises:
    ValueError: it cannot be read, or has values or colours of no class.
  """
  data = file.read()
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      image.load()
      png, values = _values(file, image, data, table)
  except UnidentifiedImageError:
    raise ValueError(
      f'{file.path} is not a mask in {", ".join(_FORMATS)}: export it again, as PNG'
    ) from None
  except (OSError, SyntaxError) as error:
    raise ValueError(
      f'{file.path} is a damaged mask ({error}): export it again'
    ) from error
  return Labels(values.shape, semantic=LabelMap(png, values))


def _values(
  file: RawFile, image: Image.Image, data: bytes, table: _Table
) -> tuple[bytes, Int32[np.ndarray, 'h w']]:
  """A mask as it is stored: its own bytes where their values are ids.

  Of grey and palettes colours decide where the classes know all of them, otherwise the
  values. A palette of which they know some is refused: it may be in any order.
  """
  if image.mode in ('RGB', 'RGBA', 'LA', 'PA'):
    values = _coloured(file, _opaque(file, image), table)
    return records.write_label_map(values), values
  if table.colours and image.mode in ('1', 'L', 'P'):
    pixels = np.asarray(image.convert('RGB'))
    unknown = ~np.isin(_codes(pixels)[1], list(table.colours))
    ignored = unknown & np.isin(np.asarray(image), table.ignore) & (image.mode == 'P')
    some = (pixels[~unknown] > 0).any()
    if (unknown == ignored).all() or (image.mode == 'P' and some):
      values = _coloured(file, np.where(ignored[..., None], 0, pixels), table)
      if ignored.any():
        values[ignored] = table.ignore[0]
      return records.write_label_map(values), values
  values = np.asarray(image)
  if values.dtype.kind not in 'biu' or values.ndim != 2:
    raise ValueError(
      f'{file.path} is a mask of kind {image.mode}, not whole numbers or colours: '
      'export it as PNG with 8 bits'
    )
  values = values.astype(np.int32)
  if strange := _strange(values, table):
    raise ValueError(_unknown(file, strange, values, table))
  # Of a PNG the byte 24 is the depth; grey of fewer bits is scaled by its decoder.
  kept = image.format == 'PNG' and (image.mode == 'P' or data[24] in (8, 16))
  return data if kept else records.write_label_map(values), values


def _opaque(file: RawFile, image: Image.Image) -> UInt8[np.ndarray, 'h w 3']:
  """The colours of a mask without its alpha.

  Raises:
    ValueError: some of it is transparent.
  """
  pixels = np.asarray(image.convert('RGBA'))
  if (pixels[..., 3] < 255).any():
    raise ValueError(
      f'{file.path} has transparent pixels, which are of no class: export the masks '
      'without alpha'
    )
  return pixels[..., :3]


def _coloured(
  file: RawFile, pixels: UInt8[np.ndarray, 'h w 3'], table: _Table
) -> Int32[np.ndarray, 'h w']:
  """Ids of the colours of a mask; black and white are of no class if none has them.

  Raises:
    ValueError: a colour that no class has, or none of them has any.
  """
  if not table.colours:
    if (pixels == pixels[..., :1]).all():
      values = pixels[..., 0].astype(np.int32)
      if strange := _strange(values, table):
        raise ValueError(_unknown(file, strange, values, table))
      return values
    raise ValueError(
      f'{file.path} is in colours, and the classes have none: give each its colour in '
      '--classes, as columns r, g, b of a table, or export masks of class numbers'
    )
  found, codes = _codes(pixels)
  unnamed = table.ignore[0] if table.ignore else _UNNAMED
  ids = np.array([table.colours.get(code, -1) for code in found.tolist()], np.int32)
  for code, value in zip(found.tolist(), ids.tolist(), strict=True):
    if value < 0 and (code not in (0, 0xFFFFFF) or not table.ignore):
      colour = [code & 255, code >> 8 & 255, code >> 16]
      share = (codes == code).mean()
      raise ValueError(
        f'{file.path} has the colour {colour} ({100 * share:.1f} % of it), which no '
        'class has: add it to --classes; colours that were smoothed (by scaling, or '
        'JPEG) cannot be told apart'
      )
  ids[ids < 0] = unnamed
  return ids[np.searchsorted(found, codes)]


def _codes(
  pixels: UInt8[np.ndarray, 'h w 3'],
) -> tuple[Int64[np.ndarray, ' n'], Int32[np.ndarray, 'h w']]:
  """The colours that there are, ascending, and that of each pixel; see `_Table`."""
  red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
  codes = red | green << 8 | blue << 16
  # Sorting the pixels of a large mask would take a second.
  there = np.zeros(1 << 24, bool)
  there[codes] = True
  return np.flatnonzero(there), codes


def _strange(values: Int32[np.ndarray, 'h w'], table: _Table) -> list[int]:
  """Values that are of no class and not ignored."""
  found = np.unique(values)
  inside = (found >= 0) & (found < VALUES)
  known = inside & table.known[np.where(inside, found, 0)]
  return found[~known].tolist()


def _unknown(
  file: RawFile,
  strange: Sequence[int],
  values: Int32[np.ndarray, 'h w'],
  table: _Table,
) -> str:
  """What to say of values that no class has."""
  known = np.flatnonzero(table.known).tolist()
  ids = [str(value) for value in known if value not in table.ignore]
  why = 'number the classes as the masks do, in --classes'
  if len(strange) > _SMEARED:
    why = 'so many values mean that the masks were scaled, or saved lossily'
  elif set(np.unique(values).tolist()) == {0, 255}:
    why = 'of masks in black and white number the class 255, and say --ignore 0'
  elif strange == [0]:
    why += ', or say --ignore 0,255 if 0 stands for no class'
  return (
    f'{file.path} has the value {classes.listed([str(value) for value in strange])}, '
    f'and the classes are {classes.listed(ids)}: {why}'
  )
