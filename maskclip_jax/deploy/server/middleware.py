"""What every request passes: the limit of its size, and what is counted of it."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskclip_jax.deploy.server.metrics import Metrics
from maskclip_jax.deploy.server.settings import Refused

_OTHER = 'other'
# A browser asks its own server for all that the page needs, and nobody else.
_HEADERS = {
  b'content-security-policy': (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' blob: data:; media-src blob:; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'"
  ),
  b'x-content-type-options': b'nosniff',
  b'referrer-policy': b'no-referrer',
  b'cache-control': b'no-store',
}


class RequestMiddleware:
  """Middleware around an application.

  Args:
    app: the application.
    metrics: counts requests and their seconds.
    max_bytes: of a body.
  """

  def __init__(self, app: ASGIApp, metrics: Metrics, max_bytes: int):
    self._app, self._metrics, self._max_bytes = app, metrics, max_bytes

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    begun, status, left = time.perf_counter(), 499, self._max_bytes

    async def limited() -> Message:
      nonlocal left
      message = await receive()
      left -= len(message.get('body', b''))
      if left < 0:
        raise Refused(
          413, f'the request is too large: at most {self._max_bytes / 1e6:.0f} MB'
        )
      return message

    async def counted(message: Message) -> None:
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
        message['headers'] = [*message.get('headers', ()), *_HEADERS.items()]
      await send(message)

    try:
      await self._app(scope, limited, counted)
    finally:
      route = getattr(scope.get('route'), 'path', _OTHER)
      self._metrics.requests.labels(route, status).inc()
      self._metrics.seconds.labels(route).observe(time.perf_counter() - begun)
