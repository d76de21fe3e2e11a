"""The TFDS builder that all datasets share.

A dataset says which samples its files hold and how one becomes a record; `build.py`
writes them shard by shard, and `download_and_prepare` of TFDS works too. Examples keep
the official order (grain shuffles on reading), so a build is deterministic and a
position in the file is a name.
"""

import abc
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import tensorflow_datasets as tfds
from etils import epath

from maskclip_jax import places
from maskclip_jax.data import records, registry
from maskclip_jax.data.builders.raw import RawFiles


@dataclasses.dataclass(frozen=True)
class Sample:
  """An example that can be made.

  Attributes:
    key: the image id; unique in its split.
    make: reads the files and returns the record. Callable from any thread, and where
      the builder is `DRAWN` from any process. Raises ValueError naming a file that is
      damaged.
  """

  key: str
  make: Callable[[], records.Record]


class _OwnInfo(tfds.core.DatasetInfo):
  """What TFDS keeps of a dataset, without a look at TFDS's own bucket."""

  def initialize_from_bucket(self) -> None:
    """Does nothing: the bucket has none of ours, and each look leaves a folder."""


class SegmentationBuilder(
  tfds.core.GeneratorBasedBuilder, abc.ABC, skip_registration=True
):
  """Turns the owners' files into records of `records.py`.

  Subclasses set `name` and write `splits`. Registration with TFDS is skipped, since
  TFDS has a 'coco' of its own.
  """

  VERSION = tfds.core.Version(places.VERSION)
  # Optional parts of a dataset, and whether a build demands them.
  PARTS: ClassVar[Mapping[str, bool]] = {}
  # Archives to look into besides the downloads.
  ARCHIVES: ClassVar[tuple[str, ...]] = ()
  # Whether samples are long work in Python, which threads cannot share.
  DRAWN: ClassVar[bool] = False

  def __init__(self, *, parts: Sequence[str] | None = None, **kwargs):
    """Makes a builder.

    Args:
      parts: which of `PARTS` to build; by default the demanded ones, and of the others
        those whose files are there.
      **kwargs: for TFDS: data_dir, ...

    Raises:
      ValueError: an unknown part.
    """
    unknown = set(parts or ()) - set(self.PARTS)
    if unknown:
      raise ValueError(
        f'{self.name} has no part {sorted(unknown)[0]!r}: there are '
        f'{", ".join(self.PARTS) or "none to choose from"}'
      )
    self.wanted_parts = None if parts is None else tuple(parts)
    self._taken: set[str] = set()
    kwargs.setdefault('file_format', 'array_record')
    super().__init__(**kwargs)

  @property
  def card(self) -> registry.DatasetCard:
    return registry.find_dataset(self.name)

  @property
  def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
    lines = [f'{d.file}: {d.what}, from {d.url}' for d in self.card.downloads]
    return '\n'.join(['Put into one folder, as they are or extracted:', *lines])

  def _info(self) -> tfds.core.DatasetInfo:
    return _OwnInfo(
      builder=self,
      description=f'{self.card.title}. {self.card.notes}'.strip(),
      homepage=self.card.homepage,
      license=self.card.licence,
      features=records.features(),
      disable_shuffling=True,
    )

  def open_raw(self, root: str | os.PathLike | None) -> RawFiles:
    """Lists the owners' files under a folder.

    Raises:
      ValueError: no folder was given.
    """
    if root is None:
      raise ValueError(f'data build {self.name} needs --raw: where its files lie')
    return RawFiles(root, (*self.card.archives, *self.ARCHIVES))

  @abc.abstractmethod
  def splits(self, raw: RawFiles) -> dict[str, list[Sample]]:
    """The samples of each split, in the official order.

    Raises:
      FileNotFoundError: files are missing; says which and where to get them.
      ValueError: an annotation file is damaged or not the expected one.
    """

  def wants(self, part: str, found: object) -> bool:
    """Whether to build a part, given what was found of it (None or empty: nothing).

    A part that is demanded or was asked for counts as wanted even if it is missing, so
    that the caller reports it.
    """
    if self.wanted_parts is None:
      wanted = self.PARTS[part] or bool(found)
    else:
      wanted = part in self.wanted_parts
    if wanted:
      self._taken.add(part)
    return wanted

  def left_out(self) -> tuple[str, ...]:
    """Parts that `splits` did not take: not asked for, or not there."""
    return tuple(part for part in self.PARTS if part not in self._taken)

  def describe(
    self, shards: Mapping[str, Sequence[tuple[int, int]]], folder: os.PathLike
  ) -> None:
    """Writes the files with which TFDS reads a folder of shards.

    Args:
      shards: number of examples and of bytes of each shard, by split.
      folder: where the shards are and the files go.
    """
    template = tfds.core.ShardedFileTemplate(
      data_dir=epath.Path(folder),
      dataset_name=self.name,
      filetype_suffix='array_record',
    )
    splits = [
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[examples for examples, _ in rows],
        num_bytes=sum(size for _, size in rows),
        filename_template=template.replace(split=split),
      )
      for split, rows in shards.items()
    ]
    self.info.set_splits(tfds.core.splits.SplitDict(splits))
    self.info.write_to_directory(folder)

  def _split_generators(self, dl_manager):
    samples = self.splits(self.open_raw(dl_manager.manual_dir))
    return {split: self._generate_examples(rows) for split, rows in samples.items()}

  def _generate_examples(self, samples: Sequence[Sample]):
    for index, sample in enumerate(samples):
      yield index, sample.make()
