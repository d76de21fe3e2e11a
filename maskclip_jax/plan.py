"""What is asked of photos, checked: words, tasks and choices, before any is read."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from maskclip_jax import photos
from maskclip_jax.postprocess import OutputKind, PostprocessConfig
from maskclip_jax.resizing import shortest_edge
from maskclip_jax.systems.contract import Scores
from maskclip_jax.systems.system import Preprocessing
from maskclip_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is asked of photos, checked.

  Attributes:
    words: the vocabulary, as the model reads it.
    tasks: the results that are wanted.
    preprocessing, postprocessing, scores: the preset's, some fields changed.
    white: the number that is white in photos of more than 8 bits.
  """

  words: Vocabulary
  tasks: tuple[OutputKind, ...]
  preprocessing: Preprocessing
  postprocessing: PostprocessConfig
  scores: Scores
  white: float | None = None

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
