"""`benchmarks/speed_card.py` on a tiny model: its rows, their order, its table."""

import importlib
import json
import pathlib
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent / 'benchmarks'


@pytest.fixture(scope='module')
def speed_card():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(BENCHMARKS))
    patch.setenv('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    yield importlib.import_module('speed_card')
  for name in ('speed_card', 'torch_peer', 'machine', 'turns'):
    sys.modules.pop(name, None)


def test_the_most_telling_rows_come_first(speed_card):
  rows = speed_card.cases(('float32', 'bfloat16'), (640, 1024), (1, 16), (20, 847))
  found = [(row.dtype, row.canvas, row.batch, row.words) for row in rows]
  assert found[:4] == [
    ('bfloat16', 1024, 1, 20),
    ('bfloat16', 1024, 16, 20),
    ('bfloat16', 1024, 1, 847),
    ('bfloat16', 640, 1, 20),
  ]
  assert len(set(found)) == len(found) == 2 * 2 * 2 + 1


def test_time_that_is_over_leaves_rows_out(speed_card, capsys):
  speed_card.main(['--no_peer', '--minutes', '0', '--batches', '1'])
  text = capsys.readouterr().out
  assert text.count('not measured, for lack of time: Case(') == 7
  assert text.count('| type | canvas |') == 1


def test_a_row_that_a_device_cannot_hold_leaves_the_others(
  speed_card, monkeypatch, capsys
):
  def measure(card, case):
    if case.batch > 1:
      raise RuntimeError('RESOURCE_EXHAUSTED: out of memory\nall that was asked for')
    return {'batch': case.batch, 'network_ms': 5.0}

  monkeypatch.setattr(speed_card.Card, 'measure', measure)
  speed_card.main(['--no_peer', '--batches', '4,1', '--words', '3'])
  lines = capsys.readouterr().out.splitlines()
  told = [line for line in lines if line.startswith('not measured: Case(')]
  assert len(told) == sum('| 5.0 |' in line for line in lines) == 4
  assert all(
    line.endswith('batch=4, words=3): RESOURCE_EXHAUSTED: out of memory')
    for line in told
  )


def test_parts_have_a_table_where_pytorch_is(speed_card):
  row = {'dtype': 'float32', 'canvas': 640, 'batch': 1, 'words': 20}
  # 80 GFLOP take 400 ms where 200 are done a second.
  floor = speed_card.floored(80 * 10**9, 200e9, theirs=1.25)
  parts = {'clip': speed_card.both(0.5, 1.25) | floor}
  *_, last = speed_card.beside([row, row | {'parts': parts}]).splitlines()
  cells = 'float32 | 640 | 1 | clip | 500.0 | 1250.0 | 2.5 | 80 | 400.0 | 3.12'
  assert last == f'| {cells} |'
  assert not speed_card.beside([row])


@pytest.mark.slow
def test_a_card_of_a_tiny_model(speed_card, tmp_path, capsys):
  flags = '--model masqclip_tiny --dtypes float32 --canvases 64 --batches 2 --words 3,9'
  path = tmp_path / 'new' / 'card.json'
  speed_card.main([*flags.split(), '--repeats', '1', '--no_peer', f'--output={path}'])
  content = json.loads(path.read_text())
  few, more = content['rows']
  assert few['network_photos_s'] == pytest.approx(2e3 / few['network_ms'], rel=0.05)
  assert few['whole_ms'] > 0 < more['whole_ms']
  assert 'of_few_words' not in few
  assert more['of_few_words'] > 0
  # Words of one bucket share a program.
  assert (few['programs'], more['programs']) == (1, 0)
  table = [line for line in capsys.readouterr().out.splitlines() if line[0] == '|']
  assert len({line.count('|') for line in table}) == 1
  assert len(table) == 4
