"""Mining a shard: photos of a source become one file of pairs, whole or not at all."""

import functools
import io
import json
import math
import pathlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from maskclip_jax import atomic
from maskclip_jax.data import pairs
from maskclip_jax.data.captioned import short_key
from maskclip_jax.data.records import Record
from maskclip_jax.mining.agreement import Judge
from maskclip_jax.mining.job import MiningJob, Shard
from maskclip_jax.mining.miner import Pair, PairMiner, column
from maskclip_jax.mining.recipe import MiningConfig

# Photos that are read, mined and judged before the next are read: these, or so many
# batches.
_PHOTOS, _BATCHES = 64, 4
# Places after the point of what the notes hold.
_DIGITS = 6
# Of a pair in a tar.
_FILES = 4


class ShardMiner:
  """Maps numbers of shards to what was mined; the pairs go into files.

  Loads once and takes and returns dictionaries of arrays, as `PairMiner` does. Called
  twice for a shard, or killed and called again, it leaves the same bytes.

  Args:
    job: the job.

  Raises:
    FileNotFoundError, ValueError: as for `PairMiner` and `MiningJob.open`.
  """

  def __init__(self, job: MiningJob):
    self._photos = job.open()
    self._shards = job.places(len(self._photos))
    self._miner = _pair_miner(job.config)
    self._judge = Judge.of(job.source.partition('/')[0], job.data_dir)

  def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mines shards that are not there.

    Args:
      batch: `shard`, numbers from 0.

    Returns:
      `shard`; `photos` and `pairs`, how many it has; and `mined`, whether they were
      mined now. A shard that another process is busy with has -1 pairs.

    Raises:
      ValueError: a photo cannot be read, or a shard is there and damaged.
    """
    rows = [self._mine(self._shards[int(number)]) for number in batch['shard']]
    names = ('shard', 'photos', 'pairs', 'mined')
    return {name: np.array([row[name] for row in rows], np.int64) for name in names}

  def _mine(self, shard: Shard) -> dict[str, int]:
    row = {'shard': shard.number, 'photos': len(shard.photos), 'mined': 0}
    if not shard.done():
      with shard.claimed() as free:
        if not free:
          return row | {'pairs': -1}
        if not shard.done():
          self._write(shard)
          row['mined'] = 1
    return row | {'pairs': shard.head()['pairs']}

  def _write(self, shard: Shard) -> None:
    lines: list[dict[str, Any]] = []
    write = write_tar if shard.job.format == 'tar' else pairs.write_shard
    with atomic.file(shard.path) as part:
      count = write(part, self._pairs(shard, lines))
      head = {'photos': len(lines), 'pairs': count, 'bytes': part.stat().st_size}
      text = ''.join(json.dumps(line) + '\n' for line in [head, *lines])
      # A shard that is in its place is done, so its notes go before it.
      atomic.write(shard.notes, text)

  def _pairs(self, shard: Shard, lines: list[dict[str, Any]]) -> Iterator[pairs.Pair]:
    """The pairs of a shard; a line for each photo is added to `lines`."""
    skip = shard.job.config.on_error == 'skip'
    step = max(_PHOTOS, _BATCHES * shard.job.config.batch_size)
    for start in range(0, len(shard.photos), step):
      records, refused = {}, {}
      for index in shard.photos[start : start + step]:
        try:
          records[index] = self._photos[index]
        except ValueError as error:
          if not skip:
            raise ValueError(f'{error}; --on_error skip goes on') from error
          refused[index] = str(error)
      found = self._mined(records)
      for index in shard.photos[start : start + step]:
        if index in refused:
          lines.append({'index': index, 'key': '', 'problem': refused[index]})
          continue
        mined = found[index]
        if isinstance(mined, str):
          key = records[index]['image_id']
          lines.append({'index': index, 'key': key, 'problem': mined})
          continue
        lines.append(self._line(index, records[index], mined))
        for number, pair in enumerate(mined):
          key = short_key(f'{records[index]["image_id"]}/{number:02}')
          yield pairs.Pair(pair.image, pair.mask, pair.noun, pair.score, key)

  def _mined(self, records: Mapping[int, Record]) -> dict[int, list[Pair] | str]:
    """What `PairMiner` finds in each photo."""
    batch = {
      'key': column(str(index) for index in records),
      'image': column(record['image'] for record in records.values()),
      'captions': column(record['captions'] for record in records.values()),
    }
    rows = self._miner(batch)
    found: dict[int, list[Pair] | str] = {}
    for row, (key, problem) in enumerate(
      zip(rows['key'], rows['problem'], strict=True)
    ):
      if problem:
        found[int(key)] = problem
      else:
        found.setdefault(int(key), []).append(Pair.of(rows, row))
    return found

  def _line(self, index: int, record: Record, mined: Sequence[Pair]) -> dict[str, Any]:
    overlaps = [None] * len(mined)
    if self._judge is not None:
      overlaps = self._judge.overlaps(record, mined)
    return {
      'index': index,
      'key': record['image_id'],
      'size': mined[0].size,
      'pairs': [
        {
          'noun': pair.noun,
          'score': round(pair.score, _DIGITS),
          'lead': None if math.isnan(pair.lead) else round(pair.lead, _DIGITS),
          'query': pair.query,
          'area': pair.area,
          'box': pair.box,
          'iou': None if iou is None else round(iou, _DIGITS),
        }
        for pair, iou in zip(mined, overlaps, strict=True)
      ],
    }


@functools.lru_cache(maxsize=1)
def _pair_miner(config: MiningConfig) -> PairMiner:
  """The miner of this process; jobs of one configuration share it."""
  return PairMiner(config)


def write_tar(path: pathlib.Path, mined: Iterator[pairs.Pair]) -> int:
  """Writes pairs as webdataset does; returns how many there are.

  A pair KEY is KEY.png, KEY.mask.png, KEY.txt (the noun) and KEY.json (noun and score).
  """
  count = 0
  with tarfile.open(path, 'w', format=tarfile.USTAR_FORMAT) as archive:
    add = functools.partial(_add, archive)
    for pair in mined:
      # A dot would end the key, and a slash make a folder.
      key = pair.key.replace('.', '_').replace('/', '-')
      facts = {'noun': pair.noun, 'score': pair.score}
      add(f'{key}.png', pair.image)
      add(f'{key}.mask.png', pair.mask)
      add(f'{key}.txt', pair.noun.encode())
      add(f'{key}.json', json.dumps(facts).encode())
      count += 1
  return count


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
  # Neither time nor owner, so that equal pairs are equal bytes.
  info = tarfile.TarInfo(name)
  info.size = len(data)
  archive.addfile(info, io.BytesIO(data))


def read_pair(shard: Shard, ordinal: int) -> pairs.Pair:
  """One pair of a file.

  Args:
    shard: the file, which is there.
    ordinal: the how manieth pair, from 0.
  """
  if shard.job.format == 'array_record':
    return pairs.parse(ArrayRecordDataSource([str(shard.path)])[ordinal])
  with tarfile.open(shard.path) as archive:
    members = archive.getmembers()[_FILES * ordinal : _FILES * (ordinal + 1)]
    image, mask, noun, facts = (archive.extractfile(one).read() for one in members)
  key = members[0].name.removesuffix('.png')
  return pairs.Pair(image, mask, noun.decode(), json.loads(facts)['score'], key)
