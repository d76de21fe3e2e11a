"""Processes that work for this one and end with it."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading


def process_pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
  """A pool of fresh processes, which leave interrupts to this one and do not outlive
  it, however it ends.

  Args:
    workers: how many.
  """
  context = multiprocessing.get_context('spawn')
  return concurrent.futures.ProcessPoolExecutor(workers, context, _obey)


def _obey() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)
