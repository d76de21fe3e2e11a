"""What is true of each dataset, beyond its schema."""

import dataclasses
import functools
import os

import numpy as np
from jaxtyping import Bool, Int32

from maskclip_jax.data import described
from maskclip_jax.data.views import BACKGROUND, View, find_view, main_view
from maskclip_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Expectations:
  """Facts about a dataset.

  Attributes:
    dataset: its name.
    semantic: the view that reads the semantic maps.
    other_values: values of semantic maps that are not a class.
    background: the one of them that is judged as background in some protocol.
    highest: largest value of semantic maps whose vocabulary is a selection.
    frequent: classes of which one covers the most pixels.
    covered: stuff may be covered by objects: its row keeps the area and the box of the
      whole mask, and may have no pixel left [masqclip 9.2].
    merged: stuff classes of panoptic and semantic maps differ: compare things only.
    captioned: splits that are meant to have captions and no labels.
    own: it is labelled by its user, so that nothing is published of it.
    data_dir: where a dataset of one's own lies.
  """

  dataset: str
  semantic: str
  other_values: tuple[int, ...] = ()
  background: int | None = None
  highest: int = 0
  frequent: tuple[str, ...] = ()
  covered: bool = False
  merged: bool = False
  captioned: tuple[str, ...] = ()
  own: bool = False
  data_dir: str | os.PathLike | None = None

  @functools.cached_property
  def vocabulary(self) -> Vocabulary:
    """The vocabulary of the tables."""
    return main_view(self.dataset, self.data_dir).words()

  @functools.cached_property
  def positions(self) -> Int32[np.ndarray, ' ids']:
    """Class index in the tables by category id, -1 where there is none."""
    return main_view(self.dataset, self.data_dir).lookup

  @functools.cached_property
  def things(self) -> Bool[np.ndarray, ' ids']:
    """Which category ids are things."""
    return np.append(self.vocabulary.things, False)[self.positions]

  @functools.cached_property
  def semantic_view(self) -> View:
    return find_view(self.semantic, self.data_dir)

  @functools.cached_property
  def allowed(self) -> Bool[np.ndarray, ' values']:
    """Which values semantic maps may have."""
    allowed = self.semantic_view.lookup >= 0
    allowed[list(self.other_values)] = True
    if self.highest:
      allowed[: self.highest + 1] = True
    return allowed

  def value_names(self) -> dict[int, str]:
    """Names of the values of semantic maps that are classes."""
    view = self.semantic_view
    names = {c.id + view.offset: c.name for c in view.words().classes}
    return names if self.background is None else {self.background: BACKGROUND, **names}

  def category_names(self) -> dict[int, str]:
    """Names by category id, of the tables."""
    return {category.id: category.name for category in self.vocabulary.classes}

  def categories(self, values: Int32[np.ndarray, 'h w']) -> Int32[np.ndarray, 'h w']:
    """Category id at each pixel of a semantic map, -1 where there is none."""
    view = self.semantic_view
    return np.where(view.lookup[values] >= 0, values - view.offset, -1)


_ALL = (
  Expectations(
    'ade20k_150',
    'ade20k_150/semantic',
    other_values=(0,),
    frequent=('wall',),
    covered=True,
  ),
  Expectations(
    'ade20k_847',
    'ade20k_847/semantic',
    # The release has 3,688 kinds of objects.
    highest=3688,
    frequent=('wall', 'sky', 'building, edifice', 'tree', 'road, route'),
  ),
  Expectations('coco', 'coco/stuff171', other_values=(255,), merged=True),
  Expectations(
    'pascal_context',
    'pascal_context/459',
    other_values=(0,),
    frequent=('sky', 'grass', 'wall', 'tree', 'ground', 'water', 'person', 'building'),
  ),
  Expectations(
    'voc2012',
    'voc2012/20',
    other_values=(0, 255),
    background=0,
    frequent=(BACKGROUND,),
  ),
  Expectations('miniature', 'miniature/semantic', captioned=('pairs', 'photos')),
)


def expectations(
  dataset: str, data_dir: str | os.PathLike | None = None
) -> Expectations:
  """The facts about a dataset.

  Args:
    dataset: one of `list_datasets()`, or one's own.
    data_dir: where that one lies; TFDS's own place by default.

  Raises:
    ValueError: there are none of that name.
  """
  for facts in _ALL:
    if facts.dataset == dataset:
      return facts
  found = described.find(dataset, data_dir)
  if found is None:
    raise ValueError(f'no dataset {dataset!r} to check')
  ignored = found.contents.ignore
  view = f'{dataset}/semantic'
  return Expectations(dataset, view, ignored, own=True, data_dir=data_dir)
