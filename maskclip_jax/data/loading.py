"""From a record number to the arrays of one training example.

The loader is a plain picklable object, so grain's worker processes can run it. What
cannot be read is reported by name; what to do about it is the caller's choice.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Int

from maskclip_jax.data.examples import Example, RecordError, decode
from maskclip_jax.data.schema import Record
from maskclip_jax.data.targets import Arrays, Targets, encode_id
from maskclip_jax.data.transforms.geometric import apply
from maskclip_jax.data.transforms.mappers import Mapper
from maskclip_jax.data.views import View

_log = logging.getLogger(__name__)
# So many damaged records in a row are no accident.
MAX_DAMAGED = 100

Tokenize = Callable[[str], Int[np.ndarray, ' length']]


class Source(Protocol):
  """Random access to stored records; must survive pickling to worker processes."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


def _read_example(source: Source, index: int, view: View) -> Example:
  """Reads and decodes one record.

  Raises:
    RecordError: it cannot be read, or not be decoded; the message names it.
  """
  try:
    record = source[index]
  # How files, ArrayRecord and TFDS report what they cannot read.
  except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
    raise RecordError(f'{view.name}: record number {index}: {error}') from error
  try:
    return decode(record, view, crowd=False)
  except RecordError as error:
    raise RecordError(f'{view.name}: {error}') from error


@dataclasses.dataclass(frozen=True)
class TrainingLoader:
  """Reads, augments and packs one training example.

  Attributes:
    source: the records.
    view: how they are read.
    mapper: draws the augmentation.
    targets: packs the ground truth; None where there is none (captions).
    number: which dataset of the mixture it is.
    on_error: stop, or take the next readable record.
    tokenize: turns one caption, drawn at random, into tokens; None for no tokens.
  """

  source: Source
  view: View
  mapper: Mapper
  targets: Targets | None
  number: int
  on_error: Literal['stop', 'skip']
  tokenize: Tokenize | None = None

  def __call__(self, index: int, rng: np.random.Generator) -> Arrays:
    """The arrays of record `index`, with all randomness from `rng`."""
    example, skipped = self._read(index)
    caption = self._caption(example, rng)
    example = apply(example, self.mapper.draw(rng, example))
    return {
      'image': example.image,
      'image_hw': np.array(example.size, np.int32),
      'image_id': encode_id(example.image_id),
      'source': np.int32(self.number),
      'replaced': np.bool_(skipped > 0),
      **caption,
      **(self.targets.arrays(example) if self.targets else {}),
    }

  def _read(self, index: int) -> tuple[Example, int]:
    """The first readable example from `index` on, and how many were not."""
    for skipped in range(min(MAX_DAMAGED, len(self.source))):
      place = (index + skipped) % len(self.source)
      try:
        return _read_example(self.source, place, self.view), skipped
      except RecordError as error:
        if self.on_error == 'stop':
          raise RecordError(
            f"{error}; run `data check`, or train with on_error='skip'"
          ) from error
        _log.warning('skipped: %s', error)
    raise RecordError(
      f'{self.view.name}: {skipped + 1} records in a row from number {index} on '
      'cannot be read: run `data check`'
    )

  def _caption(self, example: Example, rng: np.random.Generator) -> Arrays:
    if self.tokenize is None:
      return {}
    if not example.captions:
      raise RecordError(f'{self.view.name}: {example.image_id} has no caption')
    choice = int(rng.integers(len(example.captions)))
    return {'tokens': np.asarray(self.tokenize(example.captions[choice]), np.int32)}
