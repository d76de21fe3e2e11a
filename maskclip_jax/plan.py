"""What is asked of photos, checked: words, tasks and choices, before any is read."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from maskclip_jax import photos, postprocess
from maskclip_jax.postprocess import OutputKind, PostprocessConfig
from maskclip_jax.resizing import shortest_edge
from maskclip_jax.systems.contract import Scores
from maskclip_jax.systems.system import Preprocessing
from maskclip_jax.text.category import Category
from maskclip_jax.text.vocabulary import Vocabulary

# What a region may be that is not the only word.
_RIVAL = Category('others', thing=False)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is asked of photos, checked.

  Attributes:
    words: the vocabulary, as the model reads it.
    tasks: the results that are wanted.
    preprocessing, postprocessing, scores: the preset's, some fields changed.
    white: the number that is white in photos of more than 8 bits.
    rival: the last of the words was not asked for (`with_rival`).
  """

  words: Vocabulary
  tasks: tuple[OutputKind, ...]
  preprocessing: Preprocessing
  postprocessing: PostprocessConfig
  scores: Scores
  white: float | None = None
  rival: bool = False

  def resized(self, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the network sees of a photo of this height and width."""
    edges = self.preprocessing
    return shortest_edge(size, edges.short_edge, edges.long_edge)

  def resize(self, photo: UInt8[np.ndarray, 'h0 w0 3']) -> UInt8[np.ndarray, 'h w 3']:
    """A photo as the network sees it."""
    size = self.resized(photo.shape[:2])
    return photos.resize_photo(photo, *size, self.preprocessing.resample)

  def read(
    self, photo: photos.Photo
  ) -> tuple[UInt8[np.ndarray, 'h0 w0 3'], UInt8[np.ndarray, 'h w 3']]:
    """The pixels of a photo, as given and as the network sees them."""
    pixels = photos.open_photo(photo, self.white)
    return pixels, self.resize(pixels)

  def with_rival(self) -> 'Plan':
    """Gives a word that is alone a rival, which most regions then are [ovseg 2.8]."""
    if len(self.words) > 1:
      return self
    words = dataclasses.replace(self.words, classes=(*self.words.classes, _RIVAL))
    return dataclasses.replace(self, words=words, rival=True)

  def rest(self, columns: int) -> Bool[np.ndarray, ' k']:
    """Which of the columns of a text bank is that rival."""
    return (np.arange(columns) == len(self.words) - 1) & self.rival


def parse_tasks(task: str | Sequence[str]) -> tuple[str, ...]:
  """The tasks of a text with commas, or of a list, each once."""
  names = task.split(',') if isinstance(task, str) else task
  try:
    tasks = tuple(dict.fromkeys(name.strip() for name in names))
  except (AttributeError, TypeError):
    tasks = ()
  if not tasks or set(tasks) - set(postprocess.OUTPUT_KINDS):
    raise ValueError(
      f'task must be among {", ".join(postprocess.OUTPUT_KINDS)}, not {task!r}'
    )
  return tasks
