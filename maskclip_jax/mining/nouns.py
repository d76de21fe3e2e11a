"""Nouns of captions: by a vocabulary, which needs nothing, or by a spaCy pipeline that
the user names [ovseg 5.8].
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from maskclip_jax.text.category import normal
from maskclip_jax.text.lexicon import Lexicon
from maskclip_jax.text.vocabulary import Vocabulary

# Penn Treebank: common and proper nouns, singular and plural [ovseg 5.8].
TAGS = ('NN', 'NNS', 'NNP', 'NNPS')
SPACY = 'spacy:'
Form = Literal['written', 'name']


@dataclasses.dataclass(frozen=True)
class Noun:
  """A noun of a caption.

  Attributes:
    key: equal for nouns that are the same: a photo has each once.
    text: what CLIP reads and what is stored.
    mentions: how often the captions have it.
  """

  key: str
  text: str
  mentions: int = 1


class Tagger(Protocol):
  """Finds the nouns of a caption, in its order."""

  def __call__(self, caption: str) -> list[Noun]: ...


@dataclasses.dataclass(frozen=True)
class NounRule:
  """What counts as a noun, and how it is written.

  Attributes:
    source: a vocabulary as `Vocabulary.parse` reads it, or 'spacy:' and the name or
      folder of a spaCy pipeline.
    form: 'written', as in the caption in lower case, or 'name', the name of the class
      (the lemma, of spaCy), so that synonyms and plurals are one noun.
    tags: of spaCy: the fine-grained tags that count.
    compounds: of spaCy: nouns that follow each other are one ('traffic light').

  Raises:
    ValueError: an unknown form, or no tags.
  """

  source: str
  form: Form = 'written'
  tags: tuple[str, ...] = TAGS
  compounds: bool = False

  def __post_init__(self):
    if self.form not in ('written', 'name'):
      raise ValueError(f"form must be 'written' or 'name', not {self.form!r}")
    if not self.tags:
      raise ValueError(f'no tags count as nouns: give some, such as {",".join(TAGS)}')

  def tagger(self) -> Tagger:
    """Opens the vocabulary or the pipeline.

    Raises:
      ImportError: spaCy is not installed.
      FileNotFoundError: there is no such pipeline or file.
      ValueError: the text makes no vocabulary, or the pipeline has no tagger.
    """
    if self.source.startswith(SPACY):
      return SpacyNouns(self.source.removeprefix(SPACY), self)
    return LexiconNouns(Vocabulary.parse(self.source), self.form)


class LexiconNouns:
  """The words of a vocabulary are the nouns.

  Args:
    vocabulary: the classes; synonyms are one noun.
    form: as of `NounRule`.
  """

  def __init__(self, vocabulary: Vocabulary, form: Form = 'written'):
    self._lexicon, self._form = Lexicon(vocabulary), form

  def __call__(self, caption: str) -> list[Noun]:
    classes = self._lexicon.vocabulary.classes
    return [
      Noun(
        classes[match.index].name,
        match.written
        if self._form == 'written'
        else normal(classes[match.index].words[0]),
      )
      for match in self._lexicon.find(caption)
    ]


class SpacyNouns:
  """The nouns that a spaCy pipeline tags.

  Args:
    pipeline: its name or folder.
    rule: tags, form and compounds.

  Raises:
    ImportError: spaCy is not installed.
    FileNotFoundError: there is no such pipeline.
  """

  def __init__(self, pipeline: str, rule: NounRule):
    self._pipeline, self._rule, self._nlp = pipeline, rule, _load(pipeline)

  def __call__(self, caption: str) -> list[Noun]:
    """The nouns of a caption.

    Raises:
      ValueError: the pipeline tags nothing, or has no lemmas where the form asks.
    """
    document = self._nlp(caption)
    if len(document) and not document.has_annotation('TAG'):
      raise ValueError(
        f'the spaCy pipeline {self._pipeline} has no tagger: name one that has, such '
        'as en_core_web_sm'
      )
    groups: list[list[Any]] = []
    following = -1
    for token in document:
      if token.tag_ not in self._rule.tags:
        continue
      if self._rule.compounds and token.i == following:
        groups[-1].append(token)
      else:
        groups.append([token])
      following = token.i + 1
    texts = (' '.join(map(self._spelled, group)) for group in groups)
    return [Noun(text, text) for text in texts if text]

  def _spelled(self, token: Any) -> str:
    if self._rule.form == 'written':
      return normal(token.text)
    if not token.lemma_:
      raise ValueError(
        f'the spaCy pipeline {self._pipeline} has no lemmas: leave --form name out'
      )
    return normal(token.lemma_)


def _load(pipeline: str) -> Any:
  try:
    import spacy
  except ImportError:
    raise ImportError(
      "spaCy is not installed: pip install 'maskclip_jax[spacy]', or let --nouns name "
      'a vocabulary, which needs nothing'
    ) from None
  try:
    return spacy.load(pipeline, exclude=['parser', 'ner'])
  except OSError:
    raise FileNotFoundError(
      f'there is no spaCy pipeline {pipeline!r}: python -m spacy download '
      'en_core_web_sm gets one'
    ) from None


def nouns_of(captions: Iterable[str], tagger: Tagger) -> list[Noun]:
  """The nouns of a photo's captions, each once, in the order of their first mention."""
  named = [noun for caption in captions for noun in tagger(caption)]
  mentions = collections.Counter(noun.key for noun in named)
  first = {noun.key: noun for noun in reversed(named)}
  return [
    dataclasses.replace(first[key], mentions=count) for key, count in mentions.items()
  ]


def check_captions(captions: Sequence[Sequence[str]], rule: NounRule) -> None:
  """Finds out before hours of work that captions have no noun.

  Args:
    captions: of some photos.
    rule: what counts as a noun.

  Raises:
    ValueError: none of them has one; as `NounRule.tagger`.
  """
  tagger = rule.tagger()
  if captions and not any(nouns_of(texts, tagger) for texts in captions):
    example = next((text for texts in captions for text in texts), '')
    raise ValueError(
      f'none of the first {len(captions)} photos has a caption with a word of '
      f'{rule.source} (one says {example[:60]!r}): name another vocabulary with --nouns'
    )
