"""Better words for a dataset's classes, by what a model makes of its true regions.

    found = suggest(segmenter, find_data('coco/panoptic'), photos=50)
    found.vocabulary.save('mine.json')

The encoder of masks sees every photo once. Then template sets and words are tried as
matrix products, on half of the photos, and kept where the other half gains as well
(`search.py`).
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from maskclip_jax.data import described
from maskclip_jax.data.views import find_view, main_view, view_names
from maskclip_jax.eval.evaluator import Evaluator, Options, fitting_vocabulary
from maskclip_jax.eval.examples import EvalExample, ProtocolSource
from maskclip_jax.eval.judge import Predicted
from maskclip_jax.eval.protocols import (
  PROTOCOLS,
  Protocol,
  ProtocolRun,
  find_protocols,
)
from maskclip_jax.eval.wording.reader import Reader
from maskclip_jax.eval.wording.regions import encode_regions
from maskclip_jax.eval.wording.search import Change, Gain, Metric, Naming, improve
from maskclip_jax.names import look_up, unknown
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.text.bank import TextCache
from maskclip_jax.text.category import normal
from maskclip_jax.text.spellings import other_words
from maskclip_jax.text.treatment import template_sets
from maskclip_jax.text.vocabulary import Vocabulary

# What is told: a part of the work, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]
# Of 80 templates the words of a large vocabulary take hours on a CPU.
TEMPLATES = ('none', 'simple', 'vild_14')
_METRICS: dict[str, Metric] = {
  'panoptic': 'PQ',
  'semantic': 'mIoU',
  'instance': 'PQ',
}
# What the model's own masks are judged by.
_HEADLINES = {'panoptic': 'PQ', 'semantic': 'mIoU_gt', 'instance': 'AP'}


@dataclasses.dataclass(frozen=True)
class Tried:
  """A template set for all words.

  Attributes:
    name: of the set.
    gain: of it alone, with the words as they were.
  """

  name: str
  gain: Gain


@dataclasses.dataclass(frozen=True, eq=False)
class Suggestion:
  """What was found.

  Attributes:
    vocabulary: the words and templates to take.
    metric: what was measured, on true masks: PQ or mIoU.
    photos: how many were looked at.
    regions: true regions in them.
    judged: classes that occur in both halves of the photos; the others stay.
    templates: every set that was tried.
    chosen: the set that was taken, or None.
    changes: words that were changed, the greatest gain first.
    before: the metric with the words as they were.
    after: the metric with the words to take.
    whole: the model's own masks, before and after, where they were judged: the name of
      the metric and two values, of the photos held out.
  """

  vocabulary: Vocabulary
  metric: Metric
  photos: int
  regions: int
  judged: int
  templates: tuple[Tried, ...]
  chosen: str | None
  changes: tuple[Change, ...]
  before: Gain
  after: Gain
  whole: tuple[str, float, float] | None = None


def find_data(
  name: str,
  system: str = '',
  split: str | None = None,
  data_dir: str | os.PathLike | None = None,
) -> ProtocolRun:
  """Photos and classes by name: a protocol, a view, or a dataset (its first view).

  Args:
    name: 'ade150', 'coco/base48', 'ade20k_150', or a dataset of one's own.
    system: whose settings a protocol is run with.
    split: of the dataset; that of a protocol, else 'val', by default.
    data_dir: where a dataset of one's own lies; TFDS's own place by default.

  Raises:
    ValueError: there is none of that name, or it has no masks.
  """
  if name in PROTOCOLS or name in described.names(data_dir):
    (found,) = find_protocols(name, data_dir)
    found = dataclasses.replace(found, split=split or found.split)
    return found.for_system(system)
  datasets = dict.fromkeys(view.partition('/')[0] for view in view_names())
  if '/' not in name and name not in datasets:
    known = tuple(dict.fromkeys((*PROTOCOLS, *datasets)))
    raise described.unknown_name('protocol or dataset', name, known, data_dir)
  view = find_view(name, data_dir) if '/' in name else main_view(name, data_dir)
  if view.kind not in _METRICS:
    segmented = [n for n in view_names() if find_view(n).kind in _METRICS]
    raise ValueError(
      f'{view.name} has no masks, and words are judged by masks: name one of '
      f'{", ".join(segmented)}'
    )
  truth = {view.kind: view.name}
  settings, split = BenchmarkSettings(), split or 'val'
  protocol = Protocol(
    view.name, '', truth, settings, (), split=split, data_dir=data_dir
  )
  return protocol.for_system('')


def suggest(
  segmenter: Segmenter,
  run: ProtocolRun,
  *,
  data_dir: str | os.PathLike | None = None,
  photos: int = 50,
  words: Vocabulary | None = None,
  candidates: Vocabulary | None = None,
  templates: Sequence[str] = TEMPLATES,
  metric: Metric | None = None,
  whole: bool = False,
  on_progress: Progress | None = None,
) -> Suggestion:
  """Searches words and templates for the classes of a dataset.

  Args:
    segmenter: an open-vocabulary model that names given masks.
    run: see `find_data`.
    data_dir: where built datasets lie; TFDS's own place by default.
    photos: how many to look at, evenly spread over the split. Every other one is held
      out.
    words: where to start from: other words for the same classes, in the same order.
    candidates: more words to try, by class name.
    templates: names of template sets to try; none keeps those of the vocabulary.
    metric: what is to grow; by the kind of annotations by default.
    whole: also judge the model's own masks with the words before and after, on the
      photos held out.
    on_progress: is told of each part of the work.

  Raises:
    FileNotFoundError: the dataset is not built.
    ValueError: a model, words or numbers that do not fit.
    RecordError: an example cannot be read.
  """
  tell = on_progress or (lambda *_: None)
  _check(segmenter, photos, templates)
  vocabulary = fitting_vocabulary(segmenter, run, words)
  extra = _by_class(vocabulary, candidates)
  task, view = next(iter(run.views.items()))
  source = ProtocolSource(run, data_dir, tasks=(task,))
  indices = _spread(len(source), photos)
  regions = encode_regions(
    segmenter,
    source,
    indices,
    run.preprocessing(segmenter.preset),
    lambda done, total: tell('photos', done, total),
  )
  held_out = np.arange(len(indices)) % 2 == 1
  metric = metric or _METRICS[view.kind]
  naming = Naming(regions, held_out, len(vocabulary), metric)
  if not naming.in_both.any():
    raise ValueError(
      f'of {len(indices)} photos, no class is in both halves: take more photos'
    )
  reader = Reader(segmenter, vocabulary, TextCache())
  found = _search(
    naming, reader, templates, extra, lambda done, total: tell('classes', done, total)
  )
  if not whole:
    return found
  kept = [index for index, out in zip(indices, held_out, strict=True) if out]
  values = [
    _own_masks(segmenter, run, some, source, kept)
    for some in (vocabulary, found.vocabulary)
  ]
  return dataclasses.replace(found, whole=(_HEADLINES[task], *values))


def _search(
  naming: Naming,
  reader: Reader,
  templates: Sequence[str],
  extra: Mapping[int, tuple[str, ...]],
  on_progress: Callable[[int, int], None],
) -> Suggestion:
  """Tries template sets for all words, then words class by class.

  Args:
    naming: the regions to name.
    reader: the words to start from.
    templates: names of the sets.
    extra: more words to try, by class index.
    on_progress: is told how many classes are done, of how many.
  """
  before = reader.quality(naming)
  tried = tuple(
    Tried(name, reader.treated(name).quality(naming) - before) for name in templates
  )
  best = max(tried, key=lambda one: one.gain.chosen, default=None)
  chosen = best.name if best is not None and best.gain.real else None
  if chosen is not None:
    reader = reader.treated(chosen)
  pool = {
    index: (*extra.get(index, ()), *other_words(category))
    for index, category in enumerate(reader.vocabulary.classes)
    if naming.in_both[index]
  }
  reader.prepare([word for some in pool.values() for word in some])
  changes = improve(naming, reader.words, pool, reader.encode, on_progress)
  result = reader.changed(changes)
  return Suggestion(
    vocabulary=result.vocabulary,
    metric=naming.metric,
    photos=naming.photos,
    regions=len(naming.regions),
    judged=int(naming.in_both.sum()),
    templates=tried,
    chosen=chosen,
    changes=tuple(changes),
    before=before,
    after=result.quality(naming),
  )


def _check(segmenter: Segmenter, photos: int, templates: Sequence[str]) -> None:
  """Refuses what cannot be searched, before anything is read."""
  fixed = segmenter.preset.vocabulary
  if fixed is not None:
    raise ValueError(
      f'this model knows only its own vocabulary, {fixed}, by no words: use an '
      'open-vocabulary model'
    )
  if photos < 2:
    raise ValueError(f'photos must be at least 2, one of them held out, not {photos}')
  for name in templates:
    if name not in template_sets():
      raise unknown('template set', name, template_sets())


def _spread(examples: int, photos: int) -> list[int]:
  """Places of some photos, evenly spread over all of them.

  Raises:
    ValueError: there is only one.
  """
  if examples < 2:
    raise ValueError('the split has one photo, and half of the photos is held out')
  count = min(photos, examples)
  return [index * examples // count for index in range(count)]


def _by_class(
  vocabulary: Vocabulary, candidates: Vocabulary | None
) -> dict[int, tuple[str, ...]]:
  """More words by class index.

  Raises:
    ValueError: they are for a class that there is not.
  """
  indices = {normal(c.name): index for index, c in enumerate(vocabulary.classes)}
  extra = {}
  for category in candidates.classes if candidates else ():
    index = look_up('class', normal(category.name), indices)
    extra[index] = category.words
  return extra


def _own_masks(
  segmenter: Segmenter,
  run: ProtocolRun,
  words: Vocabulary,
  source: Sequence[EvalExample],
  indices: Sequence[int],
) -> float:
  """The headline metric of a model's own masks on some photos."""
  task = next(iter(run.views))
  options = Options(batch_size=jax.local_device_count(), tasks=(task,))
  evaluator = Evaluator(segmenter, run, options, words)
  judge = evaluator.judge()
  for item, results in evaluator.results(source, indices):
    judge.add(item.example, Predicted.of(results))
  return judge.result().values[_HEADLINES[task]]
