"""What a check can find, in words, and what to do about each.

A finding belongs to a kind. Kinds are written once, here, so that the terminal, the
report and the tests speak of the same things.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

Severity = Literal['problem', 'warning', 'note']


@dataclasses.dataclass(frozen=True)
class Remedy:
  """What to do.

  Attributes:
    published: where the dataset was published.
    own: where its user labelled it: there are no published files to go back to.
  """

  published: str
  own: str

  def after(self, cause: str, own_cause: str | None = None) -> 'Remedy':
    """The same behind a sentence that says the cause."""
    return Remedy(f'{cause} {self.published}', f'{own_cause or cause} {self.own}')


@dataclasses.dataclass(frozen=True)
class FindingKind:
  """A kind of finding.

  Attributes:
    title: what is wrong, for people.
    fix: what to do.
    severity: a problem spoils training or numbers; a warning may; a note only informs.
  """

  title: str
  fix: Remedy
  severity: Severity = 'problem'

  def remedy(self, *, own: bool) -> str:
    """What to do.

    Args:
      own: the dataset is labelled by its user.
    """
    return self.fix.own if own else self.fix.published


def _always(text: str) -> Remedy:
  return Remedy(text, text)


_AGAIN = Remedy(
  'Download the archive again, delete the built folder and build again.',
  'Replace the file, delete the built folder and build again.',
)
_RELEASE = Remedy(
  'The labels are of another release or were changed by another tool. Build from the '
  'files that "data list" names.',
  'Correct the labels, delete the built folder and build again.',
)
_SWAPPED = _RELEASE.after(
  'One of the two has swapped or shifted ids, or belongs to other photos.'
)
_MARKED = _RELEASE.after(
  'A thing class is marked as stuff, or ids are swapped.',
  'classes.json says stuff, and the labels have single objects: which are things is '
  'chosen when a dataset is built, by --classes.',
)
_OTHER_SPLIT = _RELEASE.after('PNG and JSON are of different releases or splits.')

KINDS: Mapping[str, FindingKind] = {
  'record': FindingKind('a record cannot be read', _AGAIN),
  'photo': FindingKind('a photo cannot be decoded', _AGAIN),
  'photo-size': FindingKind(
    'a photo is not of the size that the record says', _RELEASE
  ),
  'labels': FindingKind('a label map cannot be decoded', _AGAIN),
  'label-size': FindingKind('a label map is not of the size of its photo', _RELEASE),
  'no-panoptic': FindingKind(
    'segments are listed but their panoptic PNG is missing',
    _always(
      'Extract the panoptic PNG zips (they are inside the annotation zip) '
      'and build again.'
    ),
  ),
  'id-without-row': FindingKind(
    'the panoptic PNG has ids that the JSON does not list',
    _OTHER_SPLIT,
  ),
  'row-without-id': FindingKind(
    'the JSON lists segments that the panoptic PNG does not have',
    _OTHER_SPLIT,
  ),
  'same-id': FindingKind('two segments or objects of a photo have one id', _RELEASE),
  'area': FindingKind('areas in the JSON are not those of the panoptic PNG', _RELEASE),
  'box': FindingKind('segments lie outside their boxes', _RELEASE),
  'category': FindingKind(
    'a category id is not in the vocabulary',
    _RELEASE.after(
      'The ids were renumbered (often to 0..N-1).',
      'classes.json was edited: its ids are those of the labels.',
    ),
  ),
  'class': FindingKind(
    'a class index is not the position of its category in the vocabulary',
    _always(
      'The classes are off (often by one). Delete the built folder and build again.'
    ),
  ),
  'stuff-twice': FindingKind(
    'a photo has several segments of one stuff class',
    _MARKED,
  ),
  'stuff-crowd': FindingKind(
    'a stuff segment is marked as a crowd',
    _MARKED,
  ),
  'stuff-object': FindingKind(
    'an object is of a stuff class',
    _MARKED,
  ),
  'value': FindingKind(
    'a semantic map has values that no class has',
    _RELEASE.after('The values were renumbered (often shifted by one).'),
  ),
  'mask': FindingKind('the mask of an object cannot be read or does not fit', _RELEASE),
  'empty-mask': FindingKind(
    'an object has an empty mask',
    Remedy(
      'Training skips it and evaluation counts it as missed; official COCO has some.',
      'Training skips it and evaluation counts it as missed.',
    ),
    'note',
  ),
  'mask-area': FindingKind(
    'the areas of many objects are not those of their masks', _RELEASE
  ),
  'mask-box': FindingKind('many objects lie outside their boxes', _RELEASE),
  'objects-semantic': FindingKind(
    'objects and the semantic map disagree about classes',
    _SWAPPED,
  ),
  'objects-panoptic': FindingKind(
    'objects and the panoptic map disagree about classes',
    _SWAPPED,
  ),
  'panoptic-semantic': FindingKind(
    'the panoptic and the semantic map disagree about classes',
    _SWAPPED,
  ),
  'frequent': FindingKind(
    'the most frequent class is an unlikely one',
    Remedy(
      'The values are probably shifted. Look at the pictures below; then '
      'build from the files that "data list" names.',
      'The values are probably shifted. Look at the pictures below.',
    ),
    'warning',
  ),
  'images': FindingKind(
    'the number of photos is not the published one',
    _always(
      'The archive is incomplete or another one. Compare its size with "data '
      'list", download it again, delete the built folder and build again.'
    ),
  ),
  'counts': FindingKind(
    'the number of objects or captions is not the published one',
    _always(
      "The annotation file is filtered or of another release. Use the owners' file."
    ),
  ),
  'twice': FindingKind('a photo is listed more than once', _RELEASE),
  'leak': FindingKind(
    'training and validation share photos',
    Remedy(
      'The lists of the splits were mixed up. Use the lists of the owners.',
      'The lists of the splits were mixed up. Move the photos into one of '
      'them and build again.',
    ),
  ),
  'leaked-copy': FindingKind(
    'one picture is in two splits',
    _always('Numbers on it are too good. Remove one of the copies and build again.'),
  ),
  'copy': FindingKind(
    'one picture is there under several names',
    _always('It counts several times, perhaps with other labels: keep one.'),
    'warning',
  ),
  'doubled': FindingKind(
    'two objects cover the same pixels',
    _always(
      'It was labelled twice, or a whole and its only part have two labels: keep one.'
    ),
    'warning',
  ),
  'ignored': FindingKind(
    'most of the masks is not judged',
    _always('If the value is a class, give it in --classes and say --ignore none.'),
    'warning',
  ),
  'never': FindingKind(
    'classes occur in no photo',
    _always(
      'Nothing can be learned or measured of them. Label some, or compare '
      'the ids and colours in classes.json with those of the labels.'
    ),
    'warning',
  ),
  'part': FindingKind(
    'a part of the dataset is missing',
    Remedy(
      'Views that read it cannot be used. Get the file that "data list" '
      'names, delete the built folder and build again.',
      'Views that read it cannot be used.',
    ),
    'note',
  ),
  'unlabelled': FindingKind(
    'photos have no labels',
    Remedy(
      'Official COCO has about 1 % of them: they train nothing and are '
      'evaluated as empty. A larger share means that labels are missing.',
      'They train nothing, and whatever is found in them counts as wrong: '
      'label them, or leave them out.',
    ),
    'note',
  ),
  'many-unlabelled': FindingKind(
    'a large share of the photos has no labels',
    _RELEASE.after(
      'Label files are missing or of another split.', 'Labels are missing.'
    ),
  ),
  'no-captions': FindingKind(
    'photos have no captions',
    _always(
      "The caption file is of another split or incomplete. Use the owners' file."
    ),
    'warning',
  ),
  'rotated': FindingKind(
    'photos carry an EXIF rotation',
    _always('Readers must ignore it, or turn the labels too; ours do. Nothing to do.'),
    'note',
  ),
  'unused': FindingKind(
    'classes of the vocabulary never occur',
    Remedy(
      'Normal for long vocabularies in small splits; they do not enter mIoU.',
      'They do not enter any number of this split, and are not learned from it.',
    ),
    'note',
  ),
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that was found.

  Attributes:
    kind: a key of `KINDS`.
    detail: the figures.
    image_id: the photo it is about; empty if it is about the whole split.
  """

  kind: str
  detail: str
  image_id: str = ''

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f'no kind of finding {self.kind!r}')


@dataclasses.dataclass(frozen=True)
class Group:
  """All findings of one kind in one split."""

  split: str
  kind: str
  findings: tuple[Finding, ...]

  @property
  def severity(self) -> Severity:
    return KINDS[self.kind].severity

  def line(self) -> str:
    """One line: what, where, how often."""
    first = self.findings[0]
    where = f' (photo {first.image_id})' if first.image_id else ''
    more = f', and {len(self.findings) - 1} more' if len(self.findings) > 1 else ''
    return f'{self.split}: {KINDS[self.kind].title}: {first.detail}{where}{more}'


def group(split: str, findings: Iterable[Finding]) -> tuple[Group, ...]:
  """Sorts findings by kind, the grave ones first."""
  kinds = collections.defaultdict(list)
  for finding in findings:
    kinds[finding.kind].append(finding)
  order = list(KINDS)
  levels = ('problem', 'warning', 'note')
  groups = [Group(split, kind, tuple(rows)) for kind, rows in kinds.items()]
  key = lambda g: (levels.index(g.severity), order.index(g.kind))
  return tuple(sorted(groups, key=key))
