"""A server under load: good requests from several clients, then bad ones.

  python benchmarks/serve.py                      200 of 8 clients, then 500 bad ones
  python benchmarks/serve.py --batch 4            photos computed together
  python benchmarks/serve.py --model DIR --requests 50

Starts `serve` in a process of its own with a miniature that comes with the package,
asks for photos of many sizes with changing words, tasks and forms, and prints seconds,
memory and compilations as a table. No answer may be lost; every bad request must get a
status of 400 to 499 and a line.
"""

import argparse
import concurrent.futures
import io
import pathlib
import random
import re
import subprocess
import sys
import time
import zlib

import httpx
import numpy as np
from machine import machine
from PIL import Image

from maskclip_jax import zoo

MINIATURE = 'clip_baseline_miniature'
BUNDLE = zoo.shipped()[MINIATURE]
SCENES = sorted(BUNDLE.with_name('scenes').glob('*.jpg'))
WORDS = (
  'disk, bar, star',
  'disk; bar; stuff:water; stuff:tiles; stuff:sand',
  'blue disk, red disk, yellow disk, green disk',
  'cat, dog, sofa, floor',
)
FORMS = ('json', 'json', 'ids', 'overlay', 'zip')
TASKS = ('panoptic', 'instance', 'semantic')


def photos() -> list[tuple[str, bytes]]:
  """Scenes of different sizes and shapes, as JPEG and PNG."""
  found = []
  for number, (height, width) in enumerate(
    [(96, 128), (128, 96), (240, 320), (480, 360), (200, 600), (1000, 1500)]
  ):
    scene = Image.open(SCENES[number % len(SCENES)]).resize((width, height))
    kind = ('jpeg', 'png')[number % 2]
    buffer = io.BytesIO()
    scene.save(buffer, kind)
    found.append((f'scene_{number}.{kind}', buffer.getvalue()))
  return found


def good(number: int, files) -> dict:
  """The arguments of a request that must be answered."""
  choose = random.Random(number)
  return {
    'files': [('image', choose.choice(files))],
    'data': {
      'words': choose.choice(WORDS),
      'task': choose.choice(TASKS),
      'format': choose.choice(FORMS),
    },
  }


def bomb(side: int) -> bytes:
  """A PNG of few bytes that says it has `side` x `side` pixels."""
  buffer = io.BytesIO()
  Image.new('RGB', (8, 8)).save(buffer, 'png')
  content = bytearray(buffer.getvalue())
  content[16:24] = side.to_bytes(4, 'big') * 2
  content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
  return bytes(content)


def bad(number: int, files) -> dict:
  """The arguments of a request that must be refused."""
  choose = random.Random(number)
  photo = choose.choice(files)
  name, content = photo
  words = {'words': 'disk, bar'}
  noise = choose.randbytes(choose.randrange(5000))
  cut = content[: choose.randrange(20, len(content) // 2)]
  wrong = choose.choice(('nan', 'inf', '-1', '2', 'x', '1e999', '٣x'))
  threshold = choose.choice(('object_threshold', 'overlap_threshold'))
  folder = choose.choice(('../../etc/', '/root/', 'a/b/', '....//'))
  kinds = (
    {'files': [('image', ('noise.jpg', noise))], 'data': words},
    {'files': [('image', ('text.png', b'<svg/>'))], 'data': words},
    {'files': [('image', ('cut.jpg', cut))], 'data': words},
    {'files': [('image', ('empty.jpg', b''))], 'data': words},
    {
      'files': [('image', ('a.png', bomb(choose.randrange(9000, 60000))))],
      'data': words,
    },
    {'files': [('image', (folder + name, content))], 'data': words},
    {'files': [('image', photo)], 'data': {}},
    {'files': [('image', photo)], 'data': {'words': choose.choice((' ', ';', ',,'))}},
    {'files': [('image', photo)], 'data': {'words': ', '.join(map(str, range(3000)))}},
    {'files': [('image', photo)], 'data': {'words': 'x' * 500_000}},
    {'files': [('image', photo)], 'data': {'vocabulary': '../../../etc/passwd'}},
    {'files': [('image', photo)], 'data': {**words, threshold: wrong}},
    {'files': [('image', photo)], 'data': {**words, 'task': 'x' * 100}},
    {'files': [('image', photo)], 'data': {**words, 'top_k': '9' * 6000}},
    {'files': [('image', photo)], 'data': {**words, 'short_edge': '16000'}},
    {'files': [('image', photo)] * 40, 'data': words},
    {'files': [('words', photo)], 'data': {}},
    {'json': {'image': [0] * 100_000, 'words': 'cat'}},
    {'content': b'{' * 1_000_000, 'headers': {'Content-Type': 'application/json'}},
    {
      'content': noise,
      'headers': {'Content-Type': 'multipart/form-data; boundary=x'},
    },
  )
  return kinds[number % len(kinds)]


class Process:
  """A server in a process of its own.

  Attributes:
    address: where it listens.
    seconds: until it was ready.
  """

  def __init__(self, model: str, port: int, flags: list[str]):
    command = [sys.executable, '-m', 'maskclip_jax', 'serve', '--model', model]
    begun = time.perf_counter()
    self._child = subprocess.Popen([*command, '--port', str(port), *flags])
    self.address = f'http://127.0.0.1:{port}'
    while not self._ready():
      if self._child.poll() is not None:
        raise SystemExit(f'the server ended with status {self._child.returncode}')
      time.sleep(0.2)
    self.seconds = time.perf_counter() - begun

  def _ready(self) -> bool:
    try:
      return httpx.get(f'{self.address}/ready', trust_env=False).status_code == 200
    except httpx.TransportError:
      return False

  def memory_mb(self) -> float:
    """Its resident memory now."""
    status = pathlib.Path(f'/proc/{self._child.pid}/status').read_text()
    return int(re.search(r'VmRSS:\s+(\d+)', status)[1]) / 1024

  def measured(self, name: str) -> float:
    """A number of `/metrics`."""
    text = httpx.get(f'{self.address}/metrics', trust_env=False).text
    found = re.search(rf'^maskclip_{name} (.*)$', text, re.M)
    return float(found[1]) if found else 0.0

  def stop(self) -> int:
    """Tells it to end; its status."""
    self._child.terminate()
    return self._child.wait(120)


def load(address: str, requests: list[dict], clients: int):
  """Sends requests from several clients; statuses, errors and seconds, in order."""

  def one(request: dict):
    begun = time.perf_counter()
    answer = client.post('/segment', **request)
    seconds = time.perf_counter() - begun
    error = answer.json().get('error') if answer.status_code >= 400 else None
    return answer.status_code, error, seconds

  with (
    httpx.Client(base_url=address, timeout=300, trust_env=False) as client,
    concurrent.futures.ThreadPoolExecutor(clients) as threads,
  ):
    return list(threads.map(one, requests))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', default=MINIATURE)
  parser.add_argument('--requests', type=int, default=200)
  parser.add_argument('--rounds', type=int, default=4, help='of the same, for memory')
  parser.add_argument('--bad', type=int, default=500)
  parser.add_argument('--clients', type=int, default=8)
  parser.add_argument('--port', type=int, default=8377)
  arguments, flags = parser.parse_known_args()
  files = photos()
  server = Process(arguments.model, arguments.port, flags)
  requests = [good(number, files) for number in range(arguments.requests)]
  begun = time.perf_counter()
  found = load(server.address, requests, arguments.clients)
  whole, memory = time.perf_counter() - begun, [server.memory_mb()]
  seconds = np.sort([row[2] for row in found])
  lost = [row[:2] for row in found if row[0] != 200]
  networks = server.measured('batch_photos_count')
  print('machine:', machine())
  print(f'ready after {server.seconds:.1f} s')
  print(
    f'{len(found)} requests of {arguments.clients} clients: {len(lost)} lost {lost}'
  )
  print(
    f'seconds: p50 {np.quantile(seconds, 0.5):.3f}, p95 '
    f'{np.quantile(seconds, 0.95):.3f}; {len(found) / whole:.1f} requests a second'
  )
  print(
    f'networks run {networks:.0f} times for '
    f'{server.measured("batch_photos_sum"):.0f} photos; outputs kept for '
    f'{server.measured("kept_outputs_total"):.0f}'
  )
  for _ in range(arguments.rounds - 1):
    found = load(server.address, requests, arguments.clients)
    lost += [row[:2] for row in found if row[0] != 200]
    memory.append(server.memory_mb())
  print(
    f'memory after each round, MB: {[round(mb) for mb in memory]}; {len(lost)} lost'
  )
  refused = load(
    server.address,
    [bad(number, files) for number in range(arguments.bad)],
    arguments.clients,
  )
  wrong = [row[:2] for row in refused if not 400 <= row[0] < 500 or not row[1]]
  print(f'{len(refused)} bad requests: {len(wrong)} not refused {wrong}')
  print(f'memory: {server.memory_mb():.0f} MB')
  print(f'compilations: {server.measured("compilations"):.0f}')
  again = load(server.address, requests[:8], arguments.clients)
  print(f'then {sum(row[0] == 200 for row in again)} of 8 good ones are answered')
  status = server.stop()
  print(f'SIGTERM: status {status}')
  sys.exit(bool(lost or wrong or status))


if __name__ == '__main__':
  main()
