"""A request's way from its form to its answer, beside the thread that computes."""

import asyncio
import hashlib
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from maskclip_jax import photos
from maskclip_jax._version import __version__
from maskclip_jax.deploy.server import answers
from maskclip_jax.deploy.server.batching import Job
from maskclip_jax.deploy.server.engine import Engine
from maskclip_jax.deploy.server.metrics import Metrics
from maskclip_jax.deploy.server.request_form import (
  FIELDS,
  RequestReader,
  SegmentRequest,
  Upload,
)
from maskclip_jax.deploy.server.settings import Refused, smallest_canvas
from maskclip_jax.results.prediction import Prediction

_LOG = logging.getLogger(__name__)
# What clients are told where the fault is the server's.
FAILED = 'the server failed at this; its log says why'

# Threads that decode photos and encode results.
_THREADS = 4
# Photos that are decoded at a time, in batches: the memory they take is bounded.
_DECODED = 3
# Bytes of a field that is a text.
_LONGEST_TEXT = 1 << 18
# How much the latest photo counts in the mean of seconds.
_LATEST = 0.1
# Of nginx: the client is gone, so nobody reads it.
_GONE = 499


class RequestHandler:
  """Takes requests, and refuses those that are too many.

  Args:
    engine: the model.
    reader: reads forms.
    metrics: takes times and the length of the queue.
    model: its name, for answers.
  """

  def __init__(
    self, engine: Engine, reader: RequestReader, metrics: Metrics, model: str
  ):
    self._engine, self._reader, self._metrics = engine, reader, metrics
    self._settings, self._model = engine.settings, model
    self._threads = ThreadPoolExecutor(_THREADS, 'requests')
    self._places = asyncio.Semaphore(_DECODED * self._settings.batch)
    # Photos in work, and seconds that the last ones took, waiting among them.
    self._photos, self._seconds = 0, 0.0

  def close(self) -> None:
    """Ends the threads."""
    self._threads.shutdown(wait=False, cancel_futures=True)

  async def segment(self, request: Request) -> Response:
    """Answers a request.

    Raises:
      Refused: it is wrong, too large, one too many, or took too long.
    """
    if self._engine.state != 'ready':
      raise Refused(503, f'the server is {self._engine.state}: try again soon', 5)
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind != 'multipart/form-data':
      raise Refused(415, 'send a form (multipart/form-data) with the photo as a file')
    # Before the body is read: it may be large.
    self._check_room(1)
    asked, form = None, None
    try:
      async with asyncio.timeout(self._settings.timeout):
        form = await request.form(
          max_files=self._settings.max_files,
          max_fields=len(FIELDS),
          max_part_size=_LONGEST_TEXT,
        )
        accept = request.headers.get('accept', '')
        asked = await self._in_thread(
          self._reader.read, form, dict(request.query_params), accept
        )
        return await self._while_connected(request, self._answer(asked))
    except TimeoutError:
      what, status = ('answered', 504) if asked else ('read', 408)
      raise Refused(
        status,
        f'the request was not {what} within {self._settings.timeout:g} seconds',
      ) from None
    except ClientDisconnect:
      # While the body was read: phones do that, so it is not worth a line of the log.
      return Response(status_code=_GONE)
    finally:
      if form is not None:
        await form.close()

  def _check_room(self, count: int) -> None:
    if self._photos + count > self._settings.queue:
      wait = math.ceil(max(1, self._seconds))
      raise Refused(
        429, f'{self._photos} photos are waiting: try again in {wait} seconds', wait
      )

  def _in_thread(self, function, *arguments):
    return asyncio.get_running_loop().run_in_executor(
      self._threads, function, *arguments
    )

  async def _while_connected(self, request: Request, work) -> Response:
    """The result of work, which is given up when the client is."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(request.receive())
    try:
      await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
      return await working if working.done() else Response(status_code=_GONE)
    finally:
      working.cancel()
      leaving.cancel()

  async def _answer(self, asked: SegmentRequest) -> Response:
    """Segments all photos of a request."""
    count = len(asked.uploads)
    self._check_room(count)
    self._add(count)
    tasks = [asyncio.create_task(self._one(asked, upload)) for upload in asked.uploads]
    try:
      found = await asyncio.gather(*tasks)
    finally:
      self._add(-count)
      for task in tasks:
        task.cancel()
    return await self._in_thread(answers.respond, found, asked.format)

  def _add(self, count: int) -> None:
    self._photos += count
    self._metrics.queue.set(self._photos)

  async def _one(self, asked: SegmentRequest, upload: Upload) -> dict[str, bytes]:
    """The files of one photo's results."""
    stages = self._metrics.stages
    async with self._places:
      with stages.labels('decode').time():
        job, warnings = await self._in_thread(self._prepare, asked, upload)
      begun = time.perf_counter()
      prediction = await self._compute(job)
      self._seconds += _LATEST * (time.perf_counter() - begun - self._seconds)
      info = {'description': f'maskclip_jax {__version__}', 'model': self._model}
      told = {'notes': list(asked.notes), 'warnings': warnings}
      info |= {name: texts for name, texts in told.items() if texts}
      with stages.labels('encode').time():
        return await self._in_thread(
          answers.encode, prediction, upload, asked.format, info
        )

  async def _compute(self, job: Job) -> Prediction:
    """The engine's answer.

    Raises:
      Refused: the model failed. The log has the reason, and clients see no path of it.
    """
    try:
      self._engine.submit(job)
      return await asyncio.wrap_future(job.answer)
    except Exception:
      _LOG.exception('a photo of %s was not segmented', job.size)
      raise Refused(500, FAILED) from None

  def _prepare(self, asked: SegmentRequest, upload: Upload) -> tuple[Job, list[str]]:
    """Decodes and resizes a photo.

    Returns:
      What to compute, and what had to be assumed of the photo.

    Raises:
      Refused: it is damaged, or would need a canvas that there is not.
    """
    content, plan = upload.file.read(), asked.plan
    try:
      with photos.heard() as warnings:
        pixels = photos.photo_from_bytes(content, upload.name, plan.white)
    except ValueError as error:
      raise Refused(415, ' '.join(str(error).split())) from None
    canvas = smallest_canvas(self._settings.canvases, plan.resized(pixels.shape[:2]))
    job = Job(
      content=hashlib.sha256(content).hexdigest(),
      resized=plan.resize(pixels),
      size=pixels.shape[:2],
      canvas=canvas,
      plan=plan,
      words_key=asked.words_key,
      photo=pixels if asked.format in ('overlay', 'zip') else None,
    )
    return job, warnings
