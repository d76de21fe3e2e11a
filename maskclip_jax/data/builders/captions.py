"""Pairs of photo and text in any form of `data.captioned`, as one split of records.

A build under a name of your own: `data build cc3m --from captions --raw DIR`, read as
the view `cc3m/captions`.
"""

import functools
import os
from collections.abc import Sequence

from maskclip_jax.data import registry
from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.captioned import CaptionedPhotos, OnError, open_captioned


class PhotoSamples(Sequence[Sample]):
  """The samples of pairs, made when they are asked for: there may be millions.

  Args:
    pairs: all of them.
    rows: which.
  """

  def __init__(self, pairs: CaptionedPhotos, rows: range):
    self._pairs, self._rows = pairs, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return PhotoSamples(self._pairs, self._rows[index])
    row = self._rows[index]
    make = functools.partial(self._pairs.__getitem__, row)
    return Sample(self._pairs.key(row), make)


class Captions(SegmentationBuilder):
  """Photos with captions and nothing else."""

  name = 'captions'

  def __init__(self, *, name: str = name, on_error: OnError = 'stop', **kwargs):
    """Makes a builder.

    Args:
      name: of the dataset that is built.
      on_error: whether pairs that cannot be used stop the build or are left out.
      **kwargs: for `SegmentationBuilder`.
    """
    self.name, self._on_error = name, on_error
    super().__init__(**kwargs)

  @property
  def card(self) -> registry.DatasetCard:
    return registry.find_dataset(Captions.name)

  def open_raw(self, root: str | os.PathLike | None) -> CaptionedPhotos:
    """Lists the pairs under a folder.

    Raises:
      FileNotFoundError: there are none.
      ValueError: no folder was given, or some of it cannot be used.
    """
    if root is None:
      raise ValueError(f'data build {self.name} needs --raw: where the pairs lie')
    return open_captioned(root, on_error=self._on_error)

  def splits(self, raw: CaptionedPhotos) -> dict[str, Sequence[Sample]]:
    return {'train': PhotoSamples(raw, range(len(raw)))}
