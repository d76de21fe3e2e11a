"""The training loop: one for every stage, every system and every number of devices.

In this order: the directory, the starting values, the latest checkpoint, the data from
its step on, and then step after step until the end. The loop runs ahead of the device
by one step: what a step reports is looked at when the next has been sent off, and
always before a checkpoint is written.
"""

import contextlib
import dataclasses
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from maskclip_jax.checkpoints import bundle
from maskclip_jax.data.targets import decode_ids
from maskclip_jax.systems.system import sampling_form
from maskclip_jax.train.checkpoint import Checkpoints
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.export import save_bundle
from maskclip_jax.train.mesh import make_mesh
from maskclip_jax.train.records import pictures
from maskclip_jax.train.records import workdir as workdirs
from maskclip_jax.train.records.log import RunLog
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.step import Program, TrainState, make_program


class Diverged(ValueError):
  """The loss is not a number any more."""


@dataclasses.dataclass(frozen=True)
class Result:
  """How a run ended.

  Attributes:
    step: updates made.
    finished: whether these were all; else the run was told to stop and can resume.
    state: the last state.
    metrics: the last means.
    bundle: the exported model, if finished.
  """

  step: int
  finished: bool
  state: TrainState
  metrics: Mapping[str, float]
  bundle: pathlib.Path | None


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


def train(
  config: TrainConfig,
  workdir: pathlib.Path | str,
  *,
  command: Sequence[str] = (),
  say: Callable[[str], None] = print,
) -> Result:
  """Runs a configuration, from where its directory stands to the end.

  Args:
    config: of the run.
    workdir: its directory; all processes give the same.
    command: what was typed, for the records.
    say: where notes go; lines of progress go to stdout.

  Raises:
    FileNotFoundError, ValueError: what is wrong with the configuration, the files the
      run starts from, or its directory.
    Diverged: a loss is not finite.
    OSError: the disk is full or gone.
  """
  workdir = pathlib.Path(workdir).absolute()
  active = jax.process_index() == 0
  mesh = make_mesh(config.mesh)
  workdirs.check(workdir, config)
  program = make_program(config, mesh)
  starting = starting_values(program.task, tuple(config.start.values()), config.seed)
  workdirs.claim(workdir, config, command)
  workdirs.check_start(workdir, starting.record())
  checkpoints = Checkpoints(workdir, config.checkpoint)
  try:
    state = program.start(starting)
    if active:
      shape = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
      device = mesh.devices.flat[0]
      say(f'{config.task} on {device.device_kind}, mesh {shape}')
      if form := sampling_form(config.chosen_preset().config, device.platform):
        say(f'deformable sampling by {form}')
      say(program.layout.table())
    if checkpoints.latest() is not None:
      state = checkpoints.restore(state)
      if active:
        say(f'resumed at step {int(state.step)} of {config.total_steps}')
    if active and int(state.step) < config.total_steps:
      say('compiling the step ...')
    state, metrics, finished = _run(program, state, checkpoints, workdir)
    exported = None
    if finished:
      exported = workdir / bundle.OF_RUN
      save_bundle(exported, program, state, starting)
  finally:
    checkpoints.close()
  return Result(int(state.step), finished, state, metrics, exported)


def _run(
  program: Program,
  state: TrainState,
  checkpoints: Checkpoints,
  workdir: pathlib.Path,
) -> tuple[TrainState, Mapping[str, float], bool]:
  """Steps until the end or until told to stop; saves before it returns."""
  config = program.config
  active = jax.process_index() == 0
  step = first = int(state.step)
  key, pending = jax.random.key(config.seed), None
  log = RunLog(
    workdir,
    step=step,
    total_steps=config.total_steps,
    batch_size=config.data.batch_size,
    every=config.log.every,
    active=active,
  )
  draw = _Drawing(program, workdir, log)

  def look(one: _Pending | None) -> None:
    if one is not None:
      log.add(one.step, one.read())

  def save() -> None:
    checkpoints.save(state, {'images': step * config.data.batch_size}, log.last)

  with contextlib.ExitStack() as stack:
    stack.callback(log.close)
    stop = stack.enter_context(_listening())
    stream = stack.enter_context(program.stream(step))
    profile = stack.enter_context(_profiler(config, workdir, active))
    while step < config.total_steps:
      begun = time.perf_counter()
      rows = next(stream)
      batch = program.batch(rows)
      log.waited(time.perf_counter() - begun)
      profile(step)
      begun = time.perf_counter()
      state, terms = program.step(state, batch, key)
      if step == first:
        log.compiled(time.perf_counter() - begun)
      step += 1
      look(pending)
      pending = _Pending(step, terms, rows['image_id'])
      stopped = stop() or checkpoints.should_stop(step)
      last = step == config.total_steps
      if stopped or last or step % config.checkpoint.every == 0:
        look(pending)
        pending = None
        save()
      draw(step, state, batch)
      if stopped and not last:
        checkpoints.wait()
        return state, log.last, False
    look(pending)
    checkpoints.wait()
  return state, log.last, True


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
def _listening() -> Iterator[Callable[[], bool]]:
  """Whether this process was told to end (SIGTERM); several processes agree by
  `Checkpoints.should_stop` instead, which needs the signal for itself."""
  if jax.process_count() > 1:
    yield lambda: False
    return
  told = []
  previous = signal.signal(signal.SIGTERM, lambda *_: told.append(True))
  try:
    yield lambda: bool(told)
  finally:
    signal.signal(signal.SIGTERM, previous)


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
