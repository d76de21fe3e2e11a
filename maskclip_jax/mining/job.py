"""A mining job: which photos, into which files, and what is there already.

The unit of work is a shard: consecutive photos of the source, whose pairs go into one
file. A shard is a function of the job and its number, so it does not matter which
process mines it, or how often.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from maskclip_jax import atomic, locks, plain
from maskclip_jax.checkpoints import bundle, restore
from maskclip_jax.data import pairs
from maskclip_jax.data.captioned import open_captioned
from maskclip_jax.data.generated import GeneratedPictures
from maskclip_jax.data.records import Record
from maskclip_jax.data.sources import Source, open_source
from maskclip_jax.mining.recipe import MiningConfig

# Raised whenever equal settings give other pairs.
REVISION = 1
# Of the configuration: they change no pair.
_IRRELEVANT = ('cache_dir', 'model', 'proposals')
_GENERATED, _GENERATED_SIDE = re.compile(r'generated:([1-9]\d*)'), 64


class Photos(Sequence[Record]):
  """The first photos of a source.

  Args:
    source: all of them.
    limit: how many count; all by default.
  """

  def __init__(self, source: Source, limit: int | None = None):
    self._source = source
    self._length = len(source) if limit is None else min(limit, len(source))

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Record:
    if not 0 <= index < self._length:
      raise IndexError(f'there are {self._length} photos, so no number {index}')
    return self._source[index]

  @property
  def refused(self) -> tuple[str, ...]:
    """What of the source cannot be used, a line each."""
    return getattr(self._source, 'refused', ())

  def fingerprint(self) -> str:
    """Tells other photos apart: by names and sizes of files, or the first and the last
    name."""
    if hasattr(self._source, 'fingerprint'):
      return self._source.fingerprint()
    ends = [self[i]['image_id'] for i in (0, self._length - 1)] if self._length else []
    return hashlib.sha256(json.dumps([len(self._source), *ends]).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class MiningJob:
  """What is mined, and where the pairs go.

  Attributes:
    config: how pairs are made.
    source: a view of a built dataset with captions ('coco/captions'), a folder or file
      that `open_captioned` reads, or 'generated:8' for so many pictures of shapes, to
      try things out.
    out: folder of the pairs.
    split: of the built dataset; and the name of the pairs' split.
    data_dir: where built datasets lie; TFDS's own place by default.
    format: ArrayRecord, which training reads, or webdataset tars.
    photos_per_shard: photos that a file is made of.
    limit: only the first so many photos.

  Raises:
    ValueError: an unknown format, or sizes below one.
  """

  config: MiningConfig
  source: str
  out: str
  split: str = 'train'
  data_dir: str | None = None
  format: Literal['array_record', 'tar'] = 'array_record'
  photos_per_shard: int = 1000
  limit: int | None = None

  def __post_init__(self):
    if self.format not in ('array_record', 'tar'):
      raise ValueError(f"format must be 'array_record' or 'tar', not {self.format!r}")
    for name in ('photos_per_shard', 'limit'):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f'{name} must be 1 or more, not {value}')

  def open(self) -> Photos:
    """Opens the photos.

    Raises:
      FileNotFoundError: there are none.
      ValueError: they cannot be read, or have no captions.
    """
    if os.path.exists(self.source):
      source = open_captioned(self.source, on_error=self.config.on_error)
    elif number := _GENERATED.fullmatch(self.source):
      source = GeneratedPictures(int(number[1]), _GENERATED_SIDE)
    else:
      source = open_source(self.source, self.split, self.data_dir)
    return Photos(source, self.limit)

  def shards(self, photos: int) -> int:
    """How many files a number of photos makes."""
    return -(-photos // self.photos_per_shard)

  def places(self, photos: int) -> list['Shard']:
    """The files of the job.

    Args:
      photos: how many there are.
    """
    total = self.shards(photos)
    size = self.photos_per_shard
    return [
      Shard(self, number, total, range(number * size, min((number + 1) * size, photos)))
      for number in range(total)
    ]


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of pairs and its notes.

  Attributes:
    job: the job.
    number, total: which of how many.
    photos: positions of its photos in the source.
  """

  job: MiningJob
  number: int
  total: int
  photos: range

  @property
  def path(self) -> pathlib.Path:
    """The pairs."""
    name = pairs.shard_name(self.job.split, self.number, self.total)
    if self.job.format == 'tar':
      name = f'{self._stem}.tar'
    return pathlib.Path(self.job.out, name)

  @property
  def notes(self) -> pathlib.Path:
    """What became of each photo, a line of JSON each, for the report."""
    return pathlib.Path(self.job.out, f'{self._stem}.jsonl')

  @property
  def _stem(self) -> str:
    return f'{pairs.DATASET}-{self.job.split}-{self.number:05}-of-{self.total:05}'

  def done(self) -> bool:
    """Whether it is there.

    Raises:
      ValueError: it is there and not as it was written.
    """
    if not self.path.exists() or not self.notes.exists():
      return False
    wanted, there = self.head().get('bytes'), self.path.stat().st_size
    if wanted != there:
      raise ValueError(
        f'{self.path} has {there} of {wanted} bytes: delete it and run again, it is '
        'mined anew'
      )
    return True

  def head(self) -> dict[str, Any]:
    """The first line of the notes: numbers of photos, pairs and bytes."""
    with self.notes.open(encoding='utf-8') as file:
      return plain.parse_json(file.readline() or '{}', self.notes)

  def lines(self) -> Iterator[dict[str, Any]]:
    """The notes of each photo, in order."""
    with self.notes.open(encoding='utf-8') as file:
      next(file, None)
      for line in file:
        yield plain.parse_json(line, self.notes)

  @contextlib.contextmanager
  def claimed(self) -> Iterator[bool]:
    """Keeps other processes away from it; False if one of them has it. What a killed
    process left half-written is removed."""
    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(locks.exclusive(self.path.with_name(f'.{self._stem}.lock')))
      except locks.Locked:
        yield False
        return
      for path in (self.path, self.notes):
        for part in path.parent.glob(f'.*{path.name}.*.part'):
          part.unlink(missing_ok=True)
      yield True


def prepare(job: MiningJob, photos: Photos) -> None:
  """Makes the folder, and notes in it what is mined.

  Raises:
    ValueError: other pairs are there.
    OSError: the folder cannot be written to.
  """
  config = {
    name: value
    for name, value in plain.to_dict(job.config).items()
    if name not in _IRRELEVANT
  }
  plan = {
    'revision': REVISION,
    'model': _fingerprint(job.config.model, job.config),
    'proposals': _fingerprint(job.config.proposals or job.config.model, job.config),
    **config,
    'format': job.format,
    'photos': len(photos),
    'photos_per_shard': job.photos_per_shard,
    'source': photos.fingerprint(),
  }
  path = pathlib.Path(job.out, f'mining-{job.split}.json')
  text = json.dumps(plan, indent=2) + '\n'
  if not path.exists():
    atomic.write(path, text)
    return
  # Choices that an earlier version did not have were as they are by default.
  defaults = {
    field.name: field.default
    for field in dataclasses.fields(MiningConfig)
    if field.default is not dataclasses.MISSING and field.name in config
  }
  before, now = defaults | plain.read_json(path), json.loads(text)
  if before != now:
    differ = [key for key in now if before.get(key) != now[key]]
    raise ValueError(
      f'{job.out} holds pairs of other settings ({", ".join(differ)}): choose another '
      f'--out, or delete it'
    )


def _fingerprint(model: str, config: MiningConfig) -> str:
  folder = restore.find_bundle(model, config.cache_dir)
  return plain.read_json(folder / bundle.CONFIG)['fingerprint']
