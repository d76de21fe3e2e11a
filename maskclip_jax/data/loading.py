"""From a record number to the arrays of one example, for training and evaluation.

The loaders are plain picklable objects, so grain's worker processes can run them. What
cannot be read is reported by name; what to do about it is the caller's choice.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Int

from maskclip_jax.data.examples import VOID, Example, RecordError, decode
from maskclip_jax.data.schema import Record
from maskclip_jax.data.targets import Arrays, Targets, encode_id
from maskclip_jax.data.transforms.geometric import apply
from maskclip_jax.data.transforms.mappers import Mapper, shortest_edge
from maskclip_jax.data.transforms.resample import Interpolation, resize_image
from maskclip_jax.data.views import View

_log = logging.getLogger(__name__)
# So many damaged records in a row are no accident.
MAX_DAMAGED = 100
# Networks see multiples of this.
STRIDE = 32

Size = tuple[int, int]
Tokenize = Callable[[str], Int[np.ndarray, ' length']]


class Source(Protocol):
  """Random access to stored records; must survive pickling to worker processes."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


def read_example(source: Source, index: int, view: View, *, crowd: bool) -> Example:
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
    return decode(record, view, crowd=crowd)
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
    number: of the dataset in the mixture.
    on_error: stop, or take the next readable record.
    tokenize: of one caption drawn at random; None for no tokens.
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
        return read_example(self.source, place, self.view, crowd=False), skipped
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


@dataclasses.dataclass(frozen=True)
class TestResize:
  """Test-time resize: the short side to `short`, the long one at most `longest`.

  [masqclip 7.4]: 800 / 1333 for COCO, 640 / 2560 for ADE20K panoptic, 512 / 2048 for
  ADE20K semantic, A-847 and PASCAL Context; Pillow's bilinear. SegCLIP takes OpenCV's
  and 224 / 2048 [segclip 4.2].
  """

  # Not a test case, whatever pytest thinks of the name.
  __test__ = False

  short: int
  longest: int
  method: Interpolation = 'bilinear'

  def size(self, size: Size) -> Size:
    """The size of a resized photo."""
    return shortest_edge(size, self.short, self.longest)


@dataclasses.dataclass(frozen=True)
class EvaluationLoader:
  """Reads one example and resizes its photo; labels keep the original size.

  Indices beyond the records give padding, to fill the last batch.
  """

  source: Source
  view: View
  resize: TestResize
  targets: Targets

  def __call__(self, index: int) -> Arrays:
    """The arrays of record `index`, of the photo's own size."""
    if index >= len(self.source):
      return self._padding()
    example = read_example(self.source, index, self.view, crowd=True)
    rows = max(len(example.classes), 1)
    # Nothing is dropped: the table grows by whole multiples of the usual length.
    length = -(-rows // self.targets.max_segments) * self.targets.max_segments
    # Empty ones count too: a covered stuff segment is a miss [masqclip 9.2].
    targets = dataclasses.replace(self.targets, max_segments=length, drop_empty=False)
    size = self.resize.size(example.size)
    return {
      'image': resize_image(example.image, size, method=self.resize.method),
      'original_hw': np.array(example.size, np.int32),
      'image_id': encode_id(example.image_id),
      'example_valid': np.True_,
      **targets.arrays(example),
    }

  def _padding(self) -> Arrays:
    photo = np.zeros((STRIDE, STRIDE, 3), np.uint8)
    blank = Example(photo, '', np.full((STRIDE, STRIDE), VOID, np.int16))
    return {
      'image': photo,
      'original_hw': np.array(blank.size, np.int32),
      'image_id': encode_id(''),
      'example_valid': np.False_,
      **self.targets.arrays(blank),
    }


@dataclasses.dataclass(frozen=True)
class Collate:
  """Lays examples of different sizes on one canvas.

  Attributes:
    canvases: sizes to choose from, smallest area first; the first that holds all
      photos of the batch is taken. Empty: as large as the batch needs, in steps of 32.
  """

  canvases: tuple[Size, ...]

  def __call__(self, examples: Sequence[Arrays]) -> Arrays:
    """A batch: photos over zeros, label maps over void, tables over zeros."""
    image_hw = np.array([e['image'].shape[:2] for e in examples], np.int32)
    padded_hw = -(-image_hw // STRIDE) * STRIDE
    fills = {'segments': VOID}
    batch = {
      key: _stack([e[key] for e in examples], fills.get(key, 0))
      for key in examples[0]
      if key != 'image'
    }
    canvas = self._canvas(padded_hw)
    image = np.zeros((len(examples), *canvas, 3), np.uint8)
    for row, example in zip(image, examples, strict=True):
      photo = example['image']
      row[: photo.shape[0], : photo.shape[1]] = photo
    return {'image': image, 'image_hw': image_hw, 'padded_hw': padded_hw, **batch}

  def _canvas(self, padded_hw: Int[np.ndarray, 'b 2']) -> Size:
    need = padded_hw.max(axis=0)
    if not self.canvases:
      return tuple(need.tolist())
    for canvas in self.canvases:
      if (need <= canvas).all():
        return canvas
    raise ValueError(
      f'photos of up to {need[0]} x {need[1]} fit none of the canvases '
      f'{list(self.canvases)}: add a larger one'
    )


def _stack(arrays: Sequence[np.ndarray], fill: int) -> np.ndarray:
  """Stacks arrays of one rank, each in the corner of the largest size."""
  shape = np.max([np.shape(array) for array in arrays], axis=0).astype(int)
  stacked = np.full((len(arrays), *shape), fill, np.asarray(arrays[0]).dtype)
  for row, array in zip(stacked, arrays, strict=True):
    if np.ndim(array):
      row[tuple(slice(length) for length in array.shape)] = array
  if not len(shape):
    stacked[:] = arrays
  return stacked
