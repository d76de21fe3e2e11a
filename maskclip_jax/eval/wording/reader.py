"""A vocabulary as a model reads it: vectors of any words in its templates."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from maskclip_jax.eval.wording.search import Change, Gain, Naming, Words
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.text.bank import TextCache
from maskclip_jax.text.category import Category, normal
from maskclip_jax.text.treatment import Treatment
from maskclip_jax.text.vocabulary import Vocabulary


class Reader:
  """A vocabulary as a model reads it, class by class and without a void word.

  Attributes:
    vocabulary: the words, with their treatment.
    words: by class, those that the treatment reads; none for a class that stands for
      what the others leave over.

  Args:
    segmenter: the model.
    vocabulary: as `Segmenter.vocabulary` returns it.
    cache: keeps the vectors of prompts.
  """

  def __init__(self, segmenter: Segmenter, vocabulary: Vocabulary, cache: TextCache):
    self.vocabulary, self._segmenter, self._cache = vocabulary, segmenter, cache
    self._treatment = vocabulary.treatment or Treatment()
    self.words: list[Words] = vocabulary.class_words()

  def treated(self, templates: str) -> 'Reader':
    """The same words in other templates."""
    treated = self.vocabulary.treated(None, templates=templates)
    return Reader(self._segmenter, treated, self._cache)

  def prepare(self, words: Sequence[str]) -> None:
    """Encodes words together, which is faster than a few at a time."""
    distinct = list({normal(word): word for word in words}.values())
    if distinct:
      self.encode([(word,) for word in distinct])

  def encode(self, classes: Sequence[Words]) -> list[Float[np.ndarray, 'r d']]:
    """Vectors of classes by their words: one each, or one for each word."""
    plain = dataclasses.replace(
      self._treatment, void=None, wordless=None, learned_void=False
    )
    spelled = [Category(str(n), words) for n, words in enumerate(classes)]
    vocabulary = Vocabulary(tuple(spelled), treatment=plain)
    vectors = self._segmenter.class_vectors(vocabulary, self._cache)
    counts = vocabulary.columns()['rows'] or [1] * len(classes)
    return np.split(vectors, np.cumsum(counts)[:-1])

  def quality(self, naming: Naming) -> Gain:
    """How well the words name true regions."""
    return naming.quality(naming.similarities(self.words, self.encode).argmax(1))

  def changed(self, changes: Sequence[Change]) -> 'Reader':
    """The same with other words for some classes."""
    classes = list(self.vocabulary.classes)
    for change in changes:
      category = classes[change.index]
      # The system's own prompts would go before the new words.
      prompts = {
        system: words
        for system, words in category.prompts.items()
        if system != self._treatment.system
      }
      classes[change.index] = dataclasses.replace(
        category, words=change.after, prompts=prompts
      )
    name = self.vocabulary.name
    vocabulary = dataclasses.replace(
      self.vocabulary,
      classes=tuple(classes),
      name=name if name.endswith('-suggested') else f'{name}-suggested',
    )
    return Reader(self._segmenter, vocabulary, self._cache)
