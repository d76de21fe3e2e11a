"""The size of a resized photo: one rule for training, evaluation and prediction."""

Size = tuple[int, int]


def shortest_edge(size: Size, short: int, longest: int) -> Size:
  """The size with the short side at `short`, unless the long side exceeds `longest`.

  Detectron2's rule to the last bit [masqclip 7.4]: the short side first, then the long
  one if need be, each side rounded as int(x + 0.5). One factor for both steps would
  round differently: 622 x 1244 becomes 667 x 1333 at 800 / 1333, not 666 x 1333.

  Args:
    size: height and width, pixels.
    short: the short side of the result, pixels.
    longest: bound of its long side, pixels.

  Returns:
    Height and width, at least 1.
  """
  scale = short / min(size)
  height, width = (
    (short, scale * size[1]) if size[0] < size[1] else (scale * size[0], short)
  )
  if max(height, width) > longest:
    scale = longest / max(height, width)
    height, width = height * scale, width * scale
  return max(int(height + 0.5), 1), max(int(width + 0.5), 1)
