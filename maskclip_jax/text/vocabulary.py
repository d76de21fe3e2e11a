"""Vocabularies: which classes to look for, in words.

`Vocabulary.parse('cat; sofa, couch; stuff:floor')` reads typed text, a file or the name
of a bundled vocabulary. A treatment (of MaskCLIP, MasQCLIP, OVSeg or SegCLIP;
[masqclip 6], [ovseg 6], [segclip 4.1]) says how its words become vectors.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from maskclip_jax import atomic
from maskclip_jax.names import shown, unknown
from maskclip_jax.text import library, lint, syntax, tokenizer, vocabulary_files
from maskclip_jax.text.category import Category, normal
from maskclip_jax.text.treatment import Treatment

# Of an object that has its classes in a list; another has them by name or number.
_HEADS = {'classes', 'categories'}
_HEAD_KEYS = (
  *('name', 'provenance', 'treatment', 'treatments', 'classes', 'categories'),
  # What a built dataset says about itself beside its words (`data/described.py`).
  'dataset',
)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """A list of classes, and how their words become vectors.

  Attributes:
    classes: at least one; their names differ.
    name: the bundled vocabulary or file it came from.
    treatment: templates, averaging and void word; None leaves them to the system that
      reads the vocabulary (`for_system`), and until then nothing is added.
    provenance: where the names come from.

  Raises:
    ValueError: no classes, or two of one name.
  """

  classes: tuple[Category, ...]
  name: str = 'custom'
  treatment: Treatment | None = None
  provenance: str = ''

  def __post_init__(self):
    object.__setattr__(self, 'classes', tuple(self.classes))
    if not self.classes:
      raise ValueError("the vocabulary is empty: name a class, such as 'cat; dog'")
    seen: dict[str, str] = {}
    for name in (category.name for category in self.classes):
      if (other := seen.get(normal(name))) is not None:
        also = f' and {shown(other)}, which is one name' if other != name else ''
        raise ValueError(f'two classes are called {shown(name)}{also}: rename one')
      seen[normal(name)] = name
    numbers = [c.id for c in self.classes if c.id is not None]
    if len(set(numbers)) < len(numbers):
      double = next(n for n in numbers if numbers.count(n) > 1)
      raise ValueError(f'two classes have the number {double}: give each its own')

  def __len__(self) -> int:
    return len(self.classes)

  # Reading and writing.

  @classmethod
  def parse(
    cls,
    spec: str | os.PathLike | Sequence[str],
    treatment: str | Treatment | None = None,
    *,
    files: bool = True,
  ) -> 'Vocabulary':
    """Reads a vocabulary from what a user typed.

    Args:
      spec: a bundled name ('ade20k-150'), a file (see `load`), either of them with a
        treatment ('ade20k-150@masqclip'), or text: ';' separates classes, ',' words of
        one class, 'stuff:' or 'thing:' marks a class. Unmarked classes are things, but
        for words that COCO and ADE20K know as stuff only. Of a list, each entry is one
        class; of a dictionary, each key with its words, or each number with its name.
      treatment: a system whose way with words to use, or an own one.
      files: whether a text may be the path of a file; not for texts of strangers.

    Raises:
      ValueError: the text, the file or the name makes no vocabulary.
      FileNotFoundError: there is no such file.
    """
    if isinstance(spec, Vocabulary):
      return spec.treated(treatment)
    if isinstance(spec, os.PathLike):
      return cls.load(spec).treated(treatment)
    if not isinstance(spec, str):
      return cls.from_json(_listed(spec)).treated(treatment)
    text = spec.strip()
    where, at, system = text.rpartition('@')
    is_file = functools.partial(_is_file, allowed=files)
    if at and (where in library.names() or is_file(where) or _is_name(where)):
      text, treatment = where, treatment or system
    if is_file(text):
      return cls.load(text).treated(treatment)
    text = _decoded(text)
    if _is_name(text):
      if text.lower() not in library.names():
        error = unknown('vocabulary', text, library.names())
        raise ValueError(f"{error} (for a class of that name write 'thing: {text}')")
      return cls.named(text.lower()).treated(treatment)
    # In one typed line, # begins a word.
    return cls(syntax.from_text(text, comments='\n' in text)).treated(treatment)

  @classmethod
  def named(cls, name: str) -> 'Vocabulary':
    """A vocabulary that comes with the package; `Vocabulary.names()` lists them.

    Raises:
      ValueError: there is none of that name.
    """
    return cls.from_json(library.read(name))

  @staticmethod
  def names() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package."""
    return library.names()

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Vocabulary':
    """Reads a .json or .yaml file, a table (.csv, .tsv), or a list of one class a line.

    Raises:
      ValueError: the file makes no vocabulary; says which file, and why.
      FileNotFoundError: there is no such file.
    """
    path = pathlib.Path(path)
    if not os.path.isfile(path):
      raise FileNotFoundError(f'no vocabulary file {path}: give an existing one')
    try:
      data = vocabulary_files.read(path)
      if isinstance(data, tuple):
        return cls(data, path.stem)
      return cls.from_json(data, name=path.stem)
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error

  @classmethod
  def from_json(cls, data: Any, name: str = 'custom') -> 'Vocabulary':
    """Builds a vocabulary from JSON data; see `syntax.from_json` for the forms.

    Raises:
      ValueError: the data makes no vocabulary.
    """
    head = data if isinstance(data, Mapping) and _HEADS & set(data) else {}
    if 'categories' not in head:
      for key in head:
        if key not in _HEAD_KEYS:
          raise unknown('part of a vocabulary', key, _HEAD_KEYS)
    texts = {'name': head.get('name', name), 'provenance': head.get('provenance', '')}
    for key, text in texts.items():
      if not isinstance(text, str):
        raise ValueError(f'the {key} of the vocabulary is {shown(text)}: give a text')
    treatment = head.get('treatment')
    return cls(
      syntax.from_json(data),
      treatment=None if treatment is None else Treatment.from_json(treatment),
      **texts,
    )

  def to_json(self) -> dict[str, Any]:
    """Plain data from which `from_json` builds an equal vocabulary."""
    classes = []
    for category in self.classes:
      entry = dataclasses.asdict(category)
      entry = {key: value for key, value in entry.items() if value not in (None, {})}
      classes.append(entry)
    treatment = self.treatment and dataclasses.asdict(self.treatment)
    head = {'name': self.name, 'provenance': self.provenance, 'treatment': treatment}
    return {**head, 'classes': classes}

  def same_classes(self, other: 'Vocabulary') -> bool:
    """Whether both have classes of the same names and kinds, in the same order."""
    ours, theirs = ([(c.name, c.thing) for c in v.classes] for v in (self, other))
    return ours == theirs

  def save(self, path: str | os.PathLike) -> None:
    """Writes a .json file that `load` reads."""
    text = json.dumps(self.to_json(), ensure_ascii=False, indent=2)
    atomic.write(path, text + '\n')

  def content_key(self) -> str:
    """A hash of all that decides the class vectors, flags and names; not of colours."""
    return self._content_key

  @functools.cached_property
  def _content_key(self) -> str:
    # Asked for with every photo; of ten thousand classes it takes a tenth of a second.
    content = self.to_json() | {'provenance': ''}
    for category in content['classes']:
      category.pop('color', None)
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  # Words to vectors.

  def treated(self, treatment: str | Treatment | None, **changes: Any) -> 'Vocabulary':
    """The vocabulary with another treatment.

    Args:
      treatment: a system, an own treatment, or None to keep the present one.
      **changes: fields of `Treatment` to change, e.g. void=None, templates='vild_14'.

    Raises:
      ValueError: an unknown system or template set.
    """
    if isinstance(treatment, str):
      treatment = Treatment.of(treatment)
    treatment = treatment or self.treatment
    if changes:
      treatment = dataclasses.replace(treatment or Treatment(), **changes)
    return dataclasses.replace(self, treatment=treatment)

  def for_system(self, system: str) -> 'Vocabulary':
    """The vocabulary as a system reads it, unless a treatment was chosen already."""
    return self if self.treatment else self.treated(system)

  @property
  def things(self) -> Bool[np.ndarray, ' k']:
    """Which classes are counted objects."""
    return np.array([category.thing for category in self.classes])

  @property
  def void(self) -> str | None:
    """The word of the extra last column, or None if there is no such column."""
    return self.treatment.void if self.treatment else None

  def class_words(self) -> list[tuple[str, ...]]:
    """The words of each class, as the treatment reads them; none for the class that
    stands for what the others leave over."""
    treatment = self.treatment or Treatment()
    return [
      ()
      if normal(category.name) == treatment.wordless
      else category.words_for(treatment.system)
      for category in self.classes
    ]

  def columns(self) -> dict[str, Any]:
    """What a text bank must know of the vectors of `pool`, by argument of its builder:
    thing flags, how many rows a class has, and where its void column comes from."""
    treatment = self.treatment or Treatment()
    rows = None
    if treatment.synonyms == 'max':
      rows = [max(1, len(words)) for words in self.class_words()]
    return {
      'thing': self.things,
      'rows': rows,
      'void_last': treatment.void is not None,
      'learned_void': treatment.learned_void,
    }

  def seen_in(self, training: 'Vocabulary | Iterable[str]') -> Bool[np.ndarray, ' k']:
    """Which classes have a word of training, letter by letter [fcclip 4].

    Args:
      training: the words, or a vocabulary, which this one's treatment reads.
    """
    system = (self.treatment or Treatment()).system
    if isinstance(training, Vocabulary):
      training = training.words_for(system)
    known = set(training)
    return np.array(
      [not known.isdisjoint(one.words_for(system)) for one in self.classes]
    )

  def words_for(self, system: str) -> tuple[str, ...]:
    """Every word of every class as a system reads them, each once."""
    words = (word for one in self.classes for word in one.words_for(system))
    return tuple(dict.fromkeys(words))

  def prompts(self) -> tuple[list[str], list[tuple[int, ...]]]:
    """What to encode: distinct prompts, and the prompts of each row of `pool`.

    Raises:
      ValueError: the only class is one without words.
    """
    treatment = self.treatment or Treatment()
    words = self.class_words()
    if not any(words):
      raise ValueError(
        f'{treatment.wordless!r} is what other classes leave over: name one, such as '
        f"'{treatment.wordless}; cat'"
      )
    if treatment.synonyms == 'max':
      words = [row for some in words for row in ([(w,) for w in some] or [()])]
    if treatment.void is not None:
      words.append((treatment.void,))
    rows: dict[str, int] = {}
    groups = [
      tuple(rows.setdefault(prompt, len(rows)) for prompt in treatment.fill(some))
      for some in words
    ]
    return list(rows), groups

  def pool(self, vectors: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'k d']:
    """Class vectors from the vectors of `prompts()`.

    Returns:
      float32 unit rows: one per class, or per word of each class if the treatment keeps
      synonyms apart; then the void word if there is one. The row of a class without
      words is zero.

    Raises:
      ValueError: not one vector per prompt.
    """
    prompts, groups = self.prompts()
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != len(prompts):
      raise ValueError(
        f'{len(prompts)} prompts need as many vectors, not an array {vectors.shape}'
      )
    if self.treatment and self.treatment.normalise_first:
      vectors = _unit(vectors)
    nothing = np.zeros(vectors.shape[1], np.float32)
    rows = [vectors[list(g)].mean(0) if g else nothing for g in groups]
    return _unit(np.stack(rows))

  # Advice.

  def check(self, context: int = tokenizer.CONTEXTS[-1]) -> list[str]:
    """Warnings, one line each: what in these words is likely to disappoint."""
    return lint.check(self.classes, self.void, self.prompts()[0], context)

  def overlap(self, training: 'Vocabulary') -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the classes seen in training, by their words, and of the unseen."""
    return lint.overlap(self.classes, training.classes)


def _unit(vectors: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'n d']:
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-12)


def _decoded(text: str) -> str:
  """Typed words in UTF-8, which Python splits into bytes in the plainest locale (C)."""
  return text.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')


def _listed(spec: Any) -> Any:
  """Data for `from_json` from what is not a text: a dictionary, or the entries."""
  if isinstance(spec, Mapping):
    return spec
  if isinstance(spec, bytes | Set) or not isinstance(spec, Iterable):
    raise ValueError(
      'a vocabulary is a text, a list in a fixed order, or a dictionary of words, not '
      f'a {type(spec).__name__}'
    )
  return list(spec)


def _is_file(text: str, allowed: bool) -> bool:
  """Whether a text means a file: by its ending, or because there is one."""
  if not allowed or '\n' in text or not text or syntax.is_marked(text):
    return False
  named = text.lower().endswith(vocabulary_files.ENDINGS)
  return named or text.startswith(('/', './', '../', '~/')) or os.path.isfile(text)


def _is_name(text: str) -> bool:
  """Whether a text means a bundled vocabulary, perhaps misspelt.

  One word that ends in digits is taken for one ('pc-59'), and one that starts like one
  ('ade20k', 'coco-stuff').
  """
  if any(separator in text for separator in ';,\n'):
    return False
  lower = text.lower()
  families = {name.split('-')[0] for name in library.names()}
  return bool(
    re.split(r'[-_]', lower)[0] in families or re.fullmatch(r'[a-z][\w-]*\d\d', lower)
  )
