"""Building a dataset: resumable, and nothing half-done is ever in its place.

Shards are written one after another into `<version>.building`; each appears whole or
not at all. When all are there the folder gets its final name. A build that was stopped,
or met a damaged file, continues where it was when it is started again.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from array_record.python import array_record_module

from maskclip_jax import atomic, locks, plain
from maskclip_jax.data import records, registry
from maskclip_jax.data.sources import Index, Row, dataset_path, index_path
from maskclip_jax.data.views import view_names
from maskclip_jax.processes import process_pool

if TYPE_CHECKING:
  from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
  from maskclip_jax.data.builders.extras import Extras
  from maskclip_jax.data.captioned import OnError

_log = logging.getLogger(__name__)

# Random access needs one record per compressed group.
_WRITER_OPTIONS = 'group_size:1'
_PLAN = 'plan.json'
_SUMMARY = 'build.json'
_LOCK = 'lock'
_ROWS = '.rows.npz'
# Examples from which on processes are worth the seconds that they take to start: drawn
# ones, and ones that are cut into superpixels.
_MANY, _MANY_CUT = 1000, 64

Progress = Callable[[str, int, int], None]
Finish = Callable[[records.Record], records.Record]


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
    refused: how many pairs could not be used and are not in it.
  """

  path: pathlib.Path
  examples: dict[str, int]
  existed: bool = False
  resumed: int = 0
  left_out: tuple[str, ...] = ()
  refused: int = 0


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
  read_as: str | None = None,
  on_error: 'OnError' = 'stop',
  extras: 'Extras | None' = None,
  workers: int | None = None,
  examples_per_shard: int = 1000,
  progress: Progress | None = None,
  **options: Any,
) -> Built:
  """Builds a dataset from the owners' files, as ArrayRecord that TFDS can read.

  Args:
    name: one of `list_datasets()`, or with `read_as` a name of your own.
    raw: folder with the files that the dataset's card names, archived or extracted;
      None for a dataset that needs none.
    data_dir: where datasets live; gets `name/version/`.
    parts: parts of the dataset to build (see the builder); by default all that are
      demanded and all others that are found.
    read_as: 'captions' builds pairs of photo and text under any other name.
    on_error: whether pairs that cannot be used stop the build, or are left out and told
      in the log; datasets of their owners are whole or not built.
    extras: what is added to every record.
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
  card = registry.find_dataset(name if read_as is None else read_as)
  options |= _pair_options(name, card.name, on_error)
  final = dataset_path(name, data_dir)
  builder = card.builder_class()(data_dir=final.parent.parent, parts=parts, **options)
  if final.exists():
    return _existing(builder, final, extras)
  files = builder.open_raw(raw)
  samples = builder.splits(files)
  _check_keys(samples)
  work = final.with_name(final.name + '.building')
  with _writable(work), _exclusive(work):
    plan = _plan(builder, samples, files.fingerprint(), examples_per_shard)
    lost = getattr(files, 'refused', ())
    for line in lost:
      _log.warning('left out: %s', line)
    plan |= {'on_error': on_error, 'extras': repr(extras), 'refused': len(lost)}
    _prepare(work, plan)
    shards = _shards(name, samples, work, examples_per_shard)
    resumed = sum(len(shard.samples) for shard in shards if shard.done())
    left = sum(map(len, samples.values())) - resumed
    in_processes = builder.DRAWN and left >= _MANY
    workers = workers or os.cpu_count() or 1
    apart = extras is not None and not in_processes and left >= _MANY_CUT
    with (
      _pool(workers, in_processes) as pool,
      _finishing(extras, workers, apart=apart) as finish,
    ):
      make = functools.partial(_make, finish=finish, skip=on_error == 'skip')
      submit = functools.partial(pool.submit, make)
      _write_all(shards, submit, progress or _silent)
    counts = _finish(builder, shards, work, final, plan)
  refused = read_summary(final)['refused']
  return Built(final, counts, False, resumed, builder.left_out(), refused)


def read_summary(folder: pathlib.Path) -> dict:
  """How a dataset was built: version, files, parts that were left out."""
  return plain.read_json(folder / _SUMMARY)


def _existing(
  builder: 'SegmentationBuilder', final: pathlib.Path, extras: 'Extras | None'
) -> Built:
  """What an earlier build made.

  Raises:
    BuildError: it was made without what is now to be added.
  """
  summary = read_summary(final)
  if extras is not None and summary.get('extras') != repr(extras):
    raise BuildError(
      f'{final} was built with other superpixels or sizes of photos, or without: '
      'delete it, or choose another --data_dir'
    )
  counts = {key: split.num_examples for key, split in builder.info.splits.items()}
  left_out, refused = tuple(summary['left_out']), summary.get('refused', 0)
  return Built(final, counts, True, 0, left_out, refused)


def _silent(split: str, done: int, total: int) -> None:
  del split, done, total


def _pair_options(name: str, read_as: str, on_error: 'OnError') -> dict[str, Any]:
  """What the builder of pairs needs to know besides, and no other.

  Raises:
    ValueError: another dataset is to be renamed, or is to leave damaged photos out.
  """
  if read_as == 'captions':
    if not name.isidentifier() or view_names(name):
      raise ValueError(
        f'{name!r} cannot be the name of your pairs: take letters, digits and _, and '
        'no name of another dataset'
      )
    return {'name': name, 'on_error': on_error}
  if name != read_as:
    raise ValueError('only pairs have names of your own: use --from captions')
  if on_error != 'stop':
    raise ValueError(f'{name} is built whole or not at all: leave out --on_error')
  return {}


def _check_keys(samples: dict[str, Sequence['Sample']]) -> None:
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
  samples: dict[str, Sequence['Sample']],
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
  samples: dict[str, Sequence['Sample']],
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
  return process_pool(workers)


@contextlib.contextmanager
def _finishing(
  extras: 'Extras | None', workers: int, *, apart: bool
) -> Iterator[Finish | None]:
  """What finishes a record; in processes of its own if threads call it."""
  if not apart:
    yield extras
    return
  with _pool(workers, in_processes=True) as processes:
    yield lambda record: processes.submit(extras, record).result()


def _write_all(
  shards: Sequence[_Shard],
  submit: Callable[['Sample'], concurrent.futures.Future],
  progress: Progress,
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
      _write(shard, submit, lambda shard=shard: advance(shard.split, 1))
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
      raise _full(shard.path.parent) from error
    raise
  finally:
    for future in futures:
      future.cancel()


def _make(
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


def _finish(
  builder: 'SegmentationBuilder',
  shards: Sequence[_Shard],
  work: pathlib.Path,
  final: pathlib.Path,
  plan: dict,
) -> dict[str, int]:
  """Writes TFDS's metadata and the indexes, and gives the folder its name.

  Returns:
    How many examples there are, by split.
  """
  by_split: dict[str, list[_Shard]] = {}
  for shard in shards:
    by_split.setdefault(shard.split, []).append(shard)
  sizes, counts = {}, {}
  for split, parts in by_split.items():
    indexes = [Index.load(shard.index) for shard in parts]
    sizes[split] = [
      (len(index), shard.path.stat().st_size)
      for index, shard in zip(indexes, parts, strict=True)
    ]
    index = Index.join(indexes)
    index.save(index_path(work, split))
    counts[split] = len(index)
  builder.describe(sizes, work)
  skipped = sum(len(shard.samples) for shard in shards) - sum(counts.values())
  plan = {**plan, 'refused': plan['refused'] + skipped}
  atomic.write(work / _SUMMARY, json.dumps(plan, indent=2))
  os.replace(work, final)
  # What only a build needs goes last: until the rename it can still be resumed.
  for name in (_PLAN, _LOCK, *(shard.index.name for shard in shards)):
    (final / name).unlink()
  return counts
