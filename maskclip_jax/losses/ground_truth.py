"""Ground truth as losses read it: pixel by pixel, never as N x H x W floats.

Masks that do not overlap are one map of row numbers; masks that do are bit-packed. A
batch may hold both: distillation adds the teacher's masks to the dataset's segments.
Losses look up single pixels and compare, so the cost follows the sampled points and
not the number of segments times the size of the image [masqclip 12.4].
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from maskclip_jax.ops.resize import resize_taps
from maskclip_jax.ops.sampling import corners

# Rows of pixels whose membership in all segments is in memory at a time.
_BLOCK = 16


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['classes', 'valid', 'segments', 'masks'],
  meta_fields=['size'],
)
@dataclasses.dataclass(frozen=True)
class GroundTruth:
  """The segments of a batch; `jax.vmap` gives the methods one image at a time.

  Attributes:
    classes: class of each row.
    valid: rows that are segments to be found: neither padding nor crowd regions.
    size: height and width in pixels.
    segments: row number at each pixel, -1 where there is none; None without segments
      that do not overlap.
    masks: bit-packed masks (numpy.packbits along the width) of the last M rows; None
      without masks that overlap.
  """

  classes: Int[Array, '*b n']
  valid: Bool[Array, '*b n']
  size: tuple[int, int]
  segments: Int[Array, '*b h w'] | None = None
  masks: UInt8[Array, '*b m h w/8'] | None = None

  @classmethod
  def from_batch(cls, batch: Mapping[str, Array]) -> 'GroundTruth':
    """The ground truth among the arrays of a training batch (`data.examples`)."""
    masks = batch.get('masks')
    return cls(
      batch['class'],
      batch['valid'] & ~batch['crowd'],
      batch['segments'].shape[-2:],
      batch['segments'] if masks is None else None,
      masks,
    )

  @property
  def rows(self) -> int:
    """Rows of the table."""
    return self.classes.shape[-1]

  @property
  def _mapped(self) -> int:
    """How many rows are in the segment map: the first ones."""
    return self.rows - (0 if self.masks is None else self.masks.shape[-3])

  def covers(self, y: Int[Array, '*p'], x: Int[Array, '*p']) -> Bool[Array, 'n *p']:
    """Which rows of one image cover each pixel."""
    parts = []
    if self._mapped:
      row = jnp.arange(self._mapped).reshape(-1, *(1,) * y.ndim)
      parts.append(self.segments[y, x] == row)
    if self.masks is not None:
      parts.append(_bit(self.masks[:, y, x // 8], x))
    return jnp.concatenate(parts)

  def covers_own(
    self, row: Int[Array, '*p'], y: Int[Array, '*p'], x: Int[Array, '*p']
  ) -> Bool[Array, '*p']:
    """Whether a given row of one image covers a given pixel."""
    covered = jnp.zeros((), bool)
    if self._mapped:
      covered = self.segments[y, x] == row
    if self.masks is not None:
      packed = jnp.maximum(row - self._mapped, 0)
      bit = _bit(self.masks[packed, y, x // 8], x)
      covered = jnp.where(row < self._mapped, covered, bit)
    return covered

  def _pixels(self, points: Float[Array, '*p 2'], hw: Int[Array, '2'] | None):
    """The four pixels around normalised points, with their weights."""
    hw = self.size if hw is None else (hw[0], hw[1])
    size = jnp.stack([jnp.asarray(hw[1]), jnp.asarray(hw[0])]).astype(jnp.float32)
    return corners(points * size - 0.5, hw)

  def sample(
    self, points: Float[Array, 'p 2'], hw: Int[Array, '2'] | None = None
  ) -> Float[Array, 'n p']:
    """Every mask of one image at shared points, bilinear, zero beyond the border.

    Args:
      points: (x, y) in [0, 1].
      hw: the part of the image that the points span; all of it by default.
    """
    taps = self._pixels(points, hw)
    return sum(weight * self.covers(y, x) for y, x, weight in taps)

  def resized(self, shape: tuple[int, int]) -> Bool[Array, 'n h w']:
    """Every mask of one image at another size, by torch's nearest rule."""
    return self.covers(*_nearest(self.size, shape))

  def own(self, row: Int[Array, ' k']) -> Bool[Array, 'k h w']:
    """Given rows of one image, whole."""
    masks = jnp.zeros((), bool)
    if self._mapped:
      masks = self.segments == row[:, None, None]
    if self.masks is not None:
      packed = self.masks[jnp.maximum(row - self._mapped, 0)]
      bits = jnp.unpackbits(packed, axis=-1, count=self.size[1]).astype(bool)
      masks = jnp.where((row < self._mapped)[:, None, None], masks, bits)
    return masks

  def sample_own(
    self,
    row: Int[Array, ' k'],
    points: Float[Array, 'k p 2'],
    hw: Int[Array, '2'] | None = None,
  ) -> Float[Array, 'k p']:
    """Given rows of one image, each at its own points; see `sample`."""
    taps = self._pixels(points, hw)
    row = row[:, None]
    return sum(weight * self.covers_own(row, y, x) for y, x, weight in taps)

  def overlaps(
    self,
    predicted: Bool[Array, 'q h2 w2'],
    hw: Int[Array, '2'] | None = None,
  ) -> tuple[Float[Array, 'q n'], Float[Array, ' q'], Float[Array, ' n']]:
    """Pixels that predicted masks of one image share with each row.

    The ground truth is brought to the size of the predictions by torch's nearest rule.

    Args:
      predicted: masks of any size that covers the same part of the image.
      hw: that part; all of it by default.

    Returns:
      Areas of the intersections, of the predictions, and of the rows, in pixels of
      the predictions; whole numbers.
    """
    hw = self.size if hw is None else hw
    y, x = (line.reshape(-1) for line in _nearest(hw, predicted.shape[1:]))
    queries, height, width = predicted.shape
    ones = jnp.ones((1, height, width), bool)
    counted = jnp.concatenate([predicted, ones])
    spare = -height % _BLOCK
    counted = jnp.pad(counted, ((0, 0), (0, spare), (0, 0)))
    counted = counted.reshape(queries + 1, -1, _BLOCK * width)
    y = jnp.pad(y, (0, spare)).reshape(-1, _BLOCK)

    def step(total, inputs):
      y, counted = inputs
      grid = jnp.broadcast_arrays(y[:, None], x[None])
      covered = self.covers(*grid).reshape(self.rows, -1)
      # Zeros and ones are exact in bfloat16, and sums of them in float32.
      part = jnp.einsum(
        'qp,np->qn',
        counted.astype(jnp.bfloat16),
        covered.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
      )
      return total + part, None

    start = jnp.zeros((queries + 1, self.rows), jnp.float32)
    total, _ = jax.lax.scan(step, start, (y, jnp.moveaxis(counted, 1, 0)))
    areas = predicted.sum((1, 2), dtype=jnp.float32)
    return total[:-1], areas, total[-1]


def _nearest(
  hw: tuple[int, int] | Int[Array, '2'], shape: tuple[int, int]
) -> tuple[Int[Array, 'h 1'], Int[Array, '1 w']]:
  """Which rows and columns a resized map copies, by torch's nearest rule."""
  (y, _), (x, _) = (
    resize_taps(jnp.arange(length), hw[i], length, 'nearest')
    for i, length in enumerate(shape)
  )
  return y, x.T


def _bit(packed: UInt8[Array, '*p'], x: Int[Array, '*p']) -> Bool[Array, '*p']:
  return ((packed >> (7 - x % 8).astype(jnp.uint8)) & 1).astype(bool)


def pack(masks: Bool[Array, '*b h w']) -> UInt8[Array, '*b h w/8']:
  """Eight pixels to a byte along the width, the first in the highest bit."""
  return jnp.packbits(masks, axis=-1)
