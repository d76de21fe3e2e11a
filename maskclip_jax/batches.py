"""Photos on their way to a device: grouped by canvas, read ahead, and its time."""

import collections
import concurrent.futures
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import UInt8

S, T = TypeVar('S'), TypeVar('T')
Photo = UInt8[np.ndarray, 'height width 3']
# Photos that may wait for others of their canvas, in batches.
_WAITING = 4


def canvas_of(photo: Photo, step: int) -> tuple[int, int]:
  """The canvas a photo lies on: its sides are multiples of a step."""
  return tuple(-(-side // step) * step for side in photo.shape[:2])


def by_canvas(
  items: Iterable[T], canvases: Callable[[T], object], batch_size: int
) -> Iterator[list[T]]:
  """Groups items of equal canvases into batches; the last ones may be smaller.

  Few items wait: where many canvases are in play, the one that has waited longest goes
  before it is full.
  """
  waiting: dict[object, list[T]] = {}
  for item in items:
    key = canvases(item)
    group = waiting.setdefault(key, [])
    group.append(item)
    if len(group) == batch_size:
      yield waiting.pop(key)
    elif sum(map(len, waiting.values())) > _WAITING * batch_size:
      yield waiting.pop(next(iter(waiting)))
  yield from waiting.values()


def read_ahead(
  function: Callable[[S], T], items: Iterable[S], threads: int, ahead: int
) -> Iterator[T]:
  """Maps a function over items by threads, in order, some results ahead of their use.

  Raises:
    Exception: what the function raises; what the items raise, after the results of
      those before.
  """
  pending: collections.deque[concurrent.futures.Future[T]] = collections.deque()
  failed: list[Exception] = []

  def given() -> Iterator[S]:
    try:
      yield from items
    except Exception as error:
      failed.append(error)

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    try:
      for item in given():
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
      if failed:
        raise failed[0]
    finally:
      for future in pending:
        future.cancel()


class DeviceClock:
  """How long a device computes what it is watched for, and how long it waits for that.

  Time begins with the first arrays, whose program is compiled then.
  """

  def __init__(self):
    self._pool = concurrent.futures.ThreadPoolExecutor(1)
    self._first: float | None = None
    self._busy, self._last = 0.0, 0.0

  def watch(self, arrays: Any) -> None:
    """Counts from now until arrays, which have just been asked for, are there."""
    begin = time.perf_counter()
    self._first = begin if self._first is None else self._first
    self._pool.submit(self._count, begin, arrays)

  def _count(self, begin: float, arrays: Any) -> None:
    jax.block_until_ready(arrays)
    end = time.perf_counter()
    self._busy += end - max(begin, self._last)
    self._last = end

  def waited(self) -> float | None:
    """The share of the time until now that it waited; None if it never computed."""
    self._pool.shutdown()
    if self._first is None:
      return None
    return 1 - self._busy / (time.perf_counter() - self._first)
