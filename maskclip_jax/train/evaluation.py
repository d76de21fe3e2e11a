"""Evaluation during a run: any protocol, on the run's devices, with what it has so far.

The network that is evaluated is made of the run's own arrays, and its programs are
compiled once. What is evaluated lies in a checkpoint already, and the state of an
evaluation is saved as it goes, so a run that is killed goes on inside it. The numbers
are lines of `metrics.jsonl`, which also tell a resumed run what the best was.
"""

import dataclasses
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from maskclip_jax.checkpoints import params
from maskclip_jax.data.pipeline import DataConfig
from maskclip_jax.eval.evaluator import Evaluator, Options
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.ledger import folder_name
from maskclip_jax.eval.protocols import ProtocolRun, find_protocols
from maskclip_jax.eval.runner import evaluate
from maskclip_jax.names import unknown
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.text.word_pieces import word_pieces
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.records.log import RunLog, evaluations
from maskclip_jax.train.starting import StartingValues
from maskclip_jax.train.step import Program, TrainState
from maskclip_jax.train.task import MODEL, find_task, flatten_modules

# States of an evaluation that is not over yet, in the run's directory.
DIRECTORY = 'evaluation'
# Of each protocol as many numbers are shown.
_SHOWN = 3
_TEXT = 'clip/text/'


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
  """One protocol of a run, all that can be refused being checked.

  Attributes:
    evaluator: the model on the protocol, without weights yet.
    source: its photos.
  """

  evaluator: Evaluator
  source: ProtocolSource

  @property
  def name(self) -> str:
    """The name of the protocol, the first part of its numbers' names."""
    return self.evaluator.run.protocol.name


def plan(config: TrainConfig) -> tuple[Planned, ...]:
  """The protocols of a configuration; nothing is built, compiled or written for it.

  Raises:
    FileNotFoundError: a dataset is not built.
    ValueError: an unknown protocol, one that the model cannot be judged by, or a
      `checkpoint.best` that no protocol has.
  """
  settings = config.eval
  if not settings.evals:
    return ()
  options = Options(
    batch_size=settings.batch_size or jax.local_device_count(),
    tasks=tuple(settings.tasks.split(',')) if settings.tasks else None,
    limit=settings.images or None,
    save_every=settings.save_every,
  )
  data_dir = settings.data_dir or config.data.data_dir
  data_dir = data_dir or config.data.mixture[0].data_dir
  preset = find_task(config.task).exported(config)
  network = params.abstract_model(
    preset.system, preset.config, dtype=jnp.dtype(config.dtype)
  )
  own, clip = config.tokenizer, getattr(preset.config, 'clip', None)
  pieces = None if own is None else word_pieces(own.parent, clip)
  segmenter = Segmenter(network, preset, pieces=pieces)
  planned = []
  for protocol in find_protocols(settings.evals, data_dir):
    run = protocol.for_system(preset.system)
    evaluator = Evaluator(segmenter, run, options)
    source = ProtocolSource(run, data_dir, tasks=options.tasks, limit=options.limit)
    planned.append(Planned(evaluator, source))
  if config.checkpoint.by_evaluation:
    _check_best(config.checkpoint.best, planned)
    for one in planned:
      _check_apart(one.evaluator.run, config.data, data_dir)
  return tuple(planned)


def _check_apart(run: ProtocolRun, data: DataConfig, data_dir: str | None) -> None:
  """Fails where the best would be chosen on the photos that are learned."""
  dataset, split = run.main_view.dataset, run.protocol.split
  for one in data.mixture:
    place = data.data_dir or one.data_dir
    if (one.view.partition('/')[0], one.split, place) == (dataset, split, data_dir):
      raise ValueError(
        f'{run.protocol.name} is evaluated on the split {split!r} of {dataset}, which '
        'is trained on, and is to choose the best: build your own data with --val 0.2, '
        'evaluate others, or leave out checkpoint.best (fine-tuning: evals=none)'
      )


def _check_best(best: str, planned: Sequence[Planned]) -> None:
  """Fails where the best is to be chosen by a number that no protocol has."""
  protocol, _, _ = best.partition('/')
  judges = {one.name: one.evaluator.judge() for one in planned}
  if protocol not in judges:
    raise unknown('protocol of eval.evals (checkpoint.best)', protocol, judges)
  # Of no photos all numbers are undefined, but they have their names.
  numbers = [f'{protocol}/{name}' for name in judges[protocol].result().values]
  if best not in numbers:
    raise unknown('number of the evaluations (checkpoint.best)', best, numbers)


class Evaluations:
  """The evaluations of a run.

  Attributes:
    patience: after so many without gain the run ends; 0 for never.

  Args:
    planned: its protocols.
    program: the run's program.
    starting: values of what the program does not hold.
    workdir: the run's directory.
    step: the run begins or resumes here.
  """

  def __init__(
    self,
    planned: Sequence[Planned],
    program: Program,
    starting: StartingValues,
    workdir: pathlib.Path,
    step: int,
  ):
    self._planned, self._program, self._starting = planned, program, starting
    self._workdir, self._config = workdir, program.config
    self.patience = program.config.eval.patience
    self._made = evaluations(workdir, step) if planned else {}
    self._same_text = not any(path.startswith(_TEXT) for path in program.layout.trained)
    self._devices = Mesh(np.array(jax.local_devices()), ('data',))
    everywhere = NamedSharding(program.mesh, PartitionSpec())
    self._gather = jax.jit(lambda x: x, out_shardings=everywhere)

  def due(self, step: int) -> bool:
    """Whether a step is to be evaluated, and was not yet."""
    settings = self._config.eval
    if not self._planned or step in self._made:
      return False
    if step == 0:
      return settings.at_start
    return step % settings.every == 0 or step == self._config.total_steps

  def done(self, step: int) -> bool:
    """Whether nothing is left to be done after a step: no step, and no evaluation."""
    ended = step == self._config.total_steps or self.over
    return ended and not self.due(step)

  @property
  def best(self) -> int | None:
    """The step that is best so far; None if it is not chosen by evaluations."""
    settings = self._config.checkpoint
    if not settings.by_evaluation:
      return None
    known = {
      s: row[settings.best] for s, row in self._made.items() if settings.best in row
    }
    return settings.best_of(known)

  @property
  def over(self) -> bool:
    """Whether there was no gain for so long that the run is to end."""
    best = self.best
    since = [step for step in self._made if best is None or step > best]
    return 0 < self.patience <= len(since)

  def shown_best(self) -> str:
    """The best so far, for people; '' if there is none."""
    name, best = self._config.checkpoint.best, self.best
    return '' if best is None else f'{name} {self._made[best][name]:.2f} at step {best}'

  def introduce(self) -> str:
    """What is evaluated, for people."""
    photos = ', '.join(
      f'{one.name} ({len(one.source)} photos)' for one in self._planned
    )
    return f'evaluates on {photos} every {self._config.eval.every} steps'

  def __call__(
    self, step: int, state: TrainState, log: RunLog, stop: Callable[[], object]
  ) -> bool:
    """Evaluates a state that a checkpoint holds; all processes take part.

    Args:
      step: the step of the state.
      state: the parameters, which are as they were afterwards.
      log: takes the numbers.
      stop: is asked after each photo whether the run is to end at once.

    Returns:
      Whether it is done: if not, the same call in a resumed run goes on with it.

    Raises:
      ValueError, OSError: an evaluation cannot go on, or its state cannot be saved.
    """
    begun = time.perf_counter()
    found = self._found(step, state, stop)
    if found is None:
      return False
    seconds = time.perf_counter() - begun
    self._made[step] = {
      f'{name}/{number}': float(value)
      for name, values in found.items()
      for number, value in values.items()
      if math.isfinite(value)
    }
    log.evaluated(step, self._made[step], seconds, self._line(step, seconds))
    if jax.process_index() == 0:
      shutil.rmtree(self._workdir / DIRECTORY, ignore_errors=True)
    return True

  def _found(
    self, step: int, state: TrainState, stop: Callable[[], object]
  ) -> dict[str, Mapping[str, float]] | None:
    """The numbers of each protocol; None if told to stop before all were there."""

    def on_progress(done: int, total: int) -> None:
      if stop():
        raise _Told

    found, place = {}, self._workdir / DIRECTORY / f'step_{step:08}'
    segmenter = self._planned[0].evaluator.segmenter.with_weights(
      self._weights(state), same_text=self._same_text
    )
    try:
      for one in self._planned:
        evaluation = evaluate(
          one.evaluator.of(segmenter),
          one.source,
          place / folder_name(one.evaluator.name),
          data=one.source.fingerprint,
          dtype=self._config.dtype,
          on_progress=on_progress,
          # Killed in a later protocol, the run does not do this one again.
          keep_state=True,
        )
        found[one.name] = evaluation.metrics.values
    except _Told:
      return None
    return found

  def _line(self, step: int, seconds: float) -> str:
    """What is shown: of each protocol the first numbers that the literature quotes."""
    numbers, told = self._made[step], []
    for one in self._planned:
      headline = one.evaluator.run.protocol.headline
      quoted = [name for name in headline if f'{one.name}/{name}' in numbers][:_SHOWN]
      told += [
        f'{one.name}/{name} {numbers[f"{one.name}/{name}"]:.2f}' for name in quoted
      ]
    line = f'{"  ".join(told) or "nothing to judge"}  in {seconds:.0f} s'
    return line if self.best is None else f'{line}  best: {self.shown_best()}'

  def _weights(self, state: TrainState) -> dict[str, Array]:
    """The model's parameters, whole, on each device of this process.

    Those of the state are not copied where every device holds them already.
    """
    paths = flatten_modules({MODEL: self._program.task.modules()[MODEL]})
    held = {**state.frozen, **state.params}
    divided = {
      path: held[path]
      for path in paths
      if path in held and not held[path].sharding.is_fully_replicated
    }
    # One program, and its end awaited: many at once may wait for each other.
    held |= jax.block_until_ready(self._gather(divided))
    whole = NamedSharding(self._devices, PartitionSpec())

    def here(path: str) -> Array:
      if path not in held:
        return jax.device_put(self._starting[path], whole)
      parts = {shard.device: shard.data for shard in held[path].addressable_shards}
      return jax.make_array_from_single_device_arrays(
        held[path].shape, whole, [parts[device] for device in self._devices.devices]
      )

    return {path: here(path) for path in paths}


class _Told(Exception):
  """The run was told to end."""
