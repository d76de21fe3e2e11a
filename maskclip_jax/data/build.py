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
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from maskclip_jax import atomic, locks, plain
from maskclip_jax.data import registry
from maskclip_jax.data.shards import (
  BuildError,
  Finish,
  Progress,
  Shard,
  full_disk,
  list_shards,
  made,
  write_all,
)
from maskclip_jax.data.sources import Index, index_path
from maskclip_jax.data.views import view_names
from maskclip_jax.places import building_path, dataset_path
from maskclip_jax.processes import process_pool

if TYPE_CHECKING:
  from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
  from maskclip_jax.data.builders.extras import Extras
  from maskclip_jax.data.captioned import OnError
  from maskclip_jax.data.own import Annotated, OwnData

_log = logging.getLogger(__name__)

_PLAN = 'plan.json'
_SUMMARY = 'build.json'
_LOCK = 'lock'
# Examples from which on processes are worth the seconds that they take to start: drawn
# ones, and ones that are cut into superpixels.
_MANY, _MANY_CUT = 1000, 64


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
    notes: what was assumed or left out, of a dataset of one's own; a line each.
  """

  path: pathlib.Path
  examples: dict[str, int]
  existed: bool = False
  resumed: int = 0
  left_out: tuple[str, ...] = ()
  refused: int = 0
  notes: tuple[str, ...] = ()


def build(
  name: str,
  raw: str | os.PathLike | None,
  data_dir: str | os.PathLike,
  *,
  parts: Sequence[str] | None = None,
  read_as: str | None = None,
  own: 'OwnData | None' = None,
  on_error: 'OnError' = 'stop',
  extras: 'Extras | None' = None,
  workers: int | None = None,
  examples_per_shard: int = 1000,
  progress: Progress | None = None,
  **options: Any,
) -> Built:
  """Builds a dataset from the owners' files, as ArrayRecord that TFDS can read.

  Args:
    name: one of `list_datasets()`, or with `read_as` or `own` a name of your own.
    raw: folder with the files that the dataset's card names, archived or extracted;
      None for a dataset that needs none.
    data_dir: where datasets live; gets `name/version/`.
    parts: parts of the dataset to build (see the builder); by default all that are
      demanded and all others that are found.
    read_as: 'captions' builds pairs of photo and text under any other name.
    own: photos and labels of your own, to be built in place of `raw`.
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
    BuildError: the disk is full or not writable, another build is running, or the
      dataset was built before from other files of one's own.
  """
  if workers is not None and workers < 0:
    raise ValueError(f'--workers is how many work at once, and not {workers}')
  final = dataset_path(name, data_dir)
  if own is not None:
    make_builder, options = _own_builder(name, read_as, on_error, own), {}
  else:
    card = registry.find_dataset(name if read_as is None else read_as)
    options |= _pair_options(name, card.name, on_error)
    make_builder = card.builder_class()
  builder = make_builder(data_dir=final.parent.parent, parts=parts, **options)
  files = builder.open_raw(raw) if own is not None or not final.exists() else None
  if final.exists():
    return _existing(builder, final, extras, files if own is not None else None)
  samples = builder.splits(files)
  _check_keys(samples)
  work = building_path(name, data_dir)
  with _writable(work), _exclusive(work):
    plan = _plan(builder, samples, files.fingerprint(), examples_per_shard)
    lost = getattr(files, 'refused', ())
    for line in lost:
      _log.warning('left out: %s', line)
    plan |= {'on_error': on_error, 'extras': repr(extras), 'refused': len(lost)}
    _prepare(work, plan)
    shards = list_shards(name, samples, work, examples_per_shard)
    resumed = sum(len(shard.samples) for shard in shards if shard.done())
    left = sum(map(len, samples.values())) - resumed
    in_processes = builder.DRAWN and left >= _MANY
    workers = workers or os.cpu_count() or 1
    apart = extras is not None and not in_processes and left >= _MANY_CUT
    with (
      _pool(workers, in_processes) as pool,
      _finishing(extras, workers, apart=apart) as finish,
    ):
      make = functools.partial(made, finish=finish, skip=on_error == 'skip')
      submit = functools.partial(pool.submit, make)
      write_all(shards, submit, progress or _silent)
    counts = _finish(builder, shards, work, final, plan)
  refused = read_summary(final)['refused']
  notes = getattr(files, 'notes', ())
  return Built(final, counts, False, resumed, builder.left_out(), refused, notes)


def read_summary(folder: pathlib.Path) -> dict:
  """How a dataset was built: version, files, parts that were left out."""
  return plain.read_json(folder / _SUMMARY)


def _existing(
  builder: 'SegmentationBuilder',
  final: pathlib.Path,
  extras: 'Extras | None',
  files: 'Annotated | None',
) -> Built:
  """What an earlier build made.

  Raises:
    BuildError: it was made without what is now to be added, or from other files.
  """
  summary = read_summary(final)
  if files is not None and files.fingerprint() != summary['files']:
    raise BuildError(
      f'{final} was built from other photos, labels or flags: to build it again delete '
      'it first (edited words can be kept: copy its classes.json, and give the copy as '
      '--classes)'
    )
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
    _check_own_name(name)
    return {'name': name, 'on_error': on_error}
  if name != read_as:
    raise ValueError(
      'only data of your own has a name of your own: say its form by --from'
    )
  if on_error != 'stop':
    raise ValueError(f'{name} is built whole or not at all: leave out --on_error')
  return {}


def _own_builder(
  name: str, read_as: str | None, on_error: 'OnError', own: 'OwnData'
) -> Callable[..., 'SegmentationBuilder']:
  """What makes the builder of photos and labels of one's own.

  Raises:
    ValueError: the name is taken or no name, or they are to be read otherwise.
  """
  from maskclip_jax.data.builders.own import OwnPhotos

  if read_as is not None or on_error != 'stop':
    raise ValueError('photos of your own are built whole: no read_as, no on_error')
  _check_own_name(name, [card.name for card in registry.list_datasets()])
  return functools.partial(OwnPhotos, name=name, given=own)


def _check_own_name(name: str, more: Sequence[str] = ()) -> None:
  taken = {*more, *(view.partition('/')[0] for view in view_names())}
  if not name.isidentifier() or name in taken:
    raise ValueError(
      f'{name!r} cannot be the name of a dataset of your own: take letters, digits and '
      '_, and no name of another dataset'
    )


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
      raise full_disk(work) from error
    refusals = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
    if error.errno in refusals:
      raise BuildError(
        f'cannot write to {work} ({os.strerror(error.errno)}): choose another '
        '--data_dir or change its permissions'
      ) from error
    raise


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


def _finish(
  builder: 'SegmentationBuilder',
  shards: Sequence[Shard],
  work: pathlib.Path,
  final: pathlib.Path,
  plan: dict,
) -> dict[str, int]:
  """Writes TFDS's metadata and the indexes, and gives the folder its name.

  Returns:
    How many examples there are, by split.
  """
  by_split: dict[str, list[Shard]] = {}
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
