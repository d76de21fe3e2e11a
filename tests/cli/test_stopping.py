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
