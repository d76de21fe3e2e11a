"""What may go wrong with a vocabulary: warnings in plain words, and overlap reports.

CLIP compares words, so words that mean nearly the same, or nothing in particular, give
poor masks without any error.
"""

import collections
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from maskclip_jax.names import shown
from maskclip_jax.text import tokenizer
from maskclip_jax.text.category import Category, normal

# fmt: off
_VAGUE = frozenset((
  'anything', 'background', 'everything', 'foreground', 'item', 'items', 'misc',
  'miscellaneous', 'none', 'nothing', 'object', 'objects', 'other', 'others', 'rest',
  'something', 'stuff', 'thing', 'things', 'undefined', 'unknown', 'unlabeled',
  'unlabelled', 'void',
))
# fmt: on
# Shorter words one letter apart are mostly different words (house and horse); longer
# ones are not words.
_SHORTEST_TYPO, _LONGEST_TYPO = 7, 40
# Letters that spellings of one word exchange (grey and gray, -ise and -ize).
_SPELLED_ALIKE = ('aeiouy', 'sz')
# What separates or quotes elsewhere, beside what `NFKC` makes , ; : " of.
_SIGNS = ',;:"|[]{}<>=@#*\\\u201c\u201d\u00ab\u00bb\u060c\u061b'
# Names of files and of ImageNet's classes, which are not words.
_FILE, _SYNSET = re.compile(r'\S*\w\.[a-z]\w{1,4}'), re.compile(r'n\d{8}\b.*')
# The last letter of the Latin alphabets, for which CLIP has seen at least some text.
_LAST_LATIN = 'ɏ'


def word_key(word: str) -> str:
  """One key for spellings of a word: no blanks, hyphens, or English plural."""
  key = ''.join(c for c in normal(word) if c not in ' -_')
  if key.endswith('es') and key[:-2].endswith(('ss', 'us', 'x', 'ch', 'sh')):
    return key[:-2]
  if key.endswith('s') and not key.endswith(('ss', 'us', 'is')) and len(key) > 3:
    return key[:-1]
  return key


def check(
  classes: Sequence[Category],
  void: str | None,
  prompts: Iterable[str],
  context: int,
) -> list[str]:
  """Warnings about a vocabulary, one line each, the gravest first."""
  return [
    *_separators(classes, void),
    *_too_long(prompts, context),
    *_equal_to_void(classes, void),
    *_shared(classes),
    *_alike(classes),
    *_vague(classes, void),
    *_signs(classes),
    *_foreign(classes),
  ]


def overlap(
  classes: Sequence[Category], training: Sequence[Category]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Names of the classes whose words a training vocabulary has, and of the others."""
  known = {word_key(word) for category in training for word in category.words}
  seen, unseen = [], []
  for category in classes:
    hit = any(word_key(word) in known for word in category.words)
    (seen if hit else unseen).append(category.name)
  return tuple(seen), tuple(unseen)


def _separators(classes: Sequence[Category], void: str | None) -> Iterator[str]:
  if len(classes) > 1:
    return
  words = classes[0].words
  if len(words) > 1:
    yield (
      f'{", ".join(map(shown, words))} are words for one class: separate classes by ;'
    )
  elif void is None:
    yield (
      f'{shown(words[0])} is the only class, so every segment is one: add words for '
      'what else is in the picture'
    )


def _too_long(prompts: Iterable[str], context: int) -> Iterator[str]:
  for prompt in prompts:
    length = len(tokenizer.encode(prompt)) + 2
    if length > context:
      yield (
        f'the prompt {prompt[:40]!r}... has {length} tokens, and the text tower reads '
        f'{context}: shorten it'
      )


def _equal_to_void(classes: Sequence[Category], void: str | None) -> Iterator[str]:
  for category in classes:
    if void is not None and normal(void) in map(normal, category.words):
      yield (
        f'class {shown(category.name)} has the void word {shown(void)}, which wins '
        'every such region for no class: drop the class, or the void word'
      )


def _owners(classes: Sequence[Category]) -> dict[str, list[int]]:
  """For every word in its normal form, the classes that have it."""
  owners = collections.defaultdict(list)
  for index, category in enumerate(classes):
    for word in dict.fromkeys(map(normal, category.words)):
      owners[word].append(index)
  return owners


def _shared(classes: Sequence[Category]) -> Iterator[str]:
  for word, indices in _owners(classes).items():
    if len(indices) > 1:
      listed = ', '.join(shown(classes[i].name) for i in indices)
      yield f'the word {shown(word)} is in several classes: {listed}'


def _alike(classes: Sequence[Category]) -> Iterator[str]:
  """Words of different classes that differ in spelling only, or by one letter."""
  owners = _owners(classes)
  groups = collections.defaultdict(set)
  for word in owners:
    key = word_key(word)
    groups[key].add(word)
    if _SHORTEST_TYPO <= len(key) <= _LONGEST_TYPO:
      # Keys one edit apart share a key with one letter deleted, or are that key.
      for i in range(len(key)):
        groups[key[:i] + '\0' + key[i + 1 :]].add(word)
        groups[key[:i] + key[i + 1 :]].add(word)
  reported = set()
  for group in groups.values():
    words = sorted(group)
    for i, one in enumerate(words):
      for two in words[i + 1 :]:
        if (one, two) in reported or set(owners[one]) & set(owners[two]):
          continue
        if not _one_edit(word_key(one), word_key(two)):
          continue
        reported.add((one, two))
        yield (
          f'{shown(one)} (class {shown(classes[owners[one][0]].name)}) and '
          f'{shown(two)} (class {shown(classes[owners[two][0]].name)}) are nearly '
          'the same word'
        )


def _one_edit(one: str, two: str) -> bool:
  """Whether two keys are equal, or one letter apart as spellings of a word are.

  That is a letter more, or another vowel, or s for z, but not in the first place.
  """
  if len(one) > len(two):
    one, two = two, one
  at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), -1)
  if at < 0:
    return len(two) - len(one) <= 1
  if len(one) < len(two):
    return at > 0 and one[at:] == two[at + 1 :]
  spelling = any({one[at], two[at]} <= set(letters) for letters in _SPELLED_ALIKE)
  return at > 0 and spelling and one[at + 1 :] == two[at + 1 :]


def _vague(classes: Sequence[Category], void: str | None) -> Iterator[str]:
  for category in classes:
    for word in category.words:
      if normal(word) in _VAGUE and normal(word) != normal(void or ''):
        yield (
          f'the word {shown(word)} of class {shown(category.name)} is vague: name what '
          'is to be found'
        )


def _signs(classes: Sequence[Category]) -> Iterator[str]:
  """Signs that are read as signs where people mean blanks or separators."""
  for category in classes:
    for word in category.words:
      if '_' in word:
        yield f'the word {shown(word)} has underscores, which CLIP reads: write blanks'
      narrow = unicodedata.normalize('NFKC', word)
      found = [c for c in narrow if c in _SIGNS or unicodedata.category(c) == 'Cc']
      if found or word.startswith('- '):
        sign = (
          found[0] if found and found[0].isprintable() else shown((found or '-')[0])
        )
        yield (
          f'the word {shown(word)} of class {shown(category.name)} has a {sign} in it, '
          'which is read as a part of it'
        )
      elif word.isdecimal() and len(category.words) > 1:
        yield (
          f'the word {shown(word)} of class {shown(category.name)} is a number: remove '
          "it, or write the class's own number in front"
        )
      elif _FILE.fullmatch(word) or _SYNSET.fullmatch(word):
        yield (
          f'the word {shown(word)} looks like the name of a file, or a number of '
          'WordNet, and is read as a word'
        )


def _foreign(classes: Sequence[Category]) -> Iterator[str]:
  for category in classes:
    for word in category.words:
      if any(c.isalpha() and c > _LAST_LATIN for c in word):
        yield (
          f'the word {shown(word)} is not in Latin script, and CLIP has learned '
          'English: translate it'
        )
