"""Ctrl-C and SIGTERM while native code runs, of which Python learns only afterwards.

A compilation may take minutes. Python's own handlers run when it is over; a thread that
waits for the signal does not have to.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from maskclip_jax.cli.messages import note

# Python gets so many seconds to reach its handler, and then to clean up. An exception
# that a handler raises inside a callback of native code is printed and ignored.
_GRACE, _CLEANING = 1.0, 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = '\x1b[?25h'


class Stopped(KeyboardInterrupt):
  """The process was told to end.

  Attributes:
    status: what it exits with, 128 + the number of the signal.
  """

  def __init__(self, number: int):
    self.status = 128 + number


@contextlib.contextmanager
def obeyed_at_once() -> Iterator[None]:
  """Ctrl-C and SIGTERM raise `Stopped` or, where native code keeps Python from it, end
  the process: for work of which nothing has to be saved."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  heard, left = threading.Event(), threading.Event()
  told: list[int] = []

  def handle(number: int, frame: object) -> None:
    told.append(number)
    heard.set()
    raise Stopped(number)

  before = {number: signal.signal(number, handle) for number in _SIGNALS}
  wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  watcher = threading.Thread(target=_watch, args=(reader, heard, left), daemon=True)
  watcher.start()
  try:
    yield
  finally:
    left.set()
    heard.set()
    signal.set_wakeup_fd(wakeup)
    for number, handler in before.items():
      signal.signal(number, handler)
    os.close(writer)
    watcher.join()
    os.close(reader)
  if told:
    # The handler's exception was lost, and the work was over before the watcher's time.
    raise Stopped(told[0])


def _watch(reader: int, heard: threading.Event, left: threading.Event) -> None:
  """Ends the process after a signal if Python does not leave the block in time."""
  while number := os.read(reader, 1):
    if number[0] not in _SIGNALS:
      continue
    if not heard.wait(_GRACE) or not left.wait(_CLEANING):
      if sys.stdout.isatty():
        # A progress bar hides it.
        sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
      note('interrupted')
      os._exit(128 + number[0])
