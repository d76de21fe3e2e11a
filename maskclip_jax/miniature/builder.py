"""The miniature world: drawn, not read, so that it can be built anywhere in minutes."""

import functools
from collections.abc import Mapping
from typing import ClassVar

from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.miniature import examples, pairs


class Drawn:
  """Stands for the files of a dataset that needs none."""

  def __init__(self, text: str):
    self._text = text

  def fingerprint(self) -> str:
    """Changes when the same seed would draw other pictures."""
    return self._text


class Miniature(SegmentationBuilder):
  """108 things and 8 stuff; `semantic` is the category id, 1 to 116."""

  name = 'miniature'
  MANUAL_DOWNLOAD_INSTRUCTIONS = None
  DRAWN = True
  SIZES: ClassVar[Mapping[str, int]] = {
    'train': 4_000,
    'test': 250,
    'shifted': 250,
    'pairs': 36_000,
    'photos': 20_000,
  }

  def __init__(
    self, *, sizes: Mapping[str, int] | None = None, seed: int = 0, **kwargs
  ):
    """Makes a builder.

    Args:
      sizes: examples by split, where not all splits of the full size are wanted.
      seed: another seed, another world of the same words.
      **kwargs: for `SegmentationBuilder`.

    Raises:
      ValueError: no such split.
    """
    self._sizes = dict(self.SIZES if sizes is None else sizes)
    self._seed = seed
    if unknown := sorted(set(self._sizes) - set(self.SIZES)):
      raise ValueError(
        f'{self.name} has no split {unknown[0]!r}: there are {", ".join(self.SIZES)}'
      )
    super().__init__(**kwargs)

  def open_raw(self, root) -> Drawn:
    """Nothing to open.

    Raises:
      ValueError: a folder was given.
    """
    if root is not None:
      raise ValueError(f'{self.name} is drawn and reads no files: leave out --raw')
    return Drawn(f'revision {examples.REVISION}, seed {self._seed}')

  def splits(self, raw: Drawn) -> dict[str, list[Sample]]:
    """The samples of each split; pictures are drawn when they are written."""
    del raw
    return {
      split: [self._sample(split, index) for index in range(size)]
      for split, size in self._sizes.items()
    }

  def _sample(self, split: str, index: int) -> Sample:
    captioned = {'pairs': pairs.pair, 'photos': pairs.photo}
    if split in captioned:
      make = functools.partial(captioned[split], self._seed, index)
    else:
      make = functools.partial(examples.scene, self._seed, split, index)
    return Sample(f'{split}-{index:06d}', make)

  def _split_generators(self, dl_manager):
    del dl_manager
    samples = self.splits(self.open_raw(None))
    return {split: self._generate_examples(rows) for split, rows in samples.items()}
