"""How well mined regions agree with ground truth, where the photos have one."""

from collections.abc import Sequence

import cv2
import numpy as np

from maskclip_jax.data.records import Record, read_label_map
from maskclip_jax.data.views import View, main_view
from maskclip_jax.mining.miner import Pair, mask_of
from maskclip_jax.text.lexicon import Lexicon


class Judge:
  """Compares regions with the labels of a dataset.

  Args:
    view: how the labels are read.
  """

  def __init__(self, view: View):
    self._view, self._lexicon = view, Lexicon(view.words())

  @classmethod
  def of(cls, dataset: str, data_dir: str | None = None) -> 'Judge | None':
    """The judge of a dataset; None if it has no maps of segments or classes.

    Args:
      dataset: its name.
      data_dir: where one's own are built.
    """
    try:
      view = main_view(dataset, data_dir)
    except ValueError:
      return None
    return cls(view) if view.field in ('segments', 'semantic') else None

  def overlaps(self, record: Record, pairs: Sequence[Pair]) -> list[float | None]:
    """The IoU of each region with what its noun names.

    Returns:
      The best IoU among the segments of the noun's class and all of them together; 0
      where the photo shows none, None where the noun is not a class of the dataset or
      the photo has no labels of its own size.
    """
    if not pairs or not record[self._view.field]:
      return [None] * len(pairs)
    ids, classes = self._labels(record)
    ratio = ids.shape[0] / ids.shape[1] * pairs[0].size[1] / pairs[0].size[0]
    # A photo that EXIF turns lies across its labels; rounding moves a side by a pixel.
    if not 0.9 < ratio < 1.1:
      return [None] * len(pairs)
    height, width = pairs[0].size
    resized = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return [self._overlap(pair, resized, classes) for pair in pairs]

  def _labels(self, record: Record) -> tuple[np.ndarray, dict[int, int]]:
    """The map of the photo, and the class of each value in it."""
    values = read_label_map(record[self._view.field])
    if self._view.field == 'segments':
      table = record['segments_info']
      stored = dict(
        zip(table['id'].tolist(), table['category_id'].tolist(), strict=True)
      )
    else:
      stored = {value: value for value in np.unique(values).tolist()}
    lookup = self._view.lookup
    return values, {
      value: int(lookup[number]) if 0 <= number < len(lookup) else -1
      for value, number in stored.items()
    }

  def _overlap(
    self, pair: Pair, ids: np.ndarray, classes: dict[int, int]
  ) -> float | None:
    found = self._lexicon.find(pair.noun)
    if len(found) != 1 or found[0].written != pair.noun:
      return None
    segments = [value for value, label in classes.items() if label == found[0].index]
    if not segments:
      return 0.0
    top, left, bottom, right = pair.box
    inside = ids[top:bottom, left:right][mask_of(pair)]
    common = [np.count_nonzero(inside == value) for value in segments]
    total = [np.count_nonzero(ids == value) for value in segments]
    # Segments are disjoint, so all of them together have the sums.
    choices = [*zip(common, total, strict=True), (sum(common), sum(total))]
    return max(both / (pair.area + size - both) for both, size in choices)
