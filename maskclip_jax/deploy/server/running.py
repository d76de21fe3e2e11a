"""Runs the application until it is told to stop, and then to its last answer."""

import logging
import os
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

# Seconds that an idle connection is kept.
_IDLE = 5


def bind(host: str, port: int) -> socket.socket:
  """A socket at an address, before anything slow is begun.

  Raises:
    OSError: the address is taken or not of this machine; names it.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  bound = socket.socket(family, socket.SOCK_STREAM)
  bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    bound.bind((host, port))
  except (OSError, OverflowError) as error:
    bound.close()
    reason = getattr(error, 'strerror', None) or str(error)
    raise OSError(f'cannot listen at {host}:{port}: {reason.lower()}') from None
  return bound


def make_server(app: FastAPI) -> uvicorn.Server:
  """What serves an application."""
  config = uvicorn.Config(
    app,
    log_level='warning',
    access_log=False,
    server_header=False,
    timeout_keep_alive=_IDLE,
    timeout_graceful_shutdown=int(app.state.engine.settings.timeout) + 1,
  )
  return uvicorn.Server(config)


def run(app: FastAPI, bound: socket.socket) -> None:
  """Serves until SIGTERM or Ctrl-C; what has been taken is answered first.

  Args:
    app: from `create_app`.
    bound: where to listen.
  """
  # Of every body that is no form; the client is told.
  logging.getLogger('python_multipart').setLevel(logging.ERROR)
  # uvicorn raises the signal again when all is answered: then it has been obeyed.
  before = {
    number: signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM)
  }
  try:
    make_server(app).run(sockets=[bound])
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if not app.state.engine.stop(0):
    # Native code that compiles cannot be interrupted, and nobody waits for it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
