"""Event files read back, and the log of a run that was resumed."""

import json
import struct

from maskclip_jax.train.records.events import EventFile, crc32c
from maskclip_jax.train.records.log import METRICS, RunLog, trim


def fields(data: bytes) -> dict[int, list]:
  """A protocol buffer message: number -> values."""
  out, at = {}, 0

  def varint():
    nonlocal at
    value = shift = 0
    while True:
      byte = data[at]
      at += 1
      value |= (byte & 0x7F) << shift
      if byte < 0x80:
        return value
      shift += 7

  while at < len(data):
    tag = varint()
    number, kind = tag >> 3, tag & 7
    if kind == 0:
      value = varint()
    else:
      size = {1: 8, 5: 4}.get(kind) or varint()
      value = data[at : at + size]
      at += size
    out.setdefault(number, []).append(value)
  return out


def records(path) -> list[bytes]:
  """The records of a file, with their checksums checked."""
  data, at, out = path.read_bytes(), 0, []

  def check(part, stored):
    value = crc32c(part)
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert struct.pack('<I', masked) == stored

  while at < len(data):
    (size,) = struct.unpack('<Q', data[at : at + 8])
    check(data[at : at + 8], data[at + 8 : at + 12])
    out.append(data[at + 12 : at + 12 + size])
    check(out[-1], data[at + 12 + size : at + 16 + size])
    at += 16 + size
  return out


def test_checksum():
  """The check value of CRC-32C."""
  assert crc32c(b'123456789') == 0xE3069283


def test_event_file(tmp_path):
  file = EventFile(tmp_path)
  file.scalars(300, {'loss': 1.5, 'loss_ce': -2.0})
  file.picture(7, 'masks', b'png', (20, 30))
  file.close()
  version, scalars, picture = (fields(r) for r in records(next(tmp_path.iterdir())))
  assert version[3] == [b'brain.Event:2']
  assert scalars[2] == [300]
  values = [fields(v) for v in fields(scalars[5][0])[1]]
  assert [(v[1][0], struct.unpack('<f', v[2][0])[0]) for v in values] == [
    (b'loss', 1.5),
    (b'loss_ce', -2.0),
  ]
  value = fields(fields(picture[5][0])[1][0])
  image = fields(value[4][0])
  assert (value[1], image[1], image[2], image[4]) == ([b'masks'], [20], [30], [b'png'])


def make_log(tmp_path, step, **kwargs):
  settings = {'total_steps': 10, 'batch_size': 4, 'every': 2, 'active': True}
  return RunLog(tmp_path, step=step, **{**settings, **kwargs})


def test_lines_hold_means(tmp_path, capsys):
  log = make_log(tmp_path, 0)
  for step in range(1, 5):
    log.add(step, {'loss': float(step), 'loss_ce': 1.0, 'loss_ce_0': 2.0})
  log.close()
  rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
  assert [(row['step'], row['loss']) for row in rows] == [(2, 1.5), (4, 3.5)]
  assert {'images_per_second', 'data_wait', 'memory_gb', 'loss_ce_0'} <= set(rows[0])
  line = capsys.readouterr().out.splitlines()[0]
  assert line.startswith('step 2/10  loss 1.5000 (ce 1.000)')
  assert 'ETA' in line


def test_compiling_is_no_part_of_the_speed(tmp_path, capsys, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(
    'maskclip_jax.train.records.log.time.perf_counter', lambda: clock[0]
  )
  log = make_log(tmp_path, 0)
  clock[0] = 100.0
  log.begin()
  for step in (1, 2):
    clock[0] += 1.0
    log.waited(0.5)
    log.add(step, {'loss': 1.0})
  log.close()
  (line,) = capsys.readouterr().out.splitlines()
  assert '4.0 images/s  data 50%' in line
  assert line.endswith('ETA 0:00:08')


def test_other_processes_write_nothing(tmp_path, capsys):
  log = make_log(tmp_path, 0, active=False)
  log.add(2, {'loss': 3.0})
  log.close()
  assert log.last == {'loss': 3.0}
  assert not list(tmp_path.iterdir())
  assert not capsys.readouterr().out


def test_a_resumed_run_has_every_step_once(tmp_path):
  log = make_log(tmp_path, 0, every=1)
  for step in range(1, 6):
    log.add(step, {'loss': 1.0})
  log.close()
  path = tmp_path / METRICS
  path.write_text(path.read_text() + '{"step": 6, "lo')  # Killed while writing.
  log = make_log(tmp_path, 3, every=1)
  for step in range(4, 7):
    log.add(step, {'loss': 2.0})
  log.close()
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert [row['loss'] for row in rows] == [1, 1, 1, 2, 2, 2]


def test_trimming_nothing(tmp_path):
  trim(tmp_path / 'none', 3)
  assert not list(tmp_path.iterdir())
