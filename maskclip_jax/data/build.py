"""Building a dataset: resumable, and nothing half-done is ever in its place.

Shards are written one after another into `<version>.building`; each appears whole or
not at all. When all are there the folder gets its final name. A build that was stopped,
or met a damaged file, continues where it was when it is started again.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from array_record.python import array_record_module

from maskclip_jax import atomic, locks
from maskclip_jax.data import records, registry
from maskclip_jax.data.sources import Index, Row, dataset_path, index_path

if TYPE_CHECKING:
  from maskclip_jax.data.builders.base import Sample, SegmentationBuilder

# Random access needs one record per compressed group.
_WRITER_OPTIONS = 'group_size:1'
_PLAN = 'plan.json'
_SUMMARY = 'build.json'
_LOCK = 'lock'
_ROWS = '.rows.npz'
# Examples from which on processes are worth the seconds that they take to start.
_MANY = 1000

Progress = Callable[[str, int, int], None]


class BuildError(ValueError):
  """A build that cannot go on; one line with what to do."""


@dataclasses.dataclass(frozen=True)
class Built:
  """A finished build.

  Attributes:
    path: the dataset's folder.
    examples: how many, by split.
    existed: it had been built before; nothing was done.
    resumed: how many examples an earlier, unfinished build had left.
    left_out: parts of the dataset that are not in it.
  """

  path: pathlib.Path
  examples: dict[str, int]
  existed: bool = False
  resumed: int = 0
  left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Shard:
  """Consecutive samples of a split that go into one file."""

  split: str
  path: pathlib.Path
  samples: Sequence['Sample']

  @property
  def index(self) -> pathlib.Path:
    return self.path.with_name(self.path.name + _ROWS)

  def done(self) -> bool:
    return self.path.exists() and self.index.exists()


def build(
  name: str,
  raw: str | os.PathLike | None,
  data_dir: str | os.PathLike,
  *,
  parts: Sequence[str] | None = None,
  workers: int | None = None,
  examples_per_shard: int = 1000,
  progress: Progress | None = None,
  **options: Any,
) -> Built:
  """Builds a dataset from the owners' files, as ArrayRecord that TFDS can read.

  Args:
    name: one of `list_datasets()`.
    raw: folder with the files that the dataset's card names, archived or extracted;
      None for a dataset that needs none.
    data_dir: where datasets live; gets `name/version/`.
    parts: parts of the dataset to build (see the builder); by default all that are
      demanded and all others that are found.
    workers: threads, or for many samples that are drawn processes (a script then has to
      call this under `if __name__ == '__main__':`); one per core by default.
    examples_per_shard: size of the files, and how much work a stop can cost.
    progress: called with split, examples done, and examples in the split.
    **options: for the builder of this dataset, such as `sizes` of 'miniature'.

  Raises:
    FileNotFoundError: files are missing; says which.
    ValueError: a file is damaged or of another dataset; names it.
    BuildError: the disk is full or not writable, or another build is running.
  """
  builder_class = registry.find_dataset(name).builder_class()
  final = dataset_path(name, data_dir)
  builder = builder_class(data_dir=final.parent.parent, parts=parts, **options)
  if final.exists():
    counts = {key: split.num_examples for key, split in builder.info.splits.items()}
    left_out = read_summary(final)['left_out']
    return Built(final, counts, existed=True, left_out=tuple(left_out))
  files = builder.open_raw(raw)
  samples = builder.splits(files)
  _check_keys(samples)
  work = final.with_name(final.name + '.building')
  with _writable(work), _exclusive(work):
    plan = _plan(builder, samples, files.fingerprint(), examples_per_shard)
    _prepare(work, plan)
    shards = _shards(name, samples, work, examples_per_shard)
    resumed = sum(len(shard.samples) for shard in shards if shard.done())
    left = sum(map(len, samples.values())) - resumed
    in_processes = builder.DRAWN and left >= _MANY
    with _pool(workers or os.cpu_count() or 1, in_processes) as pool:
      _write_all(shards, pool, progress or _silent)
    _finish(builder, shards, work, final, plan)
  counts = {split: len(rows) for split, rows in samples.items()}
  return Built(final, counts, resumed=resumed, left_out=builder.left_out())


def read_summary(folder: pathlib.Path) -> dict:
  """How a dataset was built: version, files, parts that were left out."""
  return json.loads((folder / _SUMMARY).read_text())


def _silent(split: str, done: int, total: int) -> None:
  del split, done, total


def _check_keys(samples: dict[str, list['Sample']]) -> None:
  for split, rows in samples.items():
    keys = {row.key for row in rows}
    if len(keys) < len(rows):
      raise ValueError(
        f'the {split} split lists {len(rows) - len(keys)} photos twice: a list or '
        "annotation file was changed, use the owners' one"
      )
    if not rows:
      raise FileNotFoundError(f'the {split} split has no photos: files are missing')


@contextlib.contextmanager
def _writable(work: pathlib.Path) -> Iterator[None]:
  """Turns the ways a disk can refuse into one line."""
  try:
    work.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    if error.errno == errno.ENOSPC:
      raise _full(work) from error
    refusals = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
    if error.errno in refusals:
      raise BuildError(
        f'cannot write to {work} ({os.strerror(error.errno)}): choose another '
        '--data_dir or change its permissions'
      ) from error
    raise


def _full(work: pathlib.Path) -> BuildError:
  return BuildError(
    f'the disk of {work} is full: free some space and run the same command again, what '
    'was built is kept'
  )


@contextlib.contextmanager
def _exclusive(work: pathlib.Path) -> Iterator[None]:
  """Keeps a second build of the same dataset out."""
  try:
    with locks.exclusive(work / _LOCK):
      yield
  except locks.Locked as error:
    raise BuildError(f'{error} builds in {work}: wait for it or stop it') from error


def _plan(
  builder: 'SegmentationBuilder',
  samples: dict[str, list['Sample']],
  fingerprint: str,
  examples_per_shard: int,
) -> dict:
  """All that must be equal for an earlier build's shards to be used."""
  keys = hashlib.sha256()
  for split, rows in samples.items():
    keys.update('\n'.join([split, *(row.key for row in rows)]).encode())
  return {
    'dataset': builder.name,
    'version': str(builder.VERSION),
    'left_out': builder.left_out(),
    'examples_per_shard': examples_per_shard,
    'keys': keys.hexdigest(),
    'files': fingerprint,
  }


def _prepare(work: pathlib.Path, plan: dict) -> None:
  """Removes what an earlier build left, unless it followed the same plan."""
  text = json.dumps(plan, indent=2)
  path = work / _PLAN
  same = path.exists() and path.read_text() == text
  for entry in work.iterdir():
    if entry.name != _LOCK and (not same or entry.name.endswith('.part')):
      entry.unlink()
  atomic.write(path, text)


def _shards(
  name: str,
  samples: dict[str, list['Sample']],
  work: pathlib.Path,
  examples_per_shard: int,
) -> list[_Shard]:
  shards = []
  for split, rows in samples.items():
    total = -(-len(rows) // examples_per_shard)
    for position in range(total):
      file = f'{name}-{split}.array_record-{position:05d}-of-{total:05d}'
      start = position * examples_per_shard
      part = rows[start : start + examples_per_shard]
      shards.append(_Shard(split, work / file, part))
  return shards


def _pool(workers: int, in_processes: bool) -> concurrent.futures.Executor:
  if not in_processes:
    return concurrent.futures.ThreadPoolExecutor(workers)
  return concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context('spawn'), _obey
  )


def _obey() -> None:
  """Lets a process leave interrupts to its parent, and not outlive it."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def _write_all(
  shards: Sequence[_Shard], pool: concurrent.futures.Executor, progress: Progress
) -> None:
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
      _write(shard, pool, lambda shard=shard: advance(shard.split, 1))
      _check_space(shard, left)
    left -= len(shard.samples)


def _check_space(shard: _Shard, left: int) -> None:
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
  shard: _Shard,
  pool: concurrent.futures.Executor,
  advance: Callable[[], None],
) -> None:
  futures = [pool.submit(_make, sample) for sample in shard.samples]
  rows = []
  try:
    with atomic.file(shard.path) as part:
      writer = array_record_module.ArrayRecordWriter(str(part), _WRITER_OPTIONS)
      for future in futures:
        data, row = future.result()
        writer.write(data)
        rows.append(row)
        advance()
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
      raise _full(shard.path.parent) from error
    raise
  finally:
    for future in futures:
      future.cancel()


def _make(sample: 'Sample') -> tuple[bytes, Row]:
  record = sample.make()
  return records.serialise(record), Row.of(record)


def _finish(
  builder: 'SegmentationBuilder',
  shards: Sequence[_Shard],
  work: pathlib.Path,
  final: pathlib.Path,
  plan: dict,
) -> None:
  """Writes TFDS's metadata and the indexes, and gives the folder its name."""
  by_split: dict[str, list[_Shard]] = {}
  for shard in shards:
    by_split.setdefault(shard.split, []).append(shard)
  sizes = {
    split: [(len(shard.samples), shard.path.stat().st_size) for shard in parts]
    for split, parts in by_split.items()
  }
  builder.describe(sizes, work)
  for split, parts in by_split.items():
    index = Index.join([Index.load(shard.index) for shard in parts])
    index.save(index_path(work, split))
  atomic.write(work / _SUMMARY, json.dumps(plan, indent=2))
  os.replace(work, final)
  # What only a build needs goes last: until the rename it can still be resumed.
  for name in (_PLAN, _LOCK, *(shard.index.name for shard in shards)):
    (final / name).unlink()
