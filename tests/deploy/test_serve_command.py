"""`serve` on the command line: its mistakes, and how it ends."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import MODEL, SCENES, wait_until_ready

from maskclip_jax.__main__ import main

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--canvas', '100x100'], 'multiples of 32'),
    (['--canvas', 'large'], 'as 640x960'),
    (['--batch', '0'], 'batch must be at least 1'),
    (['--timeout', 'nan'], 'timeout must be above 0'),
    (['--timeout', 'inf'], 'at most 86400 seconds'),
    (['--max_mb', 'inf'], '--max_mb must be a number above 0'),
    (['--max_megapixels', 'nan'], '--max_megapixels must be a number above 0'),
    (['--host', '192.0.2.1', '--port', '0'], 'cannot listen at 192.0.2.1'),
    (['--port', '70000'], 'cannot listen at 127.0.0.1:70000'),
    (['--model', 'nothing', '--port', '0'], 'nothing'),
    (['--words', 'cat; cat', '--port', '0'], 'given twice'),
    (['--words', 'absent.txt', '--port', '0'], 'no vocabulary file absent.txt'),
  ],
)
def test_mistakes_are_one_line(flags, said, capsys):
  model = [] if '--model' in flags else ['--model', MODEL]
  assert main(['serve', *model, '--no_cache', *flags]) == 2
  error = capsys.readouterr().err
  assert re.search(said, error)
  assert len(error.splitlines()) == 1


def test_an_address_that_is_taken(capsys):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = str(taken.getsockname()[1])
    assert main(['serve', '--model', MODEL, '--port', port, '--no_cache']) == 2
  assert 'address already in use' in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
  for name in [name for name in sys.modules if name.startswith('maskclip_jax.deploy')]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'fastapi', None)
  assert main(['serve', '--model', MODEL]) == 2
  assert "pip install 'maskclip_jax[serve]'" in capsys.readouterr().err


@pytest.fixture
def process():
  """A server in a process of its own, and its address."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  command = [sys.executable, '-m', 'maskclip_jax', 'serve', '--model', MODEL]
  command += ['--port', str(port), '--canvas', '128x128', '--no_cache']
  child = subprocess.Popen(
    command,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )
  yield child, f'http://127.0.0.1:{port}'
  child.kill()
  child.communicate()


@pytest.mark.slow
def test_what_was_taken_is_answered_before_the_end(process):
  child, address = process
  with (
    httpx.Client(base_url=address, timeout=60, trust_env=False) as client,
    ThreadPoolExecutor(12) as threads,
  ):
    wait_until_ready(client)

    def one(number):
      files = [('image', (f'{number}.jpg', SCENES[number % 4].read_bytes()))]
      data = {'words': f'disk, bar, star, shape {number}'}
      return client.post('/segment', files=files, data=data).status_code

    answers = [threads.submit(one, number) for number in range(12)]
    while 'maskclip_queue_photos 0.0' in client.get('/metrics').text:
      time.sleep(0.001)
    while sum(answer.running() for answer in answers) < len(answers):
      time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    # Those whose connection was not taken yet are refused, none is lost in between.
    found = [answer.exception() or answer.result() for answer in answers]
  assert 200 in found
  assert all(one == 200 or isinstance(one, httpx.ConnectError) for one in found), found
  assert child.wait(60) == 0
  assert 'Traceback' not in child.stderr.read()


@pytest.mark.slow
def test_it_ends_at_once_while_it_compiles(process):
  child, _ = process
  for line in child.stderr:
    if 'Ctrl-C' in line:
      break
  time.sleep(1)
  child.send_signal(signal.SIGTERM)
  assert child.wait(20) == 0
