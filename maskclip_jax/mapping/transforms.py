"""How one official tensor corresponds to one or several of our arrays.

PyTorch stores linear weights as (out, in), convolutions as (out, in, height, width) and
attention's three input projections packed along the rows, in the order query, key,
value. We keep kernels as (in, out), convolutions as (height, width, in, out), and
attention per role and head. Every transform only moves values, so going there and
back gives the same bytes. Head counts come from the shapes the model expects.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np
from jaxtyping import Num

Shape = tuple[int, ...]
Array = Num[np.ndarray, '...']


class Transform(Protocol):
  """A change of layout. `shapes` are those of our arrays, in the rule's order."""

  def shape(self, shapes: tuple[Shape, ...]) -> Shape:
    """The official tensor's shape."""
    ...

  def forward(self, array: Array, shapes: tuple[Shape, ...]) -> tuple[Array, ...]:
    """Official tensor of `shape(shapes)` -> our arrays; views where possible."""
    ...

  def inverse(self, arrays: tuple[Array, ...]) -> Array:
    """Our arrays -> official tensor."""
    ...


@dataclasses.dataclass(frozen=True)
class Identity:
  """The same array on both sides: biases, norms, embeddings, scalars."""

  def shape(self, shapes):
    return shapes[0]

  def ours(self, shape: Shape) -> Shape:
    """The inverse of `shape`, which needs to know of no heads here."""
    return shape

  def forward(self, array, shapes):
    return (array,)

  def inverse(self, arrays):
    return arrays[0]


@dataclasses.dataclass(frozen=True)
class Permute:
  """Axes reordered: `axes` are the official axes in our order."""

  axes: tuple[int, ...]

  def shape(self, shapes):
    return tuple(shapes[0][axis] for axis in np.argsort(self.axes))

  def ours(self, shape: Shape) -> Shape:
    """The inverse of `shape`; a shape of another rank stays as it is."""
    return tuple(shape[a] for a in self.axes) if len(shape) == len(self.axes) else shape

  def forward(self, array, shapes):
    return (array.transpose(self.axes),)

  def inverse(self, arrays):
    return arrays[0].transpose(np.argsort(self.axes))


@dataclasses.dataclass(frozen=True)
class Widened:
  """An official array with some axes of length one before those of ours."""

  axes: int

  def shape(self, shapes):
    return (1,) * self.axes + shapes[0]

  def ours(self, shape: Shape) -> Shape:
    """The inverse of `shape`."""
    return shape[self.axes :]

  def forward(self, array, shapes):
    return (array.reshape(shapes[0]),)

  def inverse(self, arrays):
    return arrays[0].reshape((1,) * self.axes + arrays[0].shape)


@dataclasses.dataclass(frozen=True)
class Patches:
  """Linear weight (out, side * side * 3) on the pixels of a patch, row by row, <->
  convolution (side, side, 3, out)."""

  def shape(self, shapes):
    *patch, width = shapes[0]
    return (width, math.prod(patch))

  def ours(self, shape: Shape) -> Shape:
    """The inverse of `shape`, for square patches of RGB; others stay as they are."""
    if len(shape) != 2:
      return shape
    side = math.isqrt(shape[1] // 3)
    return (side, side, 3, shape[0])

  def forward(self, array, shapes):
    return (array.T.reshape(shapes[0]),)

  def inverse(self, arrays):
    return arrays[0].reshape(-1, arrays[0].shape[-1]).T


@dataclasses.dataclass(frozen=True)
class KernelToHeads:
  """Linear weight (heads * d, in) <-> kernel (in, heads, d)."""

  def shape(self, shapes):
    width, heads, depth = shapes[0]
    return (heads * depth, width)

  def forward(self, array, shapes):
    return (array.T.reshape(shapes[0]),)

  def inverse(self, arrays):
    return arrays[0].reshape(arrays[0].shape[0], -1).T


@dataclasses.dataclass(frozen=True)
class KernelFromHeads:
  """Linear weight (out, heads * d) <-> kernel (heads, d, out)."""

  def shape(self, shapes):
    heads, depth, width = shapes[0]
    return (width, heads * depth)

  def forward(self, array, shapes):
    return (array.T.reshape(shapes[0]),)

  def inverse(self, arrays):
    return arrays[0].reshape(-1, arrays[0].shape[-1]).T


@dataclasses.dataclass(frozen=True)
class KernelOfHeads:
  """Grouped 1x1 convolution (heads * out, in, 1) <-> kernel (heads, in, out)."""

  def shape(self, shapes):
    heads, inputs, outputs = shapes[0]
    return (heads * outputs, inputs, 1)

  def forward(self, array, shapes):
    heads, inputs, outputs = shapes[0]
    return (array.reshape(heads, outputs, inputs).transpose(0, 2, 1),)

  def inverse(self, arrays):
    heads, inputs, outputs = arrays[0].shape
    return arrays[0].transpose(0, 2, 1).reshape(heads * outputs, inputs, 1)


@dataclasses.dataclass(frozen=True)
class Reshape:
  """A flat official vector <-> an array of any shape, row by row."""

  def shape(self, shapes):
    return (math.prod(shapes[0]),)

  def forward(self, array, shapes):
    return (array.reshape(shapes[0]),)

  def inverse(self, arrays):
    return arrays[0].reshape(-1)


@dataclasses.dataclass(frozen=True)
class Packed:
  """Equal blocks stacked along the official tensor's first axis, one per path."""

  part: Transform

  def shape(self, shapes):
    rows, *rest = self.part.shape(shapes[:1])
    return (rows * len(shapes), *rest)

  def forward(self, array, shapes):
    blocks = np.split(array, len(shapes))
    return tuple(
      self.part.forward(block, (shape,))[0]
      for block, shape in zip(blocks, shapes, strict=True)
    )

  def inverse(self, arrays):
    return np.concatenate([self.part.inverse((array,)) for array in arrays])


IDENTITY = Identity()
ONE_BEFORE = Widened(1)
TWO_BEFORE = Widened(2)
# (out, in) -> (in, out)
LINEAR = Permute((1, 0))
# (out, in, height, width) -> (height, width, in, out)
CONV = Permute((2, 3, 1, 0))
PATCHES = Patches()
HEADS_KERNEL = KernelToHeads()
HEADS_BIAS = Reshape()
HEADS_OUT = KernelFromHeads()
HEADWISE_KERNEL = KernelOfHeads()
PACKED_KERNEL = Packed(HEADS_KERNEL)
PACKED_BIAS = Packed(HEADS_BIAS)
