"""The training loop: one for every stage, every system and every number of devices.

In this order: the directory, the starting values, the latest checkpoint, the data from
its step on, and then step after step until the end. The loop runs ahead of the device
by one step: what a step reports is looked at when the next has been sent off, and
always before a checkpoint is written. A step that is evaluated has a checkpoint first,
so that a run that is killed meanwhile goes on with the evaluation.
"""

import contextlib
import dataclasses
import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from maskclip_jax import jax_settings
from maskclip_jax.checkpoints import bundle
from maskclip_jax.data.examples import decode_ids
from maskclip_jax.names import unknown
from maskclip_jax.ops import fused_attention
from maskclip_jax.systems.system import sampling_form
from maskclip_jax.train.checkpoint import Checkpoints
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.evaluation import Evaluations, plan
from maskclip_jax.train.export import save_bundle
from maskclip_jax.train.mesh import make_mesh
from maskclip_jax.train.records import pictures
from maskclip_jax.train.records import workdir as workdirs
from maskclip_jax.train.records.log import RunLog, process_gb
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.step import (
  Program,
  Step,
  TrainState,
  make_program,
  step_memory,
)


class Diverged(ValueError):
  """The loss is not a number any more."""


@dataclasses.dataclass(frozen=True)
class Result:
  """How a run ended.

  Attributes:
    step: updates made.
    finished: whether that is the end; else the run was told to stop and can resume.
    told_by: the signal that told it to stop.
    state: the last state; once finished, the exported one.
    metrics: the last means.
    bundle: the exported model, if finished.
    best: the step that is best so far, and is exported in the end, where evaluations
      choose it.
  """

  step: int
  finished: bool
  state: TrainState
  metrics: Mapping[str, float]
  bundle: pathlib.Path | None
  told_by: signal.Signals | None = None
  best: int | None = None


@dataclasses.dataclass
class _Pending:
  """What a step reported, not looked at yet."""

  step: int
  terms: Mapping[str, jax.Array]
  image_ids: np.ndarray

  def read(self) -> dict[str, float]:
    """The numbers of the step.

    Raises:
      Diverged: one of them is not finite.
    """
    terms = {name: float(value) for name, value in self.terms.items()}
    bad = sorted(name for name, value in terms.items() if not math.isfinite(value))
    if bad:
      # The sum and the gradient follow from the term that broke first.
      first = [name for name in bad if name not in ('loss', 'grad_norm')] or bad
      raise Diverged(
        f'step {self.step}: {", ".join(first)} is not finite, on the images '
        f'{", ".join(decode_ids(self.image_ids))}; the last checkpoint is from before'
      )
    return terms


@jax_settings.own()
def train(
  config: TrainConfig,
  workdir: pathlib.Path | str,
  *,
  command: Sequence[str] = (),
  say: Callable[[str], None] = print,
  compiling: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Result:
  """Runs a configuration, from where its directory stands to the end.

  Args:
    config: the run's configuration.
    workdir: its directory; all processes give the same.
    command: what was typed, for the records.
    say: where notes go; lines of progress go to stdout.
    compiling: entered while the step is compiled, when nothing needs to be saved.

  Raises:
    FileNotFoundError, ValueError: what is wrong with the configuration, the files the
      run starts from, or its directory; or another process trains there.
    Diverged: a loss is not finite.
    OSError: the disk is full or gone.
  """
  workdir = pathlib.Path(workdir).absolute()
  if jax.process_index() != 0:
    say = _nothing
  mesh = make_mesh(config.mesh)
  workdirs.check(workdir, config)
  planned = plan(config)
  program = make_program(config, mesh)
  with workdirs.locked(workdir):
    starting = starting_values(program.task, tuple(config.start.values()), config.seed)
    with compiling():
      traced = program.trace()
    _check_best(config, traced)
    workdirs.claim(workdir, config, command, starting.record())
    checkpoints = Checkpoints(workdir, config.checkpoint)
    try:
      state = program.start(starting)
      _introduce(program, say)
      if checkpoints.latest() is not None:
        state = checkpoints.restore(state)
        say(f'resumed at step {int(state.step)} of {config.total_steps}')
      evaluations = Evaluations(planned, program, starting, workdir, int(state.step))
      if planned and not evaluations.done(int(state.step)):
        say(evaluations.introduce())
      state, metrics, told_by = _run(
        program,
        lambda: _compile(traced, compiling, say),
        state,
        checkpoints,
        evaluations,
        workdir,
      )
      step, exported = int(state.step), None
      if evaluations.done(step):
        state = _chosen(state, config.total_steps, checkpoints, evaluations, say)
        exported = workdir / bundle.OF_RUN
        save_bundle(exported, program, state, starting, evaluations.shown_best())
    finally:
      checkpoints.close()
  finished = exported is not None
  return Result(step, finished, state, metrics, exported, told_by, evaluations.best)


def _nothing(text: str) -> None:
  """Says nothing: one process of several speaks."""


def _introduce(program: Program, say: Callable[[str], None]) -> None:
  """Says what trains, and where."""
  config, mesh = program.config, program.mesh
  shape = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  device = mesh.devices.flat[0]
  say(f'{config.task} on {device.device_kind}, mesh {shape}')
  if form := sampling_form(config.chosen_preset.config, device.platform):
    say(f'deformable sampling by {form}')
  say(f'attention by {fused_attention.form_for(device.platform, config.dtype)}')
  say(program.layout.table())


def _check_best(config: TrainConfig, traced: jax.stages.Traced) -> None:
  """Fails where the best checkpoint is to be chosen by a number that is not logged."""
  _, terms = traced.out_info
  best = config.checkpoint.best
  if best and not config.checkpoint.by_evaluation and best not in terms:
    raise unknown('logged number (config.checkpoint.best)', best, sorted(terms))


def compile_traced(traced: jax.stages.Traced, say: Callable[[str], None]) -> Step:
  """Compiles a step; says how long it took and what memory it needs."""
  say('compiling the step ...')
  begun = time.perf_counter()
  compiled = traced.lower().compile()
  seconds = time.perf_counter() - begun
  own, rest = (size / 1e9 for size in step_memory(compiled))
  say(
    f'compiled in {seconds:.0f} s with at most {process_gb():.1f} GB of memory; a step '
    f'needs {own + rest:.2f} GB per device, {own:.2f} of them for state and batch'
  )
  return compiled


def _compile(
  traced: jax.stages.Traced,
  compiling: Callable[[], contextlib.AbstractContextManager],
  say: Callable[[str], None],
) -> Step:
  with compiling():
    return compile_traced(traced, say)


def _chosen(
  state: TrainState,
  total_steps: int,
  checkpoints: Checkpoints,
  evaluations: Evaluations,
  say: Callable[[str], None],
) -> TrainState:
  """The state that a run ends with: the last one, or the best by its evaluations."""
  step, best = int(state.step), evaluations.best
  if evaluations.over and step < total_steps:
    say(f'no gain for {evaluations.patience} evaluations: the run ends at step {step}')
  if best is None:
    return state
  say(f'the best is exported: {evaluations.shown_best()}')
  return state if best == step else checkpoints.restore(state, best)


def _run(
  program: Program,
  compile_step: Callable[[], Step],
  state: TrainState,
  checkpoints: Checkpoints,
  evaluations: Evaluations,
  workdir: pathlib.Path,
) -> tuple[TrainState, Mapping[str, float], signal.Signals | None]:
  """Steps until the end or until told to stop, and by what; saves before it returns."""
  config = program.config
  active = jax.process_index() == 0
  step = first = int(state.step)
  checkpoints.protect(evaluations.best)
  if evaluations.done(step):
    return state, {}, None
  key, pending = jax.random.key(config.seed), None
  log = RunLog(
    workdir,
    step=step,
    total_steps=config.total_steps,
    batch_size=config.data.batch_size,
    every=config.log.every,
    active=active,
  )

  def look(one: _Pending | None) -> None:
    if one is not None:
      log.add(one.step, one.read())

  def save() -> None:
    checkpoints.save(state, {'images': step * config.data.batch_size}, log.last)

  def judged() -> signal.Signals | None:
    """Evaluates this step if that is due; else, or if cut short, who told to stop."""
    if evaluations.due(step):
      checkpoints.wait()
      if not evaluations(step, state, log, stop):
        return stop()
      checkpoints.protect(evaluations.best)
    return None

  with contextlib.ExitStack() as stack:
    stack.callback(log.close)
    stop = stack.enter_context(_listening())
    if evaluations.due(step) and checkpoints.latest() is None:
      save()
    if (told_by := judged()) or evaluations.done(step):
      return state, log.last, told_by
    one_step = compile_step()
    draw = _Drawing(program, workdir, log)
    stream = stack.enter_context(program.stream(step))
    profile = stack.enter_context(_profiler(config, workdir, active))
    while not evaluations.done(step):
      begun = time.perf_counter()
      rows = next(stream)
      batch = program.batch(rows)
      log.waited(time.perf_counter() - begun)
      profile(step)
      state, terms = one_step(state, batch, key)
      if step == first:
        log.begin()
      step += 1
      look(pending)
      pending = _Pending(step, terms, rows['image_id'])
      told_by = stop() or _preempted(checkpoints, step)
      last, due = step == config.total_steps, evaluations.due(step)
      if told_by or last or due or step % config.checkpoint.every == 0:
        look(pending)
        pending = None
        save()
      draw(step, state, batch)
      told_by = told_by or judged()
      if told_by and not evaluations.done(step):
        checkpoints.wait()
        return state, log.last, told_by
    look(pending)
    checkpoints.wait()
  return state, log.last, None


class _Drawing:
  """Draws a picture every now and then."""

  def __init__(self, program: Program, workdir: pathlib.Path, log: RunLog):
    self._every, self._workdir, self._log = program.config.log.pictures, workdir, log
    task = program.task
    if task.reads_captions:
      # There are no masks to draw.
      self._every = 0
    self._draw = pictures.make_draw(program)

  def __call__(self, step: int, state: TrainState, batch) -> None:
    if not self._every or step % self._every:
      return
    picture = self._draw(state, batch)
    if self._log.events is not None:
      path = self._workdir / 'pictures' / f'step_{step:08}.png'
      png = pictures.write(path, picture)
      self._log.events.picture(step, 'photo, segments, found', png, picture.shape[:2])


@contextlib.contextmanager
def _listening() -> Iterator[Callable[[], signal.Signals | None]]:
  """Which signal told this process to end: SIGTERM, or SIGINT (Ctrl-C), whose second
  ends it at once. Several processes agree by `_preempted` instead, which needs SIGTERM
  for itself. Only the main thread hears signals."""
  main = threading.current_thread() is threading.main_thread()
  if jax.process_count() > 1 or not main:
    yield lambda: None
    return
  told: list[signal.Signals] = []

  def hear(number: int, frame: object) -> None:
    if told and number == signal.SIGINT:
      raise KeyboardInterrupt
    told.append(signal.Signals(number))

  previous = {n: signal.signal(n, hear) for n in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield lambda: told[0] if told else None
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def _preempted(checkpoints: Checkpoints, step: int) -> signal.Signals | None:
  """SIGTERM once all processes have agreed to end at this step."""
  return signal.SIGTERM if checkpoints.should_stop(step) else None


@contextlib.contextmanager
def _profiler(
  config: TrainConfig, workdir: pathlib.Path, active: bool
) -> Iterator[Callable[[int], None]]:
  """Starts and ends a profiler trace at the steps of the configuration."""
  first, running = config.log.profile_at, []

  def at(step: int) -> None:
    if active and step == first:
      jax.profiler.start_trace(workdir / 'profile')
      running.append(True)
    elif running and step >= first + config.log.profile_steps:
      jax.profiler.stop_trace()
      running.clear()

  try:
    yield at
  finally:
    if running:
      jax.profiler.stop_trace()
