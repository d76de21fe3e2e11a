"""A server in a thread of this process."""

import contextlib
import threading
import time

import httpx

from maskclip_jax import zoo
from maskclip_jax.deploy.server import Settings, create_app, running

MODEL = 'clip_baseline_miniature'
BUNDLE = zoo.shipped()[MODEL]
SCENES = sorted(BUNDLE.with_name('scenes').glob('*.jpg'))
# One small canvas and no batches: what is compiled is most of the time.
CANVAS = (64, 96)
SMALL = {'canvases': (CANVAS,), 'batch': 1}


@contextlib.contextmanager
def serving(segmenter, **settings):
  """A client of a server that is ready."""
  server = running.make_server(
    create_app(segmenter, MODEL, Settings(**(SMALL | settings)))
  )
  bound = running.bind('127.0.0.1', 0)
  thread = threading.Thread(target=server.run, args=([bound],))
  thread.start()
  address = f'http://127.0.0.1:{bound.getsockname()[1]}'
  try:
    # Nothing of the environment, such as a proxy, comes between.
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
      wait_until_ready(client)
      yield client
  finally:
    server.should_exit = True
    thread.join()


def wait_until_ready(client, seconds: float = 300) -> None:
  """Returns when the server takes photos."""
  end = time.monotonic() + seconds
  while not _is_ready(client):
    assert time.monotonic() < end
    time.sleep(0.05)


def _is_ready(client) -> bool:
  try:
    return client.get('/ready').status_code == 200
  except httpx.ConnectError:
    return False


def compilations(client) -> int:
  """Programs that were made ready since the server is."""
  (line,) = (
    line
    for line in client.get('/metrics').text.splitlines()
    if line.startswith('maskclip_compilations ')
  )
  return int(float(line.split()[1]))


class Held:
  """A network that answers when it is let go.

  Attributes:
    go: set it to let it answer.
    begun: is set when it was first asked.
  """

  def __init__(self, segmenter, monkeypatch):
    self.go, self.begun = threading.Event(), threading.Event()
    outputs = segmenter.outputs

    def held(*arguments):
      self.begun.set()
      assert self.go.wait(30)
      return outputs(*arguments)

    monkeypatch.setattr(segmenter, 'outputs', held)
