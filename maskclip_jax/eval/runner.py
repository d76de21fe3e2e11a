"""Any model on any protocol: one pass over the examples, resumable, on many hosts.

Each host takes every n-th example, judges it once, and keeps the counts; the counts of
all hosts are added in the end. A run that is killed goes on where it was and ends with
the same numbers (`resumable.py`).
"""

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from maskclip_jax import jax_settings
from maskclip_jax.eval.evaluator import Evaluator, Item, Stopwatch
from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.eval.judge import Predicted
from maskclip_jax.eval.metrics.metric import Metrics, State, joined_states, state_of
from maskclip_jax.eval.protocols import ProtocolRun
from maskclip_jax.eval.resumable import Share, state_path
from maskclip_jax.eval.written import PredictionWriter
from maskclip_jax.postprocess import Results

Progress = Callable[[int, int], None]
STATE = 'state'


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """The outcome of a run.

  Attributes:
    name: the name of the protocol, with all that was done otherwise: 'ade150+flip'.
    run: the protocol as it was run.
    metrics: the numbers.
    class_names: the class names of the rows of `metrics.per_class`.
    examples: how many were judged.
    key: what was evaluated: model, words, data, settings.
    seconds: by stage of the work, added over hosts.
    devices: how many of which kind, over hosts.
  """

  name: str
  run: ProtocolRun
  metrics: Metrics
  class_names: tuple[str, ...]
  examples: int
  key: Mapping[str, Any]
  seconds: Mapping[str, float]
  devices: str


@jax_settings.own()
def evaluate(
  evaluator: Evaluator,
  source: Sequence[EvalExample],
  workdir: pathlib.Path | None = None,
  *,
  data: Mapping[str, Any] | None = None,
  dtype: str = 'float32',
  on_progress: Progress | None = None,
  keep_state: bool = False,
) -> Evaluation:
  """Evaluates a model on the examples of its protocol.

  Args:
    evaluator: the model on the protocol.
    source: the examples; the same on every host.
    workdir: where the state is saved, and predictions if asked for; None saves nothing.
    data: fingerprint of the examples.
    dtype: compute type that the model was made with.
    on_progress: is told how many examples of this host are done, of how many.
    keep_state: whether the state stays when all is done, for a caller that may be
      killed later and would not do this again; see `forget_state`.

  Raises:
    ValueError: the directory holds the state of another evaluation.
    RecordError: an example cannot be read.
  """
  if evaluator.options.save_predictions and workdir is None:
    raise ValueError('predictions need a directory to be saved in: give a workdir')
  key = {**evaluator.key(data), 'dtype': dtype}
  work = _Work(evaluator, len(source))
  path = None if workdir is None else state_path(workdir, STATE)
  written = evaluator.options.save_predictions
  every = evaluator.options.save_every
  # Photos that an earlier run has judged would lack their files.
  share = Share(work, len(source), path, {**key, 'save_predictions': written}, every)
  writer = None
  if written:
    where = workdir / 'predictions'
    writer = PredictionWriter(where, evaluator.vocabulary, evaluator.tasks)
  try:
    for item, results in evaluator.results(source, share.todo, work.watch):
      work.judge_one(item, results, writer)
      with work.watch.stage('saving'):
        share.finished(item.index)
      if on_progress is not None:
        on_progress(*share.progress)
  finally:
    share.save()
  if writer is not None:
    host, hosts = jax.process_index(), jax.process_count()
    suffix = f'-{host}-of-{hosts}' if hosts > 1 else ''
    writer.collect([name for name in work.names if name], suffix)
  evaluation = _result(evaluator, share.gather(), len(source), key)
  if not keep_state:
    share.forget()
  return evaluation


def forget_state(workdir: pathlib.Path) -> None:
  """Deletes what `evaluate` has left in a directory."""
  state_path(workdir, STATE).unlink(missing_ok=True)


class _Work:
  """What one host has done so far."""

  def __init__(self, evaluator: Evaluator, examples: int):
    self._judge, self.watch = evaluator.judge(), Stopwatch()
    self._devices = evaluator.predictor.devices
    self.names = [''] * examples

  def judge_one(
    self, item: Item, results: Results, writer: PredictionWriter | None
  ) -> None:
    with self.watch.stage('metrics'):
      self._judge.add(item.example, Predicted.of(results))
    if writer is not None:
      with self.watch.stage('writing'):
        writer.write(item.example, results)
    self.names[item.index] = item.example.image_id

  def state(self) -> State:
    seconds = {k: np.array(v) for k, v in self.watch.seconds.items()}
    return {
      **self._judge.state(),
      **joined_states({'seconds': seconds}),
      'names': np.array(self.names, np.str_),
      'devices': np.array(self._devices),
    }

  def merge(self, state: State) -> None:
    """Goes on from what an earlier run of this host has saved."""
    self.names = state['names'].tolist()
    for stage, value in state_of('seconds', state).items():
      self.watch.seconds[stage] += float(value)
    self._judge.merge(state)


def _result(
  evaluator: Evaluator, states: Sequence[State], examples: int, key: Mapping[str, Any]
) -> Evaluation:
  """The numbers of all hosts together."""
  judge = evaluator.judge()
  seconds: dict[str, float] = defaultdict(float)
  for state in states:
    judge.merge(state)
    for stage, value in state_of('seconds', state).items():
      seconds[stage] += float(value)
  devices = sum(int(state['devices']) for state in states)
  return Evaluation(
    evaluator.name,
    evaluator.run,
    judge.result(),
    tuple(category.name for category in evaluator.vocabulary.classes),
    examples,
    key,
    dict(seconds),
    f'{devices} x {jax.local_devices()[0].device_kind}',
  )
