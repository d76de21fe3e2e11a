"""Writing samples into the files of a build, one whole file after another."""

import concurrent.futures
import dataclasses
import logging
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from array_record.python import array_record_module

from maskclip_jax import atomic
from maskclip_jax.data import records
from maskclip_jax.data.sources import Index, Row

if TYPE_CHECKING:
  from maskclip_jax.data.builders.base import Sample

_log = logging.getLogger(__name__)

# Random access needs one record per compressed group.
_WRITER_OPTIONS = 'group_size:1'
_ROWS = '.rows.npz'

Progress = Callable[[str, int, int], None]
Finish = Callable[[records.Record], records.Record]


class BuildError(ValueError):
  """A build that cannot go on; one line with what to do."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive samples of a split that go into one file."""

  split: str
  path: pathlib.Path
  samples: Sequence['Sample']

  @property
  def index(self) -> pathlib.Path:
    return self.path.with_name(self.path.name + _ROWS)

  def done(self) -> bool:
    return self.path.exists() and self.index.exists()


def full_disk(work: pathlib.Path) -> BuildError:
  """The error for a disk that is full."""
  return BuildError(
    f'the disk of {work} is full: free some space and run the same command again, what '
    'was built is kept'
  )


def list_shards(
  name: str,
  samples: dict[str, Sequence['Sample']],
  work: pathlib.Path,
  examples_per_shard: int,
) -> list[Shard]:
  """The files of a build, each with its samples."""
  shards = []
  for split, rows in samples.items():
    total = -(-len(rows) // examples_per_shard)
    for position in range(total):
      file = f'{name}-{split}.array_record-{position:05d}-of-{total:05d}'
      start = position * examples_per_shard
      part = rows[start : start + examples_per_shard]
      shards.append(Shard(split, work / file, part))
  return shards


def write_all(
  shards: Sequence[Shard],
  submit: Callable[['Sample'], concurrent.futures.Future],
  progress: Progress,
) -> None:
  """Writes the shards that are not done.

  Args:
    shards: all of the build.
    submit: begins to make a sample; the future returns what `made` returns.
    progress: called with split, examples done, and examples in the split.

  Raises:
    BuildError: the disk is full, or a process was killed.
    ValueError: a sample cannot be made.
  """
  totals: dict[str, int] = {}
  for shard in shards:
    totals[shard.split] = totals.get(shard.split, 0) + len(shard.samples)
  done = dict.fromkeys(totals, 0)
  left = sum(totals.values())

  def advance(split: str, count: int) -> None:
    done[split] += count
    progress(split, done[split], totals[split])

  for shard in shards:
    if shard.done():
      advance(shard.split, len(shard.samples))
    else:
      _write(shard, submit, lambda shard=shard: advance(shard.split, 1))
      _check_space(shard, left)
    left -= len(shard.samples)


def _check_space(shard: Shard, left: int) -> None:
  """Fails before hours of work if the rest cannot fit."""
  need = shard.path.stat().st_size / len(shard.samples) * (left - len(shard.samples))
  free = shutil.disk_usage(shard.path.parent).free
  if need > free:
    raise BuildError(
      f'the rest of the dataset needs about {need / 1e9:.1f} GB but the disk of '
      f'{shard.path.parent} has {free / 1e9:.1f} GB left: free some space and run the '
      'same command again, what was built is kept'
    )


def _write(
  shard: Shard,
  submit: Callable[['Sample'], concurrent.futures.Future],
  advance: Callable[[], None],
) -> None:
  futures = [submit(sample) for sample in shard.samples]
  rows = []
  try:
    with atomic.file(shard.path) as part:
      writer = array_record_module.ArrayRecordWriter(str(part), _WRITER_OPTIONS)
      for future in futures:
        made = future.result()
        if made is not None:
          writer.write(made[0])
          rows.append(made[1])
        advance()
      if not rows:
        raise ValueError(
          f'none of the {len(futures)} pairs from {shard.samples[0].key} on can be '
          'used: the reasons are in the log'
        )
      writer.close()
      # A shard that is in its place is done, so its index goes before it.
      Index.of(rows).save(shard.index)
  except concurrent.futures.BrokenExecutor as error:
    raise BuildError(
      f'a process that makes {shard.split} was killed, perhaps for want of memory: run '
      'the same command again, with fewer --workers, what was built is kept'
    ) from error
  except RuntimeError as error:
    # array_record reports a full disk only so, and mostly on closing.
    if 'No space left' in str(error):
      raise full_disk(shard.path.parent) from error
    raise
  finally:
    for future in futures:
      future.cancel()


def made(
  sample: 'Sample', finish: Finish | None, skip: bool
) -> tuple[bytes, Row] | None:
  """A record and its row, or None if it cannot be made and may be skipped."""
  try:
    record = sample.make()
    if finish is not None:
      record = finish(record)
  except ValueError as error:
    if not skip:
      raise
    _log.warning('left out: %s', error)
    return None
  return records.serialise(record), Row.of(record)
