"""Ctrl-C and SIGTERM: obeyed at once, also while native code runs."""

import signal
import subprocess
import sys
import time

import pytest

from maskclip_jax.cli.stopping import Stopped, obeyed_at_once

# A minute in C without a look at Python, as a compilation.
NATIVE = (
  'import hashlib, sys\n'
  'from maskclip_jax.cli.stopping import obeyed_at_once\n'
  'with obeyed_at_once():\n'
  '  print("begun", flush=True)\n'
  '  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)\n'
)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_native_code_does_not_delay_it(number):
  child = subprocess.Popen(
    [sys.executable, '-c', NATIVE],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert child.stdout.readline() == 'begun\n'
  time.sleep(0.5)  # Until it is in C.
  begun = time.monotonic()
  child.send_signal(number)
  _, error = child.communicate(timeout=60)
  assert child.returncode == 128 + number
  assert error == 'maskclip_jax: interrupted\n'
  # A second of grace, and a busy machine.
  assert time.monotonic() - begun < 20


def test_an_exception_that_is_ignored_does_not_keep_the_process():
  """As in a callback of the compiler, where the handler's exception is lost."""
  code = (
    'import signal, time\n'
    'from maskclip_jax.cli import stopping\n'
    'stopping._CLEANING = 0.5\n'
    'class Callback:\n'
    '  def __del__(self): signal.raise_signal(signal.SIGTERM)\n'
    'with stopping.obeyed_at_once():\n'
    '  callback = Callback()\n'
    '  del callback\n'
    '  time.sleep(60)\n'
  )
  begun = time.monotonic()
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 143
  assert done.stderr.endswith('maskclip_jax: interrupted\n')
  assert time.monotonic() - begun < 30


class _Callback:
  def __del__(self):
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_an_exception_that_is_ignored_is_raised_at_the_end():
  def work():
    with obeyed_at_once():
      callback = _Callback()
      del callback

  with pytest.raises(Stopped):
    work()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_python_cleans_up(number):
  before = signal.getsignal(number)

  def work():
    with obeyed_at_once():
      signal.raise_signal(number)
      time.sleep(10)

  with pytest.raises(Stopped) as stopped:
    work()
  assert stopped.value.status == 128 + number
  assert signal.getsignal(number) is before
  with obeyed_at_once():
    pass
