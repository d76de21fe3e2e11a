"""A photo of any size as windows of the tower's size, and their groups on the photo.

Windows stand side by side; the last of a row and of a column moves back into the photo
and overlaps [segclip 4.3]. How many windows are real is data, so all photos of a canvas
run one program, and only real windows cost time.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8, Num

from maskclip_jax.ops.resize import resize
from maskclip_jax.postprocess.partition import INSIDE, Partition
from maskclip_jax.systems.contract import Images

T = TypeVar('T')

# Windows that go through the towers together, for each photo of a batch.
CHUNK = 2


class Windows(NamedTuple):
  """The windows of a batch of photos, all photos having room for as many.

  Attributes:
    start: first row and column of each on its photo.
    real: those that the photo has; they come first.
    covering_rows: for each row of the canvas, how many rows of windows cover it.
    covering_columns: the same for columns.
  """

  start: Int[Array, 'b t 2']
  real: Bool[Array, 'b t']
  covering_rows: Int[Array, 'b h']
  covering_columns: Int[Array, 'b w']


def window_count(side, window: int, stride: int):
  """Windows along an axis; of an integer or an array of them."""
  return (side - window + stride - 1).clip(0) // stride + 1


def place_windows(images: Images, window: int, stride: int) -> Windows:
  """Where the windows of photos lie.

  Args:
    images: photos on their canvas.
    window: side of a window, in pixels.
    stride: from one window to the next.
  """
  canvas = images.pixels.shape[1:3]
  most = [max(side - window + stride - 1, 0) // stride + 1 for side in canvas]
  hw = images.image_hw
  count = window_count(hw, window, stride)
  index = jnp.arange(most[0] * most[1])
  # Row by row, so that the real windows come first whatever their number.
  row, column = index // count[:, 1:], index % count[:, 1:]
  last = (hw - window).clip(0)[:, None]
  start = jnp.minimum(jnp.stack([row, column], -1) * stride, last)

  def covering(axis: int) -> Int[Array, 'b side']:
    starts = jnp.minimum(jnp.arange(most[axis]) * stride, last[..., axis])[..., None]
    pixel = jnp.arange(canvas[axis])
    covered = (starts <= pixel) & (pixel < starts + window)
    exists = jnp.arange(most[axis])[:, None] < count[:, axis, None, None]
    return (covered & exists).sum(1)

  return Windows(start, index < count.prod(-1)[:, None], covering(0), covering(1))


def cut_windows(
  images: Images,
  photo: Int[Array, ' n'],
  start: Int[Array, 'n 2'],
  window: int,
) -> Float[Array, 'n r r 3']:
  """The pixels of windows; of a photo that is smaller, stretched to the window.

  Args:
    images: photos on their canvas.
    photo: which photo each window is of.
    start: its first row and column there.
    window: side of a window, in pixels.
  """
  pixels = _at_least(images.pixels, window)

  def cut(photo, start):
    at = (photo, start[0], start[1], 0)
    square = jax.lax.dynamic_slice(pixels, at, (1, window, window, 3))[0]
    square = jnp.moveaxis(square.astype(jnp.float32), -1, 0)
    hw = jnp.minimum(images.image_hw[photo], window)
    return jnp.moveaxis(resize(square, (window, window), in_hw=hw), 0, -1)

  return jax.vmap(cut)(photo, start)


def _at_least(pixels: Num[Array, 'b h w c'], window: int) -> Num[Array, 'b h2 w2 c']:
  """Photos, padded by zeros to the size of a window."""
  rows, columns = (max(window - side, 0) for side in pixels.shape[1:3])
  return jnp.pad(pixels, ((0, 0), (0, rows), (0, columns), (0, 0)))


def over_real(
  encode: Callable[[Int[Array, ' n'], Int[Array, 'n 2']], T], windows: Windows
) -> T:
  """Runs a function on the real windows only, a few at a time.

  Args:
    encode: from photo numbers and starts to a tree of arrays, a row for each window.
    windows: the windows of a batch.

  Returns:
    The tree with leading axes (photo, window); zero where a window is not real.
  """
  batch, most = windows.real.shape
  total, chunk = batch * most, min(CHUNK * batch, batch * most)
  order = jnp.argsort(~windows.real.reshape(-1), stable=True)
  order = jnp.pad(order, (0, -total % chunk))
  starts = windows.start.reshape(-1, 2)

  def inputs(i):
    index = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
    return index // most, starts[index]

  def step(i, found):
    return jax.tree.map(
      lambda all_rows, rows: jax.lax.dynamic_update_slice_in_dim(
        all_rows, rows, i * chunk, 0
      ),
      found,
      encode(*inputs(i)),
    )

  shapes = jax.eval_shape(encode, *jax.eval_shape(inputs, 0))
  empty = jax.tree.map(
    lambda leaf: jnp.zeros((order.shape[0], *leaf.shape[1:]), leaf.dtype), shapes
  )
  trips = -(-windows.real.sum() // chunk)
  found = jax.lax.fori_loop(0, trips, step, empty)
  place = jnp.argsort(order[:total])
  return jax.tree.map(
    lambda rows: rows[place].reshape(batch, most, *rows.shape[1:]), found
  )


def winners(
  soft: Float[Array, 'b t g n'], images: Images, windows: Windows, window: int
) -> Int8[Array, 'b t h w']:
  """Which group of a window each pixel of the photo belongs to; -1 outside of it.

  The soft assignment is enlarged, and its best group taken of every pixel.
  """
  batch, most, groups, patches = soft.shape
  grid = round(patches**0.5)
  height, width = images.pixels.shape[1:3]
  canvas = jnp.full((max(height, window), max(width, window)), -1, jnp.int8)

  def one(inputs):
    maps, hw, start, real = inputs
    size = jnp.minimum(hw, window)
    maps = resize(maps.reshape(groups, grid, grid), (window, window), out_hw=size)
    best = maps.argmax(0).astype(jnp.int8)
    pixel = jnp.arange(window)
    inside = (pixel[:, None] < size[0]) & (pixel < size[1]) & real
    best = jnp.where(inside, best, -1)
    pasted = jax.lax.dynamic_update_slice(canvas, best, tuple(start))
    return pasted[:height, :width]

  hw = jnp.repeat(images.image_hw, most, axis=0)
  per_window = (soft, windows.start, windows.real)
  maps, start, real = (x.reshape(-1, *x.shape[2:]) for x in per_window)
  found = jax.lax.map(one, (maps, hw, start, real))
  return found.reshape(batch, most, height, width)


def masks_of(
  winner: Int8[Array, 'b t h w'], windows: Windows, groups: int
) -> Partition:
  """A mask for every group of every window.

  Where windows overlap, each has its share: the mask probabilities of a pixel add up to
  one, so that sums over masks are means over windows.
  """
  cover = windows.covering_rows[:, :, None] * windows.covering_columns[:, None]
  # sigmoid(-log(n - 1)) = 1 / n
  share = jnp.where(cover > 1, -jnp.log(jnp.maximum(cover - 1, 1)), INSIDE)
  return Partition(winner, share, groups)
