"""The one rule for the size of a resized photo."""

import itertools

import pytest

from maskclip_jax.resizing import shortest_edge


def detectron2_size(height, width, short, longest):
  """`ResizeShortestEdge` stated in the order of detectron2's arithmetic."""
  scale = short * 1.0 / min(height, width)
  if height < width:
    new_height, new_width = short, scale * width
  else:
    new_height, new_width = scale * height, short
  if max(new_height, new_width) > longest:
    scale = longest * 1.0 / max(new_height, new_width)
    new_height = new_height * scale
    new_width = new_width * scale
  return int(new_height + 0.5), int(new_width + 0.5)


@pytest.mark.parametrize(
  ('size', 'short', 'longest', 'expected'),
  [
    ((480, 640), 800, 1333, (800, 1067)),
    ((640, 480), 800, 1333, (1067, 800)),
    ((300, 1000), 800, 1333, (400, 1333)),
    ((622, 1244), 800, 1333, (667, 1333)),
    ((512, 683), 512, 2048, (512, 683)),
    ((1, 5000), 640, 2560, (1, 2560)),
  ],
)
def test_known_sizes(size, short, longest, expected):
  assert shortest_edge(size, short, longest) == expected


def test_detectron2_agrees_on_5800_sizes_up_to_two_to_one():
  shorts, ratios = range(200, 1360, 2), [1 + i / 9 for i in range(10)]
  sizes = [(short, round(short * r)) for short, r in itertools.product(shorts, ratios)]
  assert len(sizes) == 5800
  for height, width in sizes:
    for size in ((height, width), (width, height)):
      assert shortest_edge(size, 800, 1333) == detectron2_size(*size, 800, 1333), size
