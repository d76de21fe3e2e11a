"""Input pipelines on grain: the step is the whole state.

A training stream is index arithmetic: position k of the endless stream is one record
and one random generator, whatever the number of hosts, processes or threads, and
whether the run was resumed. The batch of step s holds the positions from s B to
(s + 1) B - 1, and each host reads a contiguous part of them. Nothing about the stream
needs to be saved but the step.

  with train_stream(config, step=1000) as stream:
    batch = next(stream)      # a dict of numpy arrays

Worker processes are spawned: call these functions under `if __name__ == '__main__'`,
and close the stream (or use `with`), or the workers' shared memory outlives it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import grain
from absl import flags

from maskclip_jax.data.grouping import GroupedShuffle, portraits
from maskclip_jax.data.loading import Source, Tokenize, TrainingLoader
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.targets import Arrays, Targets
from maskclip_jax.data.transforms.mappers import Mapper
from maskclip_jax.data.views import find_view

# Examples of a stream without end: grain's own 'for ever' overflows in small batches.
_ENDLESS = 2**40


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """One dataset of a mixture.

  Attributes:
    view: dataset and vocabulary, 'coco/panoptic'; see `views.view_names()`.
    split: as built, 'train'.
    weight: share of the examples, relative to the other datasets.
    data_dir: where the built datasets lie; TFDS's own place by default.
  """

  view: str
  split: str = 'train'
  weight: float = 1.0
  data_dir: str | None = None

  def open(self, *, trainable: bool) -> Source:
    """Opens the built dataset, with only the examples that the view counts."""
    return open_source(self.view, self.split, self.data_dir, trainable=trainable)


@dataclasses.dataclass(frozen=True)
class Reading:
  """How fast a stream is read; changes no batch.

  Attributes:
    workers: processes; 0 reads in this one.
    threads: threads per process that make batches; Pillow and OpenCV release the lock.
    prefetch: batches each process keeps ready.
  """

  workers: int = 0
  threads: int = 2
  prefetch: int = 2


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """A training stream.

  Attributes:
    datasets: the mixture; `source` in a batch says which one an example is from.
    mapper: augmentation (`transforms.mappers.named`).
    batch_size: examples of all hosts together.
    targets: how ground truth becomes arrays; None where there is none (captions).
    seed: the seed of the order and of all augmentations.
    on_error: a record that cannot be read stops the run, or is skipped: the next
      readable one takes its place, with the place's own random numbers, so batches
      stay reproducible. It is logged by name and marked in `replaced`.
    same_orientation: examples that follow each other in groups of this size are all
      landscape or all portrait, as with detectron2's aspect ratio grouping (section
      7.5); 0 for no grouping.
    tokenize: makes `tokens` of one caption, drawn at random among a photo's captions.
    reading: speed only.
  """

  datasets: tuple[DatasetConfig, ...]
  mapper: Mapper
  batch_size: int
  targets: Targets | None = dataclasses.field(default_factory=Targets)
  seed: int = 0
  on_error: Literal['stop', 'skip'] = 'stop'
  same_orientation: int = 0
  tokenize: Tokenize | None = None
  reading: Reading = Reading()

  def __post_init__(self):
    if not self.datasets:
      raise ValueError('a training stream needs at least one dataset')
    if self.on_error not in ('stop', 'skip'):
      raise ValueError(f"on_error is 'stop' or 'skip', not {self.on_error!r}")
    if self.same_orientation > 1 and len(self.datasets) > 1:
      raise ValueError('same_orientation works with a single dataset, not a mixture')


class Stream:
  """An iterator over batches that owns worker processes; close it when done."""

  def __init__(self, dataset: grain.MapDataset, reading: Reading):
    if reading.workers and not flags.FLAGS.is_parsed():
      raise RuntimeError(
        "grain's worker processes need absl's flags to be parsed: start the program "
        'with absl.app.run, or call absl.flags.FLAGS.mark_as_parsed() first'
      )
    options = grain.ReadOptions(
      num_threads=reading.threads, prefetch_buffer_size=reading.prefetch
    )
    batches = dataset.to_iter_dataset(options)
    if reading.workers:
      batches = batches.mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=reading.workers, per_worker_buffer_size=reading.prefetch
        )
      )
    self._batches, self._open = iter(batches), True

  def __iter__(self) -> Iterator[Arrays]:
    return self

  def __next__(self) -> Arrays:
    return next(self._batches)

  def close(self) -> None:
    """Ends threads and worker processes; the stream is then empty."""
    if self._open:
      self._batches.close()
    # An iterator that outlives the interpreter's modules complains while it is deleted.
    self._open, self._batches = False, iter(())

  def __enter__(self) -> 'Stream':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def train_stream(
  config: DataConfig,
  step: int = 0,
  *,
  host: int = 0,
  hosts: int = 1,
  sources: Sequence[Source] | None = None,
) -> Stream:
  """The endless stream of a training run, from a step on.

  Args:
    config: what to read.
    step: the first batch to return; a resumed run passes the step it resumes at.
    host: which part of each batch this process reads: rows `host * b` to
      `(host + 1) * b - 1` of the global batch, b = batch_size / hosts.
    hosts: processes that share a batch.
    sources: opened records, one per dataset; opened by name if not given.

  Returns:
    Batches of `image` uint8 [b, H, W, 3], `image_hw` int32 [b, 2] (always the whole
    canvas: networks see the padding of training crops as pixels), `image_id` uint8
    (`targets.decode_ids`), `source` int32 [b], `replaced` bool [b], the arrays of
    `Targets.arrays`, and `tokens` where captions are tokenized.

  Raises:
    ValueError: batch, hosts and groups do not divide, or a dataset is empty.
  """
  size = _host_batch(config.batch_size, host, hosts)
  if size % max(config.same_orientation, 1):
    raise ValueError(
      f'groups of {config.same_orientation} photos do not divide the {size} of a host'
    )
  if sources is None:
    sources = [dataset.open(trainable=True) for dataset in config.datasets]
  if len(sources) != len(config.datasets):
    raise ValueError(f'{len(sources)} sources for {len(config.datasets)} datasets')
  parts = [_endless(config, number, source) for number, source in enumerate(sources)]
  examples = parts[0]
  if len(parts) > 1:
    weights = [dataset.weight for dataset in config.datasets]
    examples = grain.MapDataset.mix(parts, weights)
  batches = examples[step * config.batch_size :].batch(size)[host::hosts]
  return Stream(batches, config.reading)


def _host_batch(batch_size: int, host: int, hosts: int) -> int:
  if batch_size < 1 or batch_size % hosts or not 0 <= host < hosts:
    raise ValueError(
      f'a batch of {batch_size} cannot be shared by {hosts} hosts (this is {host}): '
      'use a multiple of the number of hosts'
    )
  return batch_size // hosts


def _endless(config: DataConfig, number: int, source: Source) -> grain.MapDataset:
  """The shuffled, repeated, augmented examples of one dataset."""
  dataset = config.datasets[number]
  if not len(source):
    raise ValueError(f'{dataset.view}, split {dataset.split}, has no examples')
  # Datasets of a mixture must not draw the same numbers.
  records = grain.MapDataset.range(len(source)).seed(config.seed + number)
  if config.same_orientation > 1:
    portrait = portraits(source)
    records = GroupedShuffle(
      records, portrait, config.same_orientation, config.seed + number
    )
  else:
    records = records.shuffle()
  loader = TrainingLoader(
    source,
    find_view(dataset.view),
    config.mapper,
    config.targets,
    number,
    config.on_error,
    config.tokenize,
  )
  return records.repeat(_ENDLESS // len(records)).random_map(loader)
