"""Words for artefacts: a vocabulary as a file of arrays, so that no tokenizer is needed
where an artefact runs."""

import dataclasses
import os

import numpy as np

from maskclip_jax import atomic
from maskclip_jax.deploy.programs import words_of
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import TextBank


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
  """A vocabulary as an artefact reads it.

  Attributes:
    bank: their vectors.
    names: of the classes, which are the first columns.
    things: which of them are counted objects.
  """

  bank: TextBank
  names: tuple[str, ...]
  things: np.ndarray

  @classmethod
  def of(cls, segmenter: Segmenter, words: str | None, bucket: int) -> 'Words':
    """The class vectors of words.

    Args:
      segmenter: whose text tower encodes them.
      words: as for `Segmenter.vocabulary`; None for a model that knows its own only.
      bucket: columns of the artefact.

    Raises:
      ValueError: words that make no vocabulary, or more than the bucket holds.
    """
    vocabulary = segmenter.vocabulary(words)
    try:
      bank = segmenter.text_bank(vocabulary, (bucket,))
    except ValueError as error:
      raise ValueError(f'{error}: export with a larger --bucket') from error
    names = tuple(category.name for category in vocabulary.classes)
    return cls(bank, names, np.asarray(vocabulary.things))

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """The inputs of the photo program, by name."""
    return words_of(self.bank)

  def save(self, path: str | os.PathLike) -> None:
    """Writes `words.npz`, whole or not at all."""
    with atomic.file(path) as part, part.open('wb') as file:
      np.savez(file, **self.arrays, names=np.array(self.names), things=self.things)
