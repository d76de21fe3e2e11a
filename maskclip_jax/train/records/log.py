"""What is to be seen of a run: a line, `metrics.jsonl`, and TensorBoard events."""

import contextlib
import json
import pathlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from maskclip_jax import atomic, plain
from maskclip_jax.train.records.events import EventFile

METRICS = 'metrics.jsonl'
EVENTS = 'events'
# Marks the line of an evaluation, of whose step there may be a training line, too.
_EVALUATED = 'evaluation_seconds'


def _lines(path: pathlib.Path, step: int) -> Iterator[tuple[str, dict[str, float]]]:
  """The whole lines of steps up to `step`, and what they hold."""
  if not path.exists():
    return
  for line in path.read_text().splitlines():
    try:
      row = plain.parse_json(line, path)
      if row['step'] <= step:
        yield line, row
    except (ValueError, KeyError, TypeError):
      continue  # Cut short by a kill.


def trim(path: pathlib.Path, step: int) -> None:
  """Drops the lines of steps after `step`: a resumed run makes them again."""
  if path.exists():
    atomic.write(path, ''.join(f'{line}\n' for line, _ in _lines(path, step)))


def evaluations(workdir: pathlib.Path, step: int) -> dict[int, dict[str, float]]:
  """Step -> numbers of the evaluations that a run has made, up to a step."""
  rows = (row for _, row in _lines(workdir / METRICS, step) if _EVALUATED in row)
  return {row['step']: row for row in rows}


def memory_gb() -> float:
  """Largest memory in use so far, of the first local device or, on CPU, of us."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'] / 1e9
  return process_gb()


def process_gb() -> float:
  """Largest memory of this process so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == 'darwin' else 1024) / 1e9


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'


class RunLog:
  """Means of what every step reports, shown at intervals.

  Args:
    workdir: the run's directory.
    step: the run begins or resumes here.
    total_steps: its length.
    batch_size: photos per step, of all processes.
    every: steps per line.
    active: False on all processes but one: they only keep the means.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    step: int,
    total_steps: int,
    batch_size: int,
    every: int,
    active: bool,
  ):
    self._total, self._batch, self._every = total_steps, batch_size, every
    self._workdir = workdir
    self._steps: list[Mapping[str, float]] = []
    self._start = time.perf_counter()
    self._waited = 0.0
    self.last: dict[str, float] = {}
    self._file = self.events = None
    if active:
      path = workdir / METRICS
      trim(path, step)
      self._file = path.open('a')
      self.events = EventFile(workdir / EVENTS)

  def begin(self) -> None:
    """The first step has been sent off: speed is measured from here on."""
    self._start, self._waited = time.perf_counter(), 0.0

  def waited(self, seconds: float) -> None:
    """Time that a step waited for its data."""
    self._waited += seconds

  def add(self, step: int, terms: Mapping[str, float]) -> None:
    """Takes what the step that led to `step` reported."""
    self._steps.append(terms)
    if step % self._every == 0 or step == self._total:
      self._show(step)

  def evaluated(
    self, step: int, numbers: Mapping[str, float], seconds: float, line: str
  ) -> None:
    """Takes the numbers of an evaluation, which is no part of the steps' time.

    Args:
      step: what was evaluated.
      numbers: by name, 'ade150/PQ'.
      seconds: how long it took.
      line: what is shown of them.
    """
    self._start += seconds
    if self._file is not None:
      self._write(step, {**numbers, _EVALUATED: seconds})
      print(f'step {step}/{self._total}  {line}', flush=True)

  def _show(self, step: int) -> None:
    now = time.perf_counter()
    seconds, count = max(now - self._start, 1e-9), len(self._steps)
    means = {
      name: float(np.mean([terms[name] for terms in self._steps]))
      for name in self._steps[0]
    }
    speed = {
      'seconds_per_step': seconds / count,
      'images_per_second': count * self._batch / seconds,
      'data_wait': self._waited / seconds,
      'memory_gb': memory_gb(),
    }
    self.last = means
    self._steps, self._start, self._waited = [], now, 0.0
    if self._file is None:
      return
    self._write(step, {**means, **speed})
    losses = ' '.join(
      f'{name.removeprefix("loss_")} {value:.3f}'
      for name, value in means.items()
      if name.startswith('loss_') and not name[-1].isdigit()
    )
    remaining = (self._total - step) * speed['seconds_per_step']
    print(
      f'step {step}/{self._total}  loss {means["loss"]:.4f} ({losses})  '
      f'{speed["images_per_second"]:.1f} images/s  data {speed["data_wait"]:.0%}  '
      f'{speed["memory_gb"]:.1f} GB  ETA {_duration(remaining)}',
      flush=True,
    )

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    try:
      self._file.write(json.dumps({'step': step, **values}) + '\n')
      self._file.flush()
      self.events.scalars(step, values)
    except OSError as error:
      reason = (error.strerror or str(error)).lower()
      raise OSError(
        f'the log of step {step} cannot be written to {self._workdir}: {reason}; '
        'start again when that is mended, the run resumes at its last checkpoint'
      ) from error

  def close(self) -> None:
    """Ends the files; that a disk is full was told when it was written to."""
    for file in (self._file, self.events):
      if file is not None:
        with contextlib.suppress(OSError):
          file.close()
