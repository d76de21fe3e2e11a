"""Jobs that wait for the model, and which of them go through the network together."""

import collections
import dataclasses
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskclip_jax.deploy.canvases import Size
from maskclip_jax.plan import Plan


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """A photo that is ready for the network.

  Attributes:
    content: a hash of its file.
    resized: its pixels as the network sees them.
    size: height and width before.
    canvas: what it will lie on.
    plan: what is asked.
    words_key: a hash of the words.
    photo: its pixels, where the result is to be drawn on them.
    answer: takes the prediction.
    arrived: when, by `time.perf_counter`.
  """

  content: str
  resized: UInt8[np.ndarray, 'h w 3']
  size: Size
  canvas: Size
  plan: Plan
  words_key: str
  photo: UInt8[np.ndarray, 'h0 w0 3'] | None = None
  answer: Future = dataclasses.field(default_factory=Future)
  arrived: float = dataclasses.field(default_factory=time.perf_counter)

  @property
  def batch_key(self) -> tuple[Any, ...]:
    """Jobs that agree in this may share a batch."""
    return self.canvas, self.words_key, self.plan.scores

  @property
  def outputs_key(self) -> tuple[Any, ...]:
    """Jobs that agree in this have the same network outputs."""
    plan = self.plan
    return (*self.batch_key, self.content, plan.preprocessing, plan.white)


class JobQueue:
  """Jobs in the order of their arrival; safe to use from several threads."""

  def __init__(self):
    self._jobs: collections.deque[Job] = collections.deque()
    self._changed = threading.Condition()
    self._closed = False

  def put(self, job: Job) -> None:
    """Adds a job.

    Raises:
      RuntimeError: the queue is closed.
    """
    with self._changed:
      if self._closed:
        raise RuntimeError('the server is stopping')
      self._jobs.append(job)
      self._changed.notify()

  def close(self) -> None:
    """Takes no more jobs; those that wait will still be handed out."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()

  def take(self, most: int) -> list[Job]:
    """The oldest job and others that may share its batch; waits for one.

    Nothing waits for company: a batch is what has come while the one before was
    computed. Jobs that were cancelled are dropped.

    Returns:
      At most `most` jobs; none once the queue is closed and empty.
    """
    with self._changed:
      while True:
        self._jobs = collections.deque(
          j for j in self._jobs if not j.answer.cancelled()
        )
        if self._jobs:
          break
        if self._closed:
          return []
        self._changed.wait()
      key = self._jobs[0].batch_key
      chosen = [job for job in self._jobs if job.batch_key == key][:most]
      taken = set(map(id, chosen))
      self._jobs = collections.deque(j for j in self._jobs if id(j) not in taken)
    return [job for job in chosen if job.answer.set_running_or_notify_cancel()]


def portions(count: int, sizes: Sequence[int]) -> list[int]:
  """A number as a sum of sizes there are programs for, the largest first.

  Args:
    count: of photos.
    sizes: ascending, 1 among them.
  """
  found = []
  while count:
    found.append(max(size for size in sizes if size <= count))
    count -= found[-1]
  return found
