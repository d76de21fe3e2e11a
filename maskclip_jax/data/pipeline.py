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
import logging
from collections.abc import Iterator, Sequence
from typing import Literal

import grain
import numpy as np
from absl import flags

from maskclip_jax.data.examples import (
  Arrays,
  Example,
  RecordError,
  Targets,
  decode,
  encode_id,
)
from maskclip_jax.data.generated import (
  CAPTIONS,
  REGIONS,
  VIEW,
  GeneratedPictures,
  GeneratedRegions,
)
from maskclip_jax.data.grouping import GroupedShuffle, portraits
from maskclip_jax.data.sources import Source, open_source
from maskclip_jax.data.superpixels import PatchRule, patch_superpixels
from maskclip_jax.data.transforms import mappers
from maskclip_jax.data.transforms.geometric import apply
from maskclip_jax.data.transforms.mappers import Mapper
from maskclip_jax.data.views import View, find_view
from maskclip_jax.plain import above, at_least
from maskclip_jax.text import tokenizer
from maskclip_jax.text.vocabulary import Vocabulary

_log = logging.getLogger(__name__)
# Examples of a stream without end: grain's own 'for ever' overflows in small batches.
_ENDLESS = 2**40
# So many damaged records in a row are no accident.
MAX_DAMAGED = 100


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """One dataset of a mixture.

  Attributes:
    view: dataset and vocabulary, 'coco/panoptic'; see `views.view_names()`. Of a
      dataset of one's own 'NAME/panoptic', 'NAME/semantic' or 'NAME/instances'.
    split: as built, 'train'.
    weight: share of the examples, relative to the other datasets.
    data_dir: where the built datasets lie; TFDS's own place by default.
  """

  view: str
  split: str = 'train'
  weight: float = 1.0
  data_dir: str | None = None

  def __post_init__(self):
    above(self, 0, 'weight')


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What a run trains on, and how fast it is read.

  Attributes:
    datasets: the mixture; `source` in a batch says which one an example is from.
    data_dir: where the built datasets lie; each dataset's own place by default.
    generated: use this many generated pictures instead, for trying things out.
    mapper: published augmentation (`transforms.mappers.named`).
    profile: the profile of the mapper.
    canvas: side of the square crops, in pixels; a multiple of 32 where there are
      segments.
    batch_size: photos of all processes together.
    max_segments: rows of the ground-truth table.
    caption_tokens: read pairs of photo and text instead of segments: one of the photo's
      captions, drawn at random, as this many tokens; 0 reads segments.
    regions: the pairs are masked regions and nouns (`pairs.py`), and batches have the
      regions as `segments`: 0 inside, -1 outside.
    superpixel_patch: read superpixels, too, and give every patch of so many pixels a
      side the number of its superpixel; 0 reads none.
    superpixel_rule: how; see `superpixels.patch_superpixels`.
    prompts: what a text is put into in the place of {}, one of them drawn at random.
    overlapping: segments may overlap, so masks are bit-packed (instance views).
    same_orientation: examples that follow each other in groups of this size are all
      landscape or all portrait, as with detectron2's aspect ratio grouping
      [masqclip 7.5]; 0 for no grouping.
    on_error: a record that cannot be read stops the run, or is skipped: the next
      readable one takes its place, with the place's own random numbers, so batches
      stay reproducible. It is logged by name and marked in `replaced`.
    seed: the seed of the order and of all augmentations.
    workers: processes that read; 0 reads in this one.
    threads: threads per process that make batches; Pillow and OpenCV release the lock.
    prefetch: batches each process keeps ready.
  """

  datasets: tuple[DatasetConfig, ...] = ()
  data_dir: str | None = None
  generated: int = 0
  mapper: str = 'coco_panoptic'
  profile: Literal['released', 'paper'] = 'released'
  canvas: int = 1024
  batch_size: int = 16
  max_segments: int = 100
  caption_tokens: int = 0
  regions: bool = False
  superpixel_patch: int = 0
  superpixel_rule: PatchRule = 'mean'
  prompts: tuple[str, ...] = ('{}',)
  overlapping: bool = False
  same_orientation: int = 0
  on_error: Literal['stop', 'skip'] = 'stop'
  seed: int = 0
  workers: int = 0
  threads: int = 2
  prefetch: int = 2

  def __post_init__(self):
    at_least(self, 1, 'batch_size', 'max_segments', 'prefetch')
    at_least(self, 0, 'generated', 'caption_tokens', 'same_orientation', 'workers')
    at_least(self, 0, 'threads', 'seed', 'superpixel_patch')
    if self.datasets and self.generated:
      raise ValueError(
        f'there are data.datasets and {self.generated} generated pictures: give '
        '--config.data.generated=0 to train on the datasets'
      )
    if not self.datasets and not self.generated:
      raise ValueError('give either data.datasets or a number of data.generated images')
    at_least(self, 1, 'canvas')
    if not self.caption_tokens and self.canvas % 32:
      raise ValueError(f'data.canvas must be a multiple of 32, not {self.canvas}')
    if not self.prompts or not all(text.count('{}') == 1 for text in self.prompts):
      raise ValueError(
        f'data.prompts are texts with one {{}} each, not {list(self.prompts)}'
      )
    if self.regions and not self.caption_tokens:
      raise ValueError(
        'data.regions are read with their nouns: set data.caption_tokens'
      )
    if self.superpixel_patch and self.canvas % self.superpixel_patch:
      raise ValueError(
        f'data.canvas is {self.canvas}, which is not whole patches of '
        f'{self.superpixel_patch} (data.superpixel_patch)'
      )
    if self.on_error not in ('stop', 'skip'):
      raise ValueError(f"data.on_error is 'stop' or 'skip', not {self.on_error!r}")
    if self.same_orientation > 1 and len(self.datasets) > 1:
      raise ValueError('data.same_orientation works with a single dataset')

  @property
  def mixture(self) -> tuple[DatasetConfig, ...]:
    """The datasets, or what stands for generated pictures."""
    view = CAPTIONS if self.caption_tokens else VIEW
    view = REGIONS if self.regions else view
    return self.datasets or (DatasetConfig(view, 'generated'),)

  def class_names(self) -> tuple[str, ...]:
    """The classes of the ground truth, by index.

    Raises:
      ValueError: the datasets of a mixture have different classes.
    """
    names = {d.view: self.view_of(d).class_names() for d in self.mixture}
    if len(set(names.values())) > 1:
      raise ValueError(
        f'the datasets {", ".join(names)} have different classes: a run needs one list'
      )
    return next(iter(names.values()))

  def words(self) -> Vocabulary:
    """The classes that the class indices follow, without background."""
    return self.view_of(self.mixture[0]).words()

  def view_of(self, dataset: DatasetConfig) -> View:
    """How a dataset of the mixture is read.

    Raises:
      ValueError: there is no such view.
    """
    return find_view(dataset.view, self.data_dir or dataset.data_dir)

  def open_sources(self) -> list[Source]:
    """The records of each dataset, those only that have something to learn.

    Raises:
      FileNotFoundError: a dataset is not there.
      ValueError: it is damaged, or holds regions where photos are read, or the other
        way round.
    """
    for dataset in self.mixture:
      if (self.view_of(dataset).kind == 'pair') != self.regions:
        held = 'photos' if self.regions else 'masked regions'
        raise ValueError(
          f'{dataset.view} holds {held}: set config.data.regions='
          f'{"false" if self.regions else "true"}'
        )
    if self.generated:
      pictures = GeneratedPictures(self.generated, self.canvas, self.seed)
      return [GeneratedRegions(pictures) if self.regions else pictures]
    return [
      open_source(d.view, d.split, self.data_dir or d.data_dir, trainable=True)
      for d in self.datasets
    ]

  def make_mapper(self) -> Mapper:
    """The augmentation, to the size of the canvas.

    Raises:
      ValueError: no such mapper.
    """
    mapper = mappers.named(self.mapper, self.profile)
    return dataclasses.replace(mapper, canvas=(self.canvas, self.canvas))

  def targets(self, view: View) -> Targets | None:
    """How ground truth of a view becomes arrays; None for captions."""
    if self.caption_tokens:
      return None
    # A semantic view has a row for every class of its vocabulary, in the photo or not.
    present = view.kind == 'semantic'
    return Targets(self.max_segments, drop_empty=present, masks=self.overlapping)


class Stream:
  """An iterator over batches that owns worker processes; close it when done."""

  def __init__(self, dataset: grain.MapDataset, config: DataConfig):
    if config.workers and not flags.FLAGS.is_parsed():
      raise RuntimeError(
        "grain's worker processes need absl's flags to be parsed: start the program "
        'with absl.app.run, or call absl.flags.FLAGS.mark_as_parsed() first'
      )
    options = grain.ReadOptions(
      num_threads=config.threads, prefetch_buffer_size=config.prefetch
    )
    batches = dataset.to_iter_dataset(options)
    if config.workers:
      batches = batches.mp_prefetch(
        grain.MultiprocessingOptions(
          num_workers=config.workers, per_worker_buffer_size=config.prefetch
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
  mapper: Mapper | None = None,
) -> Stream:
  """The endless stream of a training run, from a step on.

  Args:
    config: what to read.
    step: the first batch to return; a resumed run passes the step it resumes at.
    host: which part of each batch this process reads: rows `host * b` to
      `(host + 1) * b - 1` of the global batch, b = batch_size / hosts.
    hosts: processes that share a batch.
    sources: opened records, one per dataset, in place of the config's own.
    mapper: augmentation in place of the config's own.

  Returns:
    Batches of `image` uint8 [b, H, W, 3], `image_hw` int32 [b, 2] (always the whole
    canvas: networks see the padding of training crops as pixels), `image_id` uint8
    (`examples.decode_ids`), `source` int32 [b], `replaced` bool [b], the arrays of
    `Targets.arrays`, and `tokens` where captions are tokenized, and `superpixels` int32
    [b, patches] where they are read.

  Raises:
    ValueError: batch, hosts and groups do not divide, or a dataset is empty.
  """
  size = _host_batch(config.batch_size, host, hosts)
  if size % max(config.same_orientation, 1):
    raise ValueError(
      f'groups of {config.same_orientation} photos do not divide the {size} of a host'
    )
  datasets = config.mixture
  if sources is None:
    sources = config.open_sources()
  if len(sources) != len(datasets):
    raise ValueError(f'{len(sources)} sources for {len(datasets)} datasets')
  mapper = mapper or config.make_mapper()
  parts = [_endless(config, i, source, mapper) for i, source in enumerate(sources)]
  examples = parts[0]
  if len(parts) > 1:
    weights = [dataset.weight for dataset in datasets]
    examples = grain.MapDataset.mix(parts, weights)
  batches = examples[step * config.batch_size :].batch(size)[host::hosts]
  return Stream(batches, config)


def _host_batch(batch_size: int, host: int, hosts: int) -> int:
  if batch_size < 1 or batch_size % hosts or not 0 <= host < hosts:
    raise ValueError(
      f'a batch of {batch_size} cannot be shared by {hosts} hosts (this is {host}): '
      'use a multiple of the number of hosts'
    )
  return batch_size // hosts


def _endless(
  config: DataConfig, number: int, source: Source, mapper: Mapper
) -> grain.MapDataset:
  """The shuffled, repeated, augmented examples of one dataset."""
  dataset = config.mixture[number]
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
  loader = _Loader(config, number, source, config.view_of(dataset), mapper)
  return records.repeat(_ENDLESS // len(records)).random_map(loader)


@dataclasses.dataclass(frozen=True)
class _Loader:
  """Reads, augments and packs one training example.

  A plain picklable object, so that grain's worker processes can run it.

  Attributes:
    config: the stream's configuration.
    number: which dataset of the mixture it is.
    source: its records.
    view: how they are read.
    mapper: draws the augmentation.
  """

  config: DataConfig
  number: int
  source: Source
  view: View
  mapper: Mapper

  def __call__(self, index: int, rng: np.random.Generator) -> Arrays:
    """The arrays of record `index`, with all randomness from `rng`."""
    example, skipped = self._read(index)
    caption = self._caption(example, rng)
    example = apply(example, self.mapper.draw(rng, example))
    targets = self.config.targets(self.view)
    maps = {'segments': example.segments} if self.config.regions else {}
    if patch := self.config.superpixel_patch:
      rule = self.config.superpixel_rule
      maps['superpixels'] = patch_superpixels(example.superpixels, patch, rule)
    return {
      'image': example.image,
      'image_hw': np.array(example.size, np.int32),
      'image_id': encode_id(example.image_id),
      'source': np.int32(self.number),
      'replaced': np.bool_(skipped > 0),
      **caption,
      **maps,
      **(targets.arrays(example) if targets else {}),
    }

  def _read(self, index: int) -> tuple[Example, int]:
    """The first readable example from `index` on, and how many were not."""
    for skipped in range(min(MAX_DAMAGED, len(self.source))):
      place = (index + skipped) % len(self.source)
      try:
        return self._decode(place), skipped
      except RecordError as error:
        if self.config.on_error == 'stop':
          raise RecordError(
            f"{error}; run `data check`, or train with on_error='skip'"
          ) from error
        _log.warning('skipped: %s', error)
    raise RecordError(
      f'{self.view.name}: {skipped + 1} records in a row from number {index} on '
      'cannot be read: run `data check`'
    )

  def _decode(self, index: int) -> Example:
    """Reads and decodes one record.

    Raises:
      RecordError: it cannot be read, or not be decoded; the message names it.
    """
    try:
      record = self.source[index]
    # How files, ArrayRecord and TFDS report what they cannot read.
    except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
      name = f'{self.view.name}: record number {index}'
      raise RecordError(f'{name}: {error}') from error
    try:
      return decode(
        record,
        self.view,
        crowd=False,
        superpixels=self.config.superpixel_patch > 0,
      )
    except RecordError as error:
      raise RecordError(f'{self.view.name}: {error}') from error

  def _caption(self, example: Example, rng: np.random.Generator) -> Arrays:
    """The tokens of one of the photo's captions, cut to their length."""
    length = self.config.caption_tokens
    if not length:
      return {}
    if not example.captions:
      raise RecordError(f'{self.view.name}: {example.image_id} has no caption')
    caption = example.captions[int(rng.integers(len(example.captions)))]
    prompt, *others = self.config.prompts
    if others:
      # A single prompt draws no number, so that other streams stay as they are.
      prompt = (prompt, *others)[int(rng.integers(1 + len(others)))]
    caption = prompt.replace('{}', caption)
    return {'tokens': tokenizer.tokenize(caption, length, truncate=True)[0]}
