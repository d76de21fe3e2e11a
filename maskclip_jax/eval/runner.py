"""Any model on any protocol: one pass over the examples, resumable, on many hosts.

Each host takes every n-th example, judges it once, and keeps the counts; the counts of
all hosts are added in the end. Which examples are done is saved with the counts every
few images, so a run that is killed goes on where it was and ends with the same numbers.
"""

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from maskclip_jax.eval import partial
from maskclip_jax.eval.evaluator import Evaluator, Item, Stopwatch
from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.eval.judge import Found
from maskclip_jax.eval.metrics import Metrics, State
from maskclip_jax.eval.protocols import Run
from maskclip_jax.eval.written import PredictionWriter
from maskclip_jax.ops.postprocess import Results

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """The outcome of a run.

  Attributes:
    name: of the protocol, with all that was done otherwise: 'ade150+flip'.
    run: the protocol as it was run.
    metrics: the numbers.
    class_names: of the rows of `metrics.per_class`.
    examples: how many were judged.
    key: what was evaluated: model, words, data, settings.
    seconds: by stage of the work, added over hosts.
    devices: how many of which kind, over hosts.
  """

  name: str
  run: Run
  metrics: Metrics
  class_names: tuple[str, ...]
  examples: int
  key: Mapping[str, Any]
  seconds: Mapping[str, float]
  devices: str


def evaluate(
  evaluator: Evaluator,
  source: Sequence[EvalExample],
  workdir: pathlib.Path | None = None,
  *,
  data: Mapping[str, Any] | None = None,
  dtype: str = 'float32',
  on_progress: Progress | None = None,
) -> Evaluation:
  """Evaluates a model on the examples of its protocol.

  Args:
    evaluator: the model on the protocol.
    source: the examples; the same on every host.
    workdir: where the state is saved, and predictions if asked for; None saves nothing.
    data: fingerprint of the examples.
    dtype: compute type that the model was made with.
    on_progress: is told how many examples of this host are done, of how many.

  Raises:
    ValueError: the directory holds the state of another evaluation.
    RecordError: an example cannot be read.
  """
  if evaluator.options.save_predictions and workdir is None:
    raise ValueError('predictions need a directory to be saved in: give a workdir')
  host, hosts = jax.process_index(), jax.process_count()
  key = {**evaluator.key(data), 'dtype': dtype}
  path = workdir and workdir / f'state-{host}-of-{hosts}.npz'
  work = _Work(evaluator, len(source), path, key)
  mine = np.arange(host, len(source), hosts)
  todo = mine[~work.done[mine]].tolist()
  writer = None
  if evaluator.options.save_predictions:
    writer = PredictionWriter(workdir / 'predictions', evaluator.vocabulary)
  try:
    for item, results in evaluator.results(source, todo, work.watch):
      work.judge_one(item, results, writer)
      if on_progress is not None:
        on_progress(int(work.done[mine].sum()), len(mine))
  finally:
    work.save()
  if writer is not None:
    suffix = f'-{host}-of-{hosts}' if hosts > 1 else ''
    writer.collect([name for name in work.names if name], suffix)
  evaluation = work.result(partial.gather(work.state()), key)
  if path is not None:
    path.unlink()
  return evaluation


class _Work:
  """What one host has done so far."""

  def __init__(self, evaluator, examples: int, path: pathlib.Path | None, key):
    self._evaluator, self._path, self._key = evaluator, path, key
    self._judge, self.watch = evaluator.judge(), Stopwatch()
    self.done, self.names = np.zeros(examples, bool), [''] * examples
    self._unsaved = 0
    state = None if path is None else partial.load(path, key)
    if state is not None:
      self.done, self.names = state.pop('done'), state.pop('names').tolist()
      self.watch.seconds |= _seconds(state)
      self._judge.merge(state)

  def judge_one(
    self, item: Item, results: Results, writer: PredictionWriter | None
  ) -> None:
    with self.watch.stage('metrics'):
      self._judge.add(item.example, Found.of(results))
    if writer is not None:
      with self.watch.stage('writing'):
        writer.write(item.example, results)
    self.done[item.index], self.names[item.index] = True, item.example.image_id
    self._unsaved += 1
    if self._unsaved >= self._evaluator.options.save_every:
      self.save()

  def state(self) -> State:
    seconds = {f'seconds/{k}': np.array(v) for k, v in self.watch.seconds.items()}
    return {
      **self._judge.state(),
      **seconds,
      'done': self.done,
      'names': np.array(self.names, np.str_),
      'devices': np.array(self._evaluator.predictor.devices),
    }

  def save(self) -> None:
    if self._path is not None and self._unsaved:
      with self.watch.stage('saving'):
        partial.save(self._path, self._key, self.state())
      self._unsaved = 0

  def result(self, states: Sequence[State], key: Mapping[str, Any]) -> Evaluation:
    """The numbers of all hosts together."""
    times = np.sum([state['done'] for state in states], axis=0)
    if not (times == 1).all():
      raise ValueError(
        f'{int((times != 1).sum())} examples were not judged exactly once: delete the '
        'states in the working directory and start again'
      )
    evaluator, judge = self._evaluator, self._evaluator.judge()
    seconds: dict[str, float] = defaultdict(float)
    for state in states:
      judge.merge(state)
      for stage, value in _seconds(state).items():
        seconds[stage] += value
    devices = sum(int(state['devices']) for state in states)
    return Evaluation(
      evaluator.name,
      evaluator.run,
      judge.result(),
      tuple(category.name for category in evaluator.vocabulary.classes),
      len(times),
      key,
      dict(seconds),
      f'{devices} x {jax.local_devices()[0].device_kind}',
    )


def _seconds(state: State) -> dict[str, float]:
  prefix = 'seconds/'
  return {
    name.removeprefix(prefix): float(value)
    for name, value in state.items()
    if name.startswith(prefix)
  }
