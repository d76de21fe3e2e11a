"""Mining from start to end: what is missing is mined, then the report is written."""

import dataclasses
import pathlib
import time
import warnings
from collections.abc import Callable

from maskclip_jax.mining import engines
from maskclip_jax.mining.job import MiningJob, Photos, prepare
from maskclip_jax.mining.nouns import check_captions
from maskclip_jax.mining.report import write_report

# Photos whose captions are looked at before anything is loaded.
_LOOKED_AT = 100

# Photos that are done, and all photos.
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Mined:
  """What a run has come to.

  Attributes:
    photos: of the job.
    pairs: in all files that are there.
    fresh: photos that were mined now.
    seconds: that took.
    elsewhere: files that other processes are busy with.
    report: the page; None while files are missing.
  """

  photos: int
  pairs: int
  fresh: int
  seconds: float
  elsewhere: int
  report: pathlib.Path | None


def mine(
  job: MiningJob,
  *,
  engine: engines.Engine = 'local',
  workers: int = 1,
  setup: engines.Setup | None = None,
  progress: Progress | None = None,
) -> Mined:
  """Mines what is not there yet. The same call again, after any end, goes on.

  Args:
    job: what to mine.
    engine, workers, setup: as of `engines.run`.
    progress: called after each file.

  Raises:
    FileNotFoundError, ValueError, ImportError, OSError: what is wrong, in one line.
  """
  photos = check_source(job)
  prepare(job, photos)
  shards = job.places(len(photos))
  missing = [shard.number for shard in shards if not shard.done()]
  done = len(photos) - sum(len(shards[number].photos) for number in missing)
  progress = progress or (lambda *_: None)
  progress(done, len(photos))
  fresh, start = 0, time.perf_counter()
  for row in engines.run(job, missing, engine=engine, workers=workers, setup=setup):
    if row['pairs'] >= 0:
      fresh += row['mined'] * row['photos']
      done += row['photos']
      progress(done, len(photos))
  seconds = time.perf_counter() - start
  # What others were busy with may be there by now.
  there = [shard for shard in shards if shard.done()]
  found = sum(shard.head()['pairs'] for shard in there)
  elsewhere = len(shards) - len(there)
  if elsewhere:
    return Mined(len(photos), found, fresh, seconds, elsewhere, None)
  if not found:
    raise ValueError(
      f'{len(photos)} photos gave no pair: {shards[0].notes} says why for each; into '
      'another --out, read all captions (--captions 0), name other --nouns, or demand '
      'less'
    )
  report = write_report(job, photos, shards)
  return Mined(len(photos), found, fresh, seconds, 0, report)


def check_source(job: MiningJob) -> Photos:
  """Opens the photos; finds out before anything is loaded that there are no nouns, and
  tells what is left out.

  Raises:
    ValueError, ImportError, FileNotFoundError: as `MiningJob.open` and
      `check_captions`.
  """
  photos = job.open()
  if photos.refused:
    warnings.warn(
      f'{len(photos.refused)} photos of {job.source} cannot be used and are left out, '
      f'such as: {photos.refused[0]}',
      stacklevel=2,
    )
  captions = []
  for index in range(min(len(photos), _LOOKED_AT)):
    try:
      texts = photos[index]['captions']
    except ValueError:
      # Told in its turn, or skipped.
      continue
    captions.append(list(texts)[: job.config.captions or None])
  check_captions(captions, job.config.nouns)
  return photos
