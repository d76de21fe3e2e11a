"""What a client asks for: the form of a request, read and checked."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Literal, get_args

from starlette.datastructures import FormData, UploadFile

from maskclip_jax import photos
from maskclip_jax.deploy.server.settings import Refused, Settings
from maskclip_jax.names import shown, unknown
from maskclip_jax.plan import Plan
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import parse_scores
from maskclip_jax.text import syntax
from maskclip_jax.text.treatment import Treatment
from maskclip_jax.text.vocabulary import Vocabulary

Format = Literal['json', 'ids', 'overlay', 'zip']
MEDIA: dict[Format, str] = {
  'json': 'application/json',
  'ids': 'image/png',
  'overlay': 'image/png',
  'zip': 'application/zip',
}
# What each media type that a client accepts stands for.
_ACCEPTED: dict[str, Format] = {
  'application/json': 'json',
  'image/png': 'overlay',
  'application/zip': 'zip',
}
PHOTO = 'image'
# The fields of the form besides the photos: type, and what it is.
FIELDS: dict[str, tuple[type, str]] = {
  'words': (
    str,
    "What to look for: 'cat, dog, floor'; or with ';' between classes and ',' between "
    "the words of one: 'cat; sofa, couch; stuff:floor'.",
  ),
  'vocabulary': (str, 'In place of words, a bundled vocabulary: ade20k-150.'),
  'task': (str, 'panoptic (the default), semantic or instance.'),
  'format': (
    str,
    'json (the default), ids (PNG), overlay (PNG) or zip with all of them (the default '
    'of several photos). May also be in the query, or follow from Accept.',
  ),
  'object_threshold': (float, 'Least score of a segment, 0..1.'),
  'overlap_threshold': (float, 'Least visible share of a segment, 0..1.'),
  'background_threshold': (
    float,
    "SegCLIP: least score of a word where a class is called 'background', 0..1.",
  ),
  'scores': (str, 'How class scores are combined: unseen_weight=0.6, ...'),
  'top_k': (int, 'Most instances.'),
  'short_edge': (int, 'Resize the short side to this many pixels,'),
  'long_edge': (int, 'but the long side at most to this many.'),
  'white': (float, 'The number that is white in photos of more than 8 bits.'),
}
_CHOICES = (
  *('object_threshold', 'overlap_threshold', 'background_threshold'),
  *('top_k', 'short_edge', 'long_edge'),
)
# Larger ones are an attempt at something else.
_LONGEST_NAME = 200
# Detections that the model is compiled for.
_MOST_INSTANCES = 128
# Vocabularies whose parsing is remembered.
_REMEMBERED = 64


@dataclasses.dataclass(frozen=True)
class Upload:
  """A file of a request.

  Attributes:
    name: as the client calls it.
    stem: of the files of its results; no two of a request have the same.
    file: its content.
  """

  name: str
  stem: str
  file: BinaryIO


@dataclasses.dataclass(frozen=True)
class SegmentRequest:
  """A request that is valid.

  Attributes:
    uploads: the photos.
    plan: what to do with them.
    words_key: a hash of the words.
    format: of the answer.
    notes: what is likely to disappoint in the words.
  """

  uploads: tuple[Upload, ...]
  plan: Plan
  words_key: str
  format: Format
  notes: tuple[str, ...]


class RequestReader:
  """Reads requests for one model; only its preset is used, so any thread may.

  Args:
    segmenter: the model.
    settings: the limits.
  """

  def __init__(self, segmenter: Segmenter, settings: Settings):
    self._segmenter, self._settings = segmenter, settings
    self._vocabulary = functools.lru_cache(_REMEMBERED)(self._new_vocabulary)

  def read(
    self, form: FormData, query: Mapping[str, str], accept: str
  ) -> SegmentRequest:
    """The request.

    Args:
      form: its body.
      query: what follows `?` in its address.
      accept: its header of this name.

    Raises:
      Refused: what is wrong with it.
    """
    uploads, values = _split(form)
    for name in query:
      if name != 'format':
        raise Refused(400, f'{shown(name)} belongs into the form, not into the address')
    values = {**query, **values}
    for upload in uploads:
      self._check_photo(upload)
    try:
      words, key, notes = self._words(values)
      plan = self._plan(words, values)
    except ValueError as error:
      raise Refused(400, ' '.join(str(error).split())) from None
    answer = _format(values.get('format'), accept, several=len(uploads) > 1)
    return SegmentRequest(uploads, plan, key, answer, notes)

  def _check_photo(self, upload: Upload) -> None:
    try:
      height, width = photos.photo_size(upload.file, upload.name)
    except photos.PhotoTooLarge as error:
      raise Refused(413, str(error)) from None
    except ValueError as error:
      raise Refused(415, str(error)) from None
    most = self._settings.max_pixels
    if height * width > most:
      raise Refused(
        413,
        f'{upload.name} has {height * width / 1e6:.1f} megapixels, and at most '
        f'{most / 1e6:g} are taken: shrink or crop it',
      )

  def _words(self, values: Mapping[str, str]):
    """The vocabulary of the fields, its hash and notes."""
    words, name = values.get('words'), values.get('vocabulary')
    if words is not None and name is not None:
      raise ValueError('give either words or a vocabulary, not both')
    if name is not None:
      return self._vocabulary(name, True)
    return self._vocabulary(words, False)

  def _new_vocabulary(self, text: str | None, named: bool):
    segmenter = self._segmenter
    if segmenter.preset.vocabulary is not None or text is None:
      found = segmenter.vocabulary(text)
      return found, found.content_key(), ()
    if named:
      name, _, treatment = text.strip().partition('@')
      found = Vocabulary.named(name).treated(treatment or None)
    else:
      found = Vocabulary.parse(syntax.separated(text), files=False)
    found = segmenter.vocabulary(found)
    reads = found.treatment
    if reads.synonyms != Treatment.of(segmenter.preset.words).synonyms:
      # Rows of their own for words are another program.
      raise ValueError(
        f'this model does not read words as {reads.system} does: leave out what '
        'follows the @'
      )
    if (count := count_words(found)) > self._settings.max_words:
      raise ValueError(
        f'{count} words are too many: this server takes {self._settings.max_words}'
      )
    return found, found.content_key(), tuple(found.check())

  def _plan(self, words: Vocabulary, values: Mapping[str, str]) -> Plan:
    choices = {n: _number(n, values[n]) for n in _CHOICES if n in values}
    if 'scores' in values:
      choices |= parse_scores(values['scores'])
    if (count := choices.get('top_k', 1)) > _MOST_INSTANCES:
      raise ValueError(f'top_k must be at most {_MOST_INSTANCES}, not {count}')
    white = _number('white', values['white']) if 'white' in values else None
    closed = self._segmenter.preset.vocabulary
    task = values.get('task', 'panoptic').strip()
    plan = self._segmenter.plan(closed or words, task, white=white, **choices)
    if len(plan.tasks) > 1:
      raise ValueError(f'one task a request, not {len(plan.tasks)}')
    return plan


def count_words(vocabulary: Vocabulary) -> int:
  """The words of a vocabulary or the rows of its text bank, whichever are more.

  Raises:
    ValueError: the only class is one without words.
  """
  words = sum(len(category.words) for category in vocabulary.classes)
  return max(words, len(vocabulary.prompts()[1]))


def _split(form: FormData) -> tuple[tuple[Upload, ...], dict[str, str]]:
  """The files and the texts of a form."""
  files, values = [], {}
  for name, value in form.multi_items():
    is_file = isinstance(value, UploadFile)
    if name not in (PHOTO, *FIELDS):
      raise Refused(400, str(unknown('field', name, (PHOTO, *FIELDS))))
    if is_file != (name == PHOTO):
      kind = 'a text, not a file' if is_file else 'a file with a name, not a text'
      raise Refused(400, f'{name} must be {kind}')
    if is_file:
      files.append(value)
    elif name in values:
      raise Refused(400, f'{name} is given twice')
    elif value.strip():
      values[name] = value
  if not files:
    raise Refused(400, f'there is no photo: send a file in the field {PHOTO!r}')
  return _uploads(files), values


def _uploads(files: Sequence[UploadFile]) -> tuple[Upload, ...]:
  found, taken = [], set()
  for file in files:
    name = (file.filename or '').strip()
    if (
      not name
      or len(name) > _LONGEST_NAME
      or set(name) & {'/', '\\', ':'}
      or name.startswith('.')
      or not name.isprintable()
    ):
      raise Refused(
        400,
        f'{shown(name)} is not the name of a photo: send one without folders, such as '
        'photo.jpg',
      )
    base = stem = name.rpartition('.')[0] or name
    number = 1
    while stem.lower() in taken:
      number += 1
      stem = f'{base}_{number}'
    taken.add(stem.lower())
    found.append(Upload(name, stem, file.file))
  return tuple(found)


def _number(name: str, text: str) -> Any:
  """The value of a field of numbers."""
  kind, _ = FIELDS[name]
  try:
    return kind(text)
  except ValueError:
    what = 'an integer' if kind is int else 'a number'
    raise ValueError(f'{name} must be {what}, not {shown(text)}') from None


def _format(asked: str | None, accept: str, *, several: bool) -> Format:
  """The form of the answer, by field or query, else by what the client accepts."""
  if asked is not None:
    asked = asked.strip().lower()
    if asked not in get_args(Format):
      raise Refused(
        400, f'format must be json, ids, overlay or zip, not {shown(asked)}'
      )
    if several and asked != 'zip':
      raise Refused(400, 'several photos are answered as zip: leave out the format')
    return asked
  if several:
    return 'zip'
  types = [part.partition(';')[0].strip().lower() for part in accept.split(',')]
  return next((_ACCEPTED[kind] for kind in types if kind in _ACCEPTED), 'json')
