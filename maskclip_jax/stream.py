"""Photos one after another or in batches: read ahead, computed, post-processed."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import jax
import numpy as np

from maskclip_jax import photos
from maskclip_jax.batches import DeviceClock, Photo, by_canvas, canvas_of, read_ahead
from maskclip_jax.plan import Plan
from maskclip_jax.results.prediction import Prediction
from maskclip_jax.systems.contract import STRIDE
from maskclip_jax.systems.image_outputs import ImageOutputs

OnError = Callable[[photos.Photo, Exception], None]
Started = Callable[[], list[ImageOutputs]]


class Model(Protocol):
  """What photos run through: a `Segmenter`."""

  canvas_step: int

  def start(
    self,
    resized: Sequence[Photo],
    sizes: Sequence[tuple[int, int]],
    plan: Plan,
    canvas: tuple[int, int] | None = None,
    clock: DeviceClock | None = None,
  ) -> Started: ...

  def prediction(
    self, outputs: ImageOutputs, plan: Plan, photo: Photo | None = None
  ) -> Prediction: ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
  """A photo as it was given, as it is, and as the network sees it."""

  given: photos.Photo
  pixels: Photo
  resized: Photo


def predictions(
  model: Model,
  photo_list: Iterable[photos.Photo],
  plan: Plan,
  on_error: OnError | None,
  batch_size: int = 1,
  clock: DeviceClock | None = None,
) -> Iterator[tuple[photos.Photo, Prediction]]:
  """Each photo and its prediction; see `Segmenter.predict`."""
  # Where the device is not the host, it gets the next photos before these are done.
  ahead = 0 if jax.default_backend() == 'cpu' else 1
  running: collections.deque[tuple[Sequence[_Read], Started]] = collections.deque()
  failed: list[Exception] = []

  def finished() -> Iterator[tuple[photos.Photo, Prediction]]:
    group, started = running.popleft()
    for one, outputs in zip(group, started(), strict=False):
      try:
        yield one.given, model.prediction(outputs, plan, one.pixels)
      except (OSError, ValueError) as error:
        if on_error is None:
          raise
        on_error(one.given, error)

  items = _readable(photo_list, plan, on_error, failed)
  for group in by_canvas(
    items, lambda one: canvas_of(one.resized, model.canvas_step), batch_size
  ):
    try:
      running.append((group, _start(model, group, plan, batch_size, clock)))
    except Exception as error:
      # Such as no memory for so many: what runs already is not lost.
      failed.append(error)
      break
    if len(running) > ahead:
      yield from finished()
  while running:
    yield from finished()
  if failed:
    raise failed[0]


def _start(
  model: Model,
  group: Sequence[_Read],
  plan: Plan,
  batch_size: int,
  clock: DeviceClock | None,
) -> Started:
  """Sends photos off; black ones fill the batch, for which a program is there."""
  missing = batch_size - len(group)
  black = np.zeros((STRIDE, STRIDE, 3), np.uint8)
  resized = [*(one.resized for one in group), *[black] * missing]
  sizes = [*(one.pixels.shape[:2] for one in group), *[black.shape[:2]] * missing]
  return model.start(resized, sizes, plan, clock=clock)


def _readable(
  photo_list: Iterable[photos.Photo],
  plan: Plan,
  on_error: OnError | None,
  failed: list[Exception],
) -> Iterator[_Read]:
  """The photos that can be read. The first error that nobody is told of ends them: what
  came before goes its way first."""

  def read(photo: photos.Photo) -> tuple[photos.Photo, _Read | Exception]:
    try:
      return photo, _Read(photo, *plan.read(photo))
    except (OSError, ValueError) as error:
      return photo, error

  try:
    for photo, one in read_ahead(read, photo_list, threads=1, ahead=1):
      if isinstance(one, _Read):
        yield one
      elif on_error is None:
        raise one
      else:
        on_error(photo, one)
  except Exception as error:
    # Of any type: the source of the photos is somebody else's.
    failed.append(error)
