"""The web application: its addresses, and what they answer."""

import contextlib
import dataclasses
import importlib.resources
from collections.abc import Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from maskclip_jax._version import __version__
from maskclip_jax.compilations import Compilations
from maskclip_jax.deploy.server import suggestions
from maskclip_jax.deploy.server.engine import Engine
from maskclip_jax.deploy.server.handler import FAILED, RequestHandler
from maskclip_jax.deploy.server.metrics import Metrics
from maskclip_jax.deploy.server.middleware import RequestMiddleware
from maskclip_jax.deploy.server.request_form import (
  FIELDS,
  MEDIA,
  PHOTO,
  RequestReader,
  count_words,
)
from maskclip_jax.deploy.server.settings import Refused, Settings
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.text.syntax import separated

# The files of the page, by address.
_PAGE = {
  '/': ('index.html', 'text/html; charset=utf-8'),
  '/page.css': ('page.css', 'text/css; charset=utf-8'),
  '/page.js': ('page.js', 'text/javascript; charset=utf-8'),
  '/masks.js': ('masks.js', 'text/javascript; charset=utf-8'),
  '/icon.svg': ('icon.svg', 'image/svg+xml'),
}
_TYPES = {str: 'string', float: 'number', int: 'integer'}
# Seconds beyond a request's own time that the engine gets to finish what it has begun.
_LAST_BATCH = 5.0


def create_app(
  segmenter: Segmenter,
  model: str,
  settings: Settings | None = None,
  *,
  words: Sequence[str] = (),
  compiled: Compilations | None = None,
  on_ready: Callable[[], object] = lambda: None,
) -> FastAPI:
  """A web application around a model, for any ASGI server, in one process.

  Args:
    segmenter: the model; nobody else may use it from now on.
    model: its name, for people.
    settings: the limits.
    words: vocabularies whose vectors are made at the start, as `Vocabulary.parse` reads
      them; the page begins with the first. They may have more words than `settings`
      allows, and then requests may as well.
    compiled: counts compilations already, where somebody does.
    on_ready: called when photos are taken.

  Raises:
    ValueError: words that make no vocabulary, or too many.
    FileNotFoundError: words that name a file that there is not.
  """
  vocabularies = {text: segmenter.vocabulary(separated(text)) for text in words}
  settings = settings or Settings()
  longest = max(map(count_words, vocabularies.values()), default=0)
  settings = dataclasses.replace(
    settings,
    max_words=max(longest, settings.max_words),
    # More would be refused for ever.
    max_files=min(settings.max_files, settings.queue),
  )
  if compiled is None:
    compiled = Compilations()
    compiled.listen()
  metrics = Metrics(compiled)
  engine = Engine(segmenter, settings, metrics, vocabularies.values(), on_ready)
  reader = RequestReader(segmenter, engine.settings)
  shown = suggestions.describe(segmenter, model, engine.settings, vocabularies)

  @contextlib.asynccontextmanager
  async def running(app: FastAPI):
    app.state.handler = RequestHandler(engine, reader, metrics, model)
    engine.start()
    yield
    app.state.handler.close()
    # Nobody waits for an answer of a server that was never ready.
    ready = engine.state == 'ready'
    engine.stop(engine.settings.timeout + _LAST_BATCH if ready else 0)

  # FastAPI's page of the interface would fetch scripts from elsewhere.
  app = FastAPI(
    title=f'maskclip_jax: {model}',
    version=__version__,
    lifespan=running,
    docs_url=None,
    redoc_url=None,
  )
  app.state.engine, app.state.compiled = engine, compiled
  app.add_middleware(
    RequestMiddleware, metrics=metrics, max_bytes=engine.settings.max_bytes
  )
  _add_errors(app)
  _add_state(app, engine, metrics)
  _add_page(app, shown)

  @app.post('/segment', openapi_extra=_form_schema(), responses=_responses())
  async def segment(request: Request) -> Response:
    """Segments photos by words."""
    return await request.app.state.handler.segment(request)

  return app


def _add_errors(app: FastAPI) -> None:
  """Every error is `{"error": "one line"}`."""

  @app.exception_handler(Refused)
  async def refused(request: Request, error: Refused) -> Response:
    after = error.retry_after
    headers = {} if after is None else {'Retry-After': str(after)}
    return JSONResponse({'error': str(error)}, error.status, headers)

  @app.exception_handler(HTTPException)
  async def of_http(request: Request, error: HTTPException) -> Response:
    text = ' '.join(str(error.detail).split())
    return JSONResponse({'error': text}, error.status_code, error.headers)

  @app.exception_handler(Exception)
  async def unexpected(request: Request, error: Exception) -> Response:
    # The server's log has what happened; clients see no path of it.
    return JSONResponse({'error': FAILED}, 500)


def _add_state(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
  @app.get('/health')
  async def health() -> dict[str, str]:
    """Whether the process should live."""
    if engine.state == 'failed':
      raise Refused(500, 'the model could not be compiled')
    return {'status': 'alive'}

  @app.get('/ready')
  async def ready() -> dict[str, str]:
    """Whether photos are taken: the programs are compiled."""
    if engine.state != 'ready':
      raise Refused(503, f'the server is {engine.state}', 5)
    return {'status': 'ready'}

  @app.get('/metrics')
  async def measured() -> Response:
    """Numbers for Prometheus."""
    return Response(metrics.text(), media_type=metrics.content_type)


def _add_page(app: FastAPI, shown: suggestions.Shown) -> None:
  folder = importlib.resources.files('maskclip_jax.deploy.server').joinpath('page')

  def serve(name: str, kind: str):
    content = folder.joinpath(name).read_bytes()

    async def page() -> Response:
      return Response(content, media_type=kind)

    return page

  for address, (name, kind) in _PAGE.items():
    route = app.api_route(address, methods=['GET', 'HEAD'], include_in_schema=False)
    route(serve(name, kind))

  @app.get('/model')
  async def described() -> dict:
    """What the model is, and what the server takes."""
    return shown.model

  @app.get('/suggestions')
  async def suggested() -> list[str]:
    """Names of the bundled vocabularies' classes."""
    return shown.words


def _form_schema() -> dict:
  """The form of `/segment` for OpenAPI."""
  file = {'type': 'string', 'format': 'binary'}
  photos = {'type': 'array', 'items': file, 'description': 'One photo or several.'}
  texts = {
    name: {'type': _TYPES[kind], 'description': text}
    for name, (kind, text) in FIELDS.items()
  }
  schema = {
    'type': 'object',
    'properties': {PHOTO: photos, **texts},
    'required': [PHOTO],
  }
  content = {'multipart/form-data': {'schema': schema}}
  return {'requestBody': {'required': True, 'content': content}}


def _responses() -> dict:
  error = {
    'type': 'object',
    'properties': {'error': {'type': 'string'}},
    'required': ['error'],
  }
  texts = {
    400: 'The form is wrong, or has too many photos.',
    408: 'The form came too slowly.',
    413: 'Too many bytes or pixels.',
    415: 'No form, or no image that can be read.',
    422: 'The photo would be larger than what the server computes.',
    429: 'Too many photos are waiting; Retry-After says how long to wait.',
    503: 'Not ready yet.',
    504: 'It took too long.',
  }
  kinds = {kind: {} for kind in MEDIA.values()}
  return {200: {'description': 'The result.', 'content': kinds}} | {
    status: {
      'description': text,
      'content': {'application/json': {'schema': error}},
    }
    for status, text in texts.items()
  }
