"""The true regions of photos as a model's encoder of masks sees them.

Each photo goes through the network once; every choice of words afterwards is a matrix
product.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int, Int64

from maskclip_jax import jax_settings
from maskclip_jax.batches import read_ahead
from maskclip_jax.eval.diagnosis.oracles import RegionEncoder
from maskclip_jax.eval.diagnosis.overlaps import Regions
from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.eval.predictor import PLAIN
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import STRIDE
from maskclip_jax.systems.system import Preprocessing

_READERS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class TrueRegions:
  """The regions of some photos, one after another.

  Attributes:
    vectors: unit vectors in CLIP's joint space.
    classes: class index of each.
    areas: pixels of each.
    photos: place of the photo of each, from 0.
  """

  vectors: Float[np.ndarray, 'n d']
  classes: Int[np.ndarray, ' n']
  areas: Int64[np.ndarray, ' n']
  photos: Int[np.ndarray, ' n']

  def __len__(self) -> int:
    return len(self.classes)


@jax_settings.own()
def encode_regions(
  segmenter: Segmenter,
  source: Sequence[EvalExample],
  indices: Sequence[int],
  preprocessing: Preprocessing,
  on_progress: Callable[[int, int], None] | None = None,
) -> TrueRegions:
  """Encodes the true regions of photos.

  Args:
    segmenter: a model that encodes given masks.
    source: photos with ground truth.
    indices: the photos to take.
    preprocessing: how they are resized.
    on_progress: is told how many photos are done, of how many.

  Raises:
    ValueError: the model cannot name given masks, or returns NaN; or the photos have
      no region.
    RecordError: an example cannot be read.
  """
  encode = RegionEncoder(segmenter)
  (variant,) = PLAIN

  def read(index: int):
    example = source[index]
    photo = variant.photo(example.photo, preprocessing)
    return example, photo, Regions.of(example.truth)

  parts = []
  items = read_ahead(read, indices, _READERS, 2 * _READERS)
  for place, (example, photo, regions) in enumerate(items):
    if len(regions):
      padded = tuple(-(-side // STRIDE) * STRIDE for side in photo.shape[:2])
      geometry = Geometry(padded, padded, photo.shape[:2], example.photo.shape[:2])
      vectors = np.asarray(encode(photo, regions, geometry), np.float32)
      vectors = vectors[: len(regions)]
      if not np.isfinite(vectors).all():
        raise ValueError(
          f'the vectors of regions of {example.file_name} are not finite: the weights '
          'are damaged, or half precision overflowed; try float32'
        )
      vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-12)
      photos = np.full(len(regions), place)
      parts.append((vectors, regions.classes, regions.areas, photos))
    if on_progress is not None:
      on_progress(place + 1, len(indices))
  if not parts:
    raise ValueError(
      f'the {len(indices)} photos have no labelled region: take more, or another split'
    )
  return TrueRegions(*map(np.concatenate, zip(*parts, strict=True)))
