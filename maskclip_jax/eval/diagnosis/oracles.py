"""The same results with one part made perfect: which part is the limit?

- Ground-truth words: the model may only use words that are in the photo. What this
  gains is lost to confusion with absent words. (Not comparable with full-vocabulary
  numbers; some papers report such numbers all the same.)
- Oracle names: each mask gets the class of the region it overlaps most, and that
  overlap as its score. What is left to gain is the masks' fault.
- Oracle masks: the model names the true regions. What is left to gain is the
  classification's fault.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from maskclip_jax.batches import canvas_of
from maskclip_jax.eval.diagnosis.overlaps import Regions
from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.eval.predictor import ClassColumns, ImageOutputs, Photo
from maskclip_jax.postprocess import Results
from maskclip_jax.postprocess.class_scores import ClassScores, class_probabilities
from maskclip_jax.postprocess.instances import Instances
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.postprocess.tiles import Geometry, PackedMasks
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import EncodesMasks, Images, TextBank
from maskclip_jax.systems.regions import class_similarity

# Networks have maps at this stride.
_STRIDE = 4
# Certain pixels of an oracle mask, either way.
_LOGIT = 20.0
# Regions named by one call are rounded up to a multiple of this.
_REGION_STEP = 32


def present_words(words: ClassColumns, present: Int[np.ndarray, ' n']) -> ClassColumns:
  """The text bank with only the classes that are in a photo, and the void column."""
  valid = words.valid & words.void
  valid[present] = True
  return dataclasses.replace(words, valid=valid)


def named_by_truth(
  iou: Float32[np.ndarray, 'q n'], regions: Regions, words: ClassColumns
) -> ClassScores:
  """Scores by which each mask has the class of the region it overlaps most."""
  scores = np.zeros((len(iou), len(words.valid)), np.float32)
  if len(regions):
    best = iou.argmax(1)
    rows = np.arange(len(iou))
    scores[rows, regions.classes[best]] = iou[rows, best]
  return ClassScores(
    jnp.asarray(scores), jnp.zeros(len(iou)), jnp.asarray(words.valid & ~words.void)
  )


class RegionEncoder:
  """Vectors of given regions, by a model's encoder of masks.

  Args:
    segmenter: a model that encodes masks.

  Raises:
    ValueError: the model cannot name given masks.
  """

  def __init__(self, segmenter: Segmenter):
    if not can_name_regions(segmenter):
      raise ValueError(
        f'{segmenter.preset.system} cannot name given masks: use a model of a system '
        'that encodes masks, such as maskclip or fcclip'
      )
    graphdef, self._state = nnx.split(segmenter.model)
    self._step = segmenter.canvas_step

    def encode(state, images: Images, masks, mask_hw):
      return nnx.merge(graphdef, state).encode_masks(images, masks, mask_hw).vectors

    self._encode: Callable[..., Float[Array, 'b n d']] = jax.jit(encode)

  def __call__(
    self, photo: Photo, regions: Regions, geometry: Geometry
  ) -> Float[Array, 'rows d']:
    """The vector of each region, not normalised; rows beyond the last mean nothing.

    Args:
      photo: as the network sees it.
      regions: at the photo's original size.
      geometry: how the network's maps lie on the photo.
    """
    canvas = canvas_of(photo, self._step)
    rows = -(-len(regions) // _REGION_STEP) * _REGION_STEP
    masks = np.full((rows, *(s // _STRIDE for s in canvas)), -_LOGIT, np.float32)
    height, width = (side // _STRIDE for side in geometry.padded)
    masks[: len(regions), :height, :width] = region_masks(regions, geometry)
    return self._encode(
      self._state,
      Images.from_arrays([photo], canvas),
      masks[None],
      np.array([[height, width]], np.int32),
    )[0]


class RegionNamer:
  """Names given regions by a model's encoder of masks.

  Args:
    segmenter: a model that encodes masks.
    bank: its words.

  Raises:
    ValueError: the model cannot name given masks.
  """

  def __init__(self, segmenter: Segmenter, bank: TextBank):
    self._encode, self._bank = RegionEncoder(segmenter), bank
    self._compare: Callable[..., Float[Array, 'b n k']] = jax.jit(class_similarity)

  def __call__(
    self, photo: Photo, regions: Regions, outputs: ImageOutputs
  ) -> Float[Array, 'n k']:
    """Class logits of each region.

    Args:
      photo: as the network sees it.
      regions: at the photo's original size.
      outputs: the network's outputs for this photo, for the geometry.
    """
    vectors = self._encode(photo, regions, outputs.geometry)
    return self._compare(vectors[None], self._bank)[0, : len(regions)]


def can_name_regions(segmenter: Segmenter) -> bool:
  """Whether a model has an encoder of given masks."""
  return isinstance(segmenter.model, EncodesMasks)


def region_masks(regions: Regions, geometry: Geometry) -> Float32[np.ndarray, 'n h w']:
  """True regions as mask logits at a quarter of the padded photo.

  A cell belongs to a region that covers half of it, and to a small region's best cell.
  """
  rows, columns = (
    np.minimum((np.arange(padded) + 0.5) * original / image, original - 0.5).astype(int)
    for padded, image, original in zip(
      geometry.padded, geometry.image, geometry.original, strict=True
    )
  )
  seen = regions.map[np.ix_(rows, columns)]
  seen[geometry.image[0] :], seen[:, geometry.image[1] :] = -1, -1
  height, width = (side // _STRIDE for side in geometry.padded)
  cells = seen.reshape(height, _STRIDE, width, _STRIDE).swapaxes(1, 2)
  cells = cells.reshape(height * width, _STRIDE**2)
  cover = np.zeros((len(regions), height * width), np.float32)
  for column in cells.T:
    inside = np.flatnonzero(column >= 0)
    cover[column[inside], inside] += 1 / _STRIDE**2
  best = cover.max(1, initial=0)
  least = np.clip(best, 1e-6, 0.5)[:, None]
  masks = np.where(cover >= least, _LOGIT, -_LOGIT).astype(np.float32)
  return masks.reshape(-1, height, width)


def named_regions(
  logits: Float[Array, 'n k'],
  regions: Regions,
  words: ClassColumns,
  *,
  top_k: int = 100,
) -> Results:
  """Results whose masks are the true regions and whose names are the model's.

  By the rules of post-processing: stuff of one class is one segment, and the best
  pairs of region and class are detections.
  """
  height, width = regions.map.shape
  if not len(regions):
    nothing = np.zeros((height, width), np.int32)
    return Results(nothing - 1, nothing, (), _instances(regions, [], [], []))
  scores = class_probabilities(logits, words.valid, words.void)
  p = np.asarray(scores.probabilities)
  labels = p.argmax(1)
  ids, segments = _merged(labels, p.max(1), regions, words.thing)
  flat = np.argsort(-p, axis=None, kind='stable')[:top_k]
  rows, classes = np.divmod(flat, p.shape[1])
  keep = words.thing[classes]
  return Results(
    np.append(labels, -1)[regions.map].astype(np.int32),
    np.append(ids, 0)[regions.map].astype(np.int32),
    segments,
    _instances(regions, rows[keep], classes[keep], p.ravel()[flat][keep]),
  )


def _merged(labels, scores, regions: Regions, thing: Bool[np.ndarray, ' k']):
  """Segment id of every region, and the segments."""
  ids = np.zeros(len(labels), np.int32)
  segments: list[Segment] = []
  stuff: dict[int, int] = {}
  for row, label in enumerate(labels.tolist()):
    area, score = int(regions.areas[row]), float(scores[row])
    if label in stuff:
      ids[row] = stuff[label]
      earlier = segments[ids[row] - 1]
      segments[ids[row] - 1] = dataclasses.replace(
        earlier, area=earlier.area + area, score=max(earlier.score, score)
      )
      continue
    ids[row] = len(segments) + 1
    if not thing[label]:
      stuff[label] = int(ids[row])
    segments.append(Segment(int(ids[row]), label, bool(thing[label]), score, area, row))
  return ids, tuple(segments)


def _instances(regions: Regions, rows, classes, scores) -> Instances:
  """Detections of regions, best first."""
  columns = regions.map.T
  planes = np.zeros((-(-len(regions) // 8), *columns.shape), np.uint8)
  for row in range(len(regions)):
    planes[row // 8] |= (columns == row).astype(np.uint8) << np.uint8(row % 8)
  rows = np.asarray(rows, np.int32)
  return Instances(
    np.asarray(scores, np.float32),
    np.asarray(classes, np.int32),
    rows,
    regions.areas[rows],
    PackedMasks(planes, len(regions)),
    rows,
  )


def judged_regions(example: EvalExample, regions: Regions) -> EvalExample:
  """The example with only the pixels of regions judged by class.

  Thing pixels that belong to no object [masqclip 9.2] are in no region, so no
  naming of regions could get them right.
  """
  truth = example.truth
  if truth.semantic is None:
    return example
  semantic = np.where(regions.map < 0, -1, truth.semantic)
  return dataclasses.replace(
    example, truth=dataclasses.replace(truth, semantic=semantic)
  )
