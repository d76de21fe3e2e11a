"""A request for evaluations carried out: progress, files and tables.

Everything that can be refused is refused before the first photo: unknown protocols,
datasets that are not built, words that do not fit.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import rich.console
import rich.progress

from maskclip_jax.data.described import named_words
from maskclip_jax.eval import ledger
from maskclip_jax.eval.compare import comparison
from maskclip_jax.eval.diagnosis.diagnose import check_diagnosable, diagnose
from maskclip_jax.eval.diagnosis.report import conclusion, write_report
from maskclip_jax.eval.evaluator import Evaluator, Options
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.predictor import Variant
from maskclip_jax.eval.protocols import find_protocols
from maskclip_jax.eval.runner import Evaluation, Progress, evaluate, forget_state
from maskclip_jax.eval.stored import StoredPredictions, judge_stored
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import parse_scores
from maskclip_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Request:
  """What a user asks for; see the flags of the command line.

  Attributes:
    evals: protocols, 'ade150,pc59', and names of datasets of one's own.
    out: where results are written, a folder for each protocol.
    data_dir: where the built datasets lie; TFDS's own place by default.
    batch_size: photos per call of the network; as many as there are devices by default.
    limit: only the first so many photos.
    tasks: 'panoptic,semantic'; all of the protocol by default.
    flip: average over the photo and its mirror image.
    scales: '0.75,1,1.25', to average over.
    scores: 'model' for the model's own scores instead of those that were tuned on the
      benchmark; or changes of the protocol's, 'unseen_weight=1,drop_empty=1'.
    vocabulary: other words for the protocol's classes: a file, a name or text.
    save_predictions: write results as PNG and COCO JSON.
    save_every: photos between two savings of the state.
    diagnose: also find out what limits the model, and write a report.
  """

  evals: str
  out: str | os.PathLike
  data_dir: str | os.PathLike | None = None
  batch_size: int | None = None
  limit: int | None = None
  tasks: str | None = None
  flip: bool = False
  scales: str = '1'
  scores: str | None = None
  vocabulary: str | None = None
  save_predictions: bool = False
  save_every: int = 50
  diagnose: bool = False

  def options(self) -> Options:
    """The same for the evaluator.

    Raises:
      ValueError: a value that makes no sense.
    """
    try:
      scales = [float(scale) for scale in self.scales.split(',')]
    except ValueError:
      raise ValueError(
        f'scales must be numbers such as 0.75,1,1.25, not {self.scales!r}'
      ) from None
    if min(scales) <= 0:
      raise ValueError(f'scales must be positive, not {self.scales}')
    scores = self.scores
    if scores not in (None, 'model'):
      scores = parse_scores(scores)
    flips = (False, True) if self.flip else (False,)
    return Options(
      batch_size=self.batch_size or jax.local_device_count(),
      variants=tuple(Variant(scale, flip) for scale in scales for flip in flips),
      tasks=None if self.tasks is None else tuple(self.tasks.split(',')),
      limit=self.limit,
      scores=scores,
      save_every=self.save_every,
      save_predictions=self.save_predictions,
    )


def run_evaluations(
  segmenter: Segmenter,
  subject: ledger.Subject,
  request: Request,
  console: rich.console.Console | None = None,
) -> list[dict[str, Any]]:
  """Evaluates a model on protocols; writes and shows the results.

  Args:
    segmenter: the model.
    subject: what it is called.
    request: what is asked for.
    console: where progress and tables appear.

  Returns:
    The entries of the ledger, which lie in `<out>/<protocol>/results.json`.

  Raises:
    FileNotFoundError: a dataset is not built.
    ValueError: protocols, words or options that do not fit each other.
    RecordError: an example cannot be read.
    OSError: results cannot be written.
  """
  console = console or rich.console.Console()

  def tell(path: pathlib.Path) -> None:
    console.print(path, highlight=False, soft_wrap=True)

  planned = _plan(segmenter, request)
  entries, first = [], jax.process_index() == 0
  for evaluator, source, directory in planned:
    same = {'data': source.fingerprint, 'dtype': subject.dtype}
    start = time.perf_counter()
    with _progress(console, evaluator.name) as on_progress:
      found = evaluate(
        evaluator,
        source,
        directory,
        **same,
        on_progress=on_progress,
        # Killed in a later part, the command does not do this one again.
        keep_state=True,
      )
    content = ledger.entry(found, subject, time.perf_counter() - start)
    if first:
      tell(ledger.write(directory, content))
    entries.append(content)
    if request.diagnose:
      with _progress(console, f'{evaluator.name}, diagnosis') as on_progress:
        diagnosis = diagnose(
          evaluator, source, directory, **same, on_progress=on_progress
        )
      if first:
        tell(write_report(diagnosis, directory))
        console.print(conclusion(diagnosis), highlight=False, markup=False)
  for *_, directory in planned:
    forget_state(directory)
  if first:
    table = comparison(entries, width=console.width)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
  return entries


def judge_predictions(
  directory: str | os.PathLike,
  request: Request,
  console: rich.console.Console | None = None,
) -> list[dict[str, Any]]:
  """Judges predictions that lie on disk; writes and shows the results.

  Args:
    directory: where the predictions lie; see `stored.py` for the files. With several
      protocols, each has a folder of its name there.
    request: what is asked for; only `evals`, `out`, `data_dir` and `tasks` matter.
    console: where progress and tables appear.

  Returns:
    The entries of the ledger.

  Raises:
    FileNotFoundError: a dataset is not built, or predictions are missing.
    ValueError: predictions that do not fit the protocol.
  """
  console = console or rich.console.Console()
  protocols = find_protocols(request.evals, request.data_dir)
  tasks, entries = request.options().tasks, []
  for protocol in protocols:
    place = pathlib.Path(directory)
    place = place if len(protocols) == 1 else place / protocol.name
    run = protocol.for_system('')
    source = ProtocolSource(run, request.data_dir, tasks=tasks)
    start = time.perf_counter()
    predictions = StoredPredictions(place, run, source.image_ids, tasks)
    with _progress(console, protocol.name) as on_progress:
      metrics = judge_stored(predictions, run, source, on_progress)
    key = {'model': None, 'data': source.fingerprint, 'tasks': list(predictions.tasks)}
    name = '+'.join(filter(None, [protocol.name, source.share]))
    found = Evaluation(
      name, run, metrics, run.class_names(), len(source), key, {}, 'none'
    )
    subject = ledger.Subject(f'predictions in {place}')
    content = ledger.entry(found, subject, time.perf_counter() - start)
    path = ledger.write(pathlib.Path(request.out) / ledger.folder_name(name), content)
    console.print(path, highlight=False, soft_wrap=True)
    entries.append(content)
  table = comparison(entries, width=console.width)
  console.print(table, markup=False, highlight=False, soft_wrap=True)
  return entries


def _plan(segmenter: Segmenter, request: Request):
  """Evaluators, their examples and their folders; refuses what cannot work."""
  options = request.options()
  words = request.vocabulary and Vocabulary.parse(
    named_words(request.vocabulary, request.data_dir)
  )
  if request.diagnose:
    check_diagnosable(options)
  planned = []
  for protocol in find_protocols(request.evals, request.data_dir):
    run = protocol.for_system(segmenter.preset.system)
    source = ProtocolSource(
      run, request.data_dir, tasks=options.tasks, limit=options.limit
    )
    planned.append((run, source))
  evaluators = [
    (Evaluator(segmenter, run, options, words, share=source.share), source)
    for run, source in planned
  ]
  out = pathlib.Path(request.out)
  return [
    (one, source, out / ledger.folder_name(one.name)) for one, source in evaluators
  ]


@contextlib.contextmanager
def _progress(console: rich.console.Console, name: str) -> Iterator[Progress]:
  """A bar with the time that is left, on the first host only."""
  bar = rich.progress.Progress(
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeElapsedColumn(),
    rich.progress.TimeRemainingColumn(),
    console=console,
    disable=jax.process_index() > 0,
  )
  with bar:
    task = bar.add_task(name, total=None)
    yield lambda done, total: bar.update(task, completed=done, total=total)
