"""Masks that divide a photo's regions among them, a byte a pixel and region.

A system that reads a photo in windows has a set of masks for each, of which exactly one
holds at every pixel of the window. A large photo has hundreds of them, as mask logits
gigabytes; who owns which pixel says the same in a thirtieth of the memory, and logits
are made of it where post-processing needs them, one tile at a time.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Int, Int8

# Sigmoids of these are 1 and, beside any score, 0. They are as far from zero, so that
# between two masks that are enlarged as logits there is no gap.
INSIDE, OUTSIDE = 50.0, -50.0
# A part that no pixel belongs to.
_NOBODY = -128


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['owner', 'inside'],
  meta_fields=['parts'],
)
@dataclasses.dataclass(frozen=True)
class Partition:
  """Stands for mask logits [*b, regions * parts, h, w], region by region.

  Attributes:
    owner: which of the parts of a region a pixel belongs to; -1 outside of it.
    inside: the logit that a mask has where it is; it has `OUTSIDE` elsewhere.
    parts: masks of each region.
  """

  owner: Int8[Array, '*b r h w']
  inside: Float[Array, '*b h w']
  parts: int

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the logits."""
    *batch, regions, height, width = self.owner.shape
    return (*batch, regions * self.parts, height, width)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, photo: int) -> 'Partition':
    """The masks of one photo of a batch."""
    return Partition(self.owner[photo], self.inside[photo], self.parts)

  def logits(self) -> Float[Array, '*b q h w']:
    """The mask logits, all of them at once."""
    parts = jnp.arange(self.parts, dtype=jnp.int8)[:, None, None]
    own = self.owner[..., None, :, :] == parts
    inside = self.inside[..., None, None, :, :]
    return jnp.where(own, inside, OUTSIDE).reshape(self.shape)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(self.logits(), dtype)


# So that `jax.export` can store programs that give them; what is static is `parts`.
export.register_pytree_node_serialization(
  Partition,
  serialized_name='maskclip_jax.Partition',
  serialize_auxdata=lambda static: json.dumps(static).encode(),
  deserialize_auxdata=lambda data: tuple(json.loads(data)),
)


@jax.jit
def _boxes(
  owner: Int8[Array, 'r h w'],
) -> tuple[Int[Array, 'r 2'], Int[Array, 'r 2']]:
  """First and last row and column of each region; of an empty one, last is -1."""
  own = owner >= 0
  first, last = [], []
  for axis in (2, 1):
    line = own.any(axis)
    count = line.shape[1]
    some = line.any(1)
    first.append(line.argmax(1))
    last.append(jnp.where(some, count - 1 - line[:, ::-1].argmax(1), -1))
  return jnp.stack(first, -1), jnp.stack(last, -1)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['masks', 'region', 'part'],
  meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class ArrangedPartition:
  """A partition of one photo whose masks are taken in blocks; see `tiles.arrange`.

  Attributes:
    masks: the partition.
    region, part: of each mask of each block; masks that fill the last block have a part
      that no pixel belongs to.
  """

  masks: Partition
  region: Int[Array, 'blocks block']
  part: Int[Array, 'blocks block']

  @classmethod
  def of(
    cls, masks: Partition, order: Int[np.ndarray, ' q'], block: int
  ) -> 'ArrangedPartition':
    """The masks in a given order, `block` at a time."""
    filling = (0, -len(order) % block)
    region = np.pad(order // masks.parts, filling)
    part = np.pad(order % masks.parts, filling, constant_values=_NOBODY)
    shape = (-1, block)
    return cls(
      masks,
      jnp.asarray(region.reshape(shape), jnp.int32),
      jnp.asarray(part.reshape(shape), jnp.int8),
    )

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """(blocks, h, block, w), that of the logits in this order."""
    blocks, block = self.region.shape
    height, width = self.masks.inside.shape
    return blocks, height, block, width

  @property
  def device(self):
    return self.masks.owner.device

  def near(
    self, corners: Int[np.ndarray, 'n 2'], size: tuple[int, int]
  ) -> Int[np.ndarray, 'n m']:
    """The blocks whose regions reach into each of some windows of the maps.

    Args:
      corners: first row and column of each window.
      size: rows and columns of all of them.

    Returns:
      Ascending numbers of blocks, as many for each window; -1 fills up. There are few
      such widths, as programs are compiled for each.
    """
    first, last = (np.asarray(side) for side in _boxes(self.masks.owner))
    inside = (first < (corners + size)[:, None]) & (last >= corners[:, None])
    reached = inside.all(-1)[:, np.asarray(self.region)]
    reached &= np.asarray(self.part) != _NOBODY
    reached = reached.any(-1)
    most = max(int(reached.sum(1).max()), 1)
    width = min(1 << (most - 1).bit_length(), reached.shape[1])
    blocks = np.where(reached, np.arange(reached.shape[1]), reached.shape[1])
    blocks = np.sort(blocks, axis=1)[:, :width]
    return np.where(blocks < reached.shape[1], blocks, -1)

  def select(self, blocks: Int[np.ndarray, ' m']) -> 'ArrangedPartition':
    """Some of the blocks; -1 gives one of masks that no pixel belongs to."""
    part = np.asarray(self.part)[blocks]
    part[blocks < 0] = _NOBODY
    return ArrangedPartition(self.masks, np.asarray(self.region)[blocks], part)

  def window(
    self, index: Int[Array, ''] | int, corner: Int[Array, '2'], size: tuple[int, int]
  ) -> Float[Array, 'h block w']:
    """The logits of a block in a window of the maps."""
    inside = jax.lax.dynamic_slice(self.masks.inside, tuple(corner), size)

    def one(region, part):
      start = (region, corner[0], corner[1])
      owner = jax.lax.dynamic_slice(self.masks.owner, start, (1, *size))[0]
      return jnp.where(owner == part, inside, OUTSIDE)

    region, part = self.region[index], self.part[index]
    return jnp.stack([one(region[i], part[i]) for i in range(len(part))], axis=1)
