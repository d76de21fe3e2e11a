"""Running a network over many photos: batched by canvas, on all local devices.

Photos whose canvases agree share a program. Every device gets its rows of the batch and
runs the same program on them as it would alone (`shard_map`), so the number of devices
changes no number, and results are post-processed where they lie.
"""

import copy
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Int, UInt8

from maskclip_jax import photos
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.resizing import shortest_edge
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import STRIDE, Images, Outputs, Scores, TextBank
from maskclip_jax.systems.image_outputs import ImageOutputs
from maskclip_jax.systems.system import Preprocessing

Photo = UInt8[np.ndarray, 'height width 3']


@dataclasses.dataclass(frozen=True)
class Variant:
  """One way to show a photo to the network, for test-time augmentation.

  Attributes:
    scale: factor on the size that the protocol resizes to.
    flip: whether left and right are exchanged.
  """

  scale: float = 1.0
  flip: bool = False

  def photo(self, photo: Photo, preprocessing: Preprocessing) -> Photo:
    """The photo as the network sees it."""
    size = shortest_edge(
      photo.shape[:2],
      round(preprocessing.short_edge * self.scale),
      round(preprocessing.long_edge * self.scale),
    )
    resized = photos.resize_photo(photo, *size, preprocessing.resample)
    return np.ascontiguousarray(resized[:, ::-1]) if self.flip else resized


PLAIN = (Variant(),)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassColumns:
  """A text bank on the host, for post-processing on any device.

  Attributes:
    valid: columns that exist.
    thing: columns that are countable.
    void: the column that is never a result.
  """

  valid: Bool[np.ndarray, ' k']
  thing: Bool[np.ndarray, ' k']
  void: Bool[np.ndarray, ' k']

  @classmethod
  def of(cls, bank: TextBank) -> 'ClassColumns':
    return cls(*(np.asarray(x) for x in (bank.valid, bank.thing, bank.void)))


class Predictor:
  """A network, to be run with its words on all devices of this host.

  `loaded` gives it the weights and the words that it runs with.

  Args:
    segmenter: the model; its weights are not read.
    scores: how class scores are combined.
    batch_size: photos per call, over all devices.
    devices: all local ones by default.

  Raises:
    ValueError: the batch cannot be shared equally by the devices.
  """

  def __init__(
    self,
    segmenter: Segmenter,
    scores: Scores,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
  ):
    devices = list(devices or jax.local_devices())
    if batch_size < 1 or batch_size % len(devices):
      raise ValueError(
        f'a batch of {batch_size} cannot be shared by {len(devices)} devices: use a '
        'multiple of their number'
      )
    mesh = Mesh(np.array(devices), ('data',))
    whole, rows = PartitionSpec(), PartitionSpec('data')
    forward, _ = segmenter.as_function()
    self.batch_size, self.devices = batch_size, len(devices)
    self._rows, self._whole = NamedSharding(mesh, rows), NamedSharding(mesh, whole)
    self._scores = scores
    self._forward = jax.jit(
      jax.shard_map(
        lambda weights, images: forward(weights[0], images, *weights[1:]),
        mesh=mesh,
        in_specs=(whole, rows),
        out_specs=rows,
        check_vma=False,
      )
    )

  def loaded(self, segmenter: Segmenter, bank: TextBank) -> 'Predictor':
    """The same program with the weights of a segmenter and with class vectors.

    Weights that lie on these devices already are not copied.
    """
    other = copy.copy(self)
    _, weights = segmenter.as_function()
    other._weights = jax.device_put((weights, bank, self._scores), self._whole)
    return other

  def start(
    self,
    batch: Sequence[Photo],
    originals: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
  ) -> 'Running':
    """Starts the network on photos, without waiting for it.

    Args:
      batch: resized photos, at most `batch_size`; black ones fill it up.
      originals: height and width of each photo before.
      canvas: holds all of them.
    """
    missing = self.batch_size - len(batch)
    black = np.zeros((STRIDE, STRIDE, 3), np.uint8)
    images = Images.from_arrays([*batch, *[black] * missing], canvas)
    outputs = self._forward(self._weights, jax.device_put(images, self._rows))
    resized = [photo.shape[:2] for photo in batch]
    return Running(outputs, np.asarray(images.padded_hw), resized, originals)


@dataclasses.dataclass(frozen=True, eq=False)
class Running:
  """A batch on its way through the network."""

  outputs: Outputs
  padded: Int[np.ndarray, 'b 2']
  resized: Sequence[tuple[int, int]]
  originals: Sequence[tuple[int, int]]

  def images(self) -> list[ImageOutputs]:
    """The outputs for each photo, once they are there."""
    mask_hw = np.asarray(self.outputs.mask_hw)
    sizes = zip(self.resized, self.originals, strict=True)
    return [
      _row(self.outputs, row, Geometry(mask_hw[row], self.padded[row], *size))
      for row, size in enumerate(sizes)
    ]


def _row(outputs: Outputs, row: int, geometry: Geometry) -> ImageOutputs:
  """One photo's outputs, without leaving their device."""

  def pick(array):
    if array is None:
      return None
    for shard in array.addressable_shards:
      rows = shard.index[0]
      first = rows.start or 0
      if first <= row < first + shard.data.shape[0]:
        return shard.data[row - first]
    raise IndexError(f'row {row} of {array.shape[0]}')

  return ImageOutputs(
    jax.tree.map(pick, outputs.mask_logits),
    pick(outputs.class_logits),
    pick(outputs.objectness),
    geometry,
  )
