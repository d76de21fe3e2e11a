"""From raw files to a table of numbers, as a person types it."""

import json
import os
import pathlib
import subprocess
import sys

import ade_scenes
import pytest

from maskclip_jax.__main__ import main
from maskclip_jax.eval.protocols import PROTOCOLS

ROOT = pathlib.Path(__file__).parents[2]
MODEL = ['--model', 'masqclip_tiny', '--random_weights', '0', '--no_cache']


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """A scene in ADE20K's official layout, built by the command line."""
  folder = tmp_path_factory.mktemp('ade')
  raw = ade_scenes.write(folder / 'raw', 1)
  build = ['data', 'build', 'ade20k_150', '--raw', str(raw)]
  assert main([*build, '--data_dir', str(folder / 'data')]) == 0
  return str(folder / 'data')


# What the evaluation of this scene alone is called as a folder.
FEW = 'ade150+1_of_2000'


def collect(runs, ledger):
  """What `python benchmarks/ledger.py` does."""
  script = ROOT / 'benchmarks' / 'ledger.py'
  return subprocess.run(
    [sys.executable, str(script), str(runs), '--ledger', str(ledger)],
    env={
      **os.environ,
      'PYTHONPATH': str(ROOT),
      'JAX_PLATFORMS': 'cpu',
      'COLUMNS': '120',
    },
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.slow
def test_build_eval_report_compare(data_dir, tmp_path, capsys):
  place = ['--data_dir', data_dir, '--out', str(tmp_path)]
  assert main(['eval', '--evals', 'ade150', '--diagnose', *place, *MODEL]) == 0
  results = json.loads((tmp_path / FEW / 'results.json').read_text())
  assert set(results) >= {'numbers', 'model', 'versions', 'device'}
  assert '<svg' in (tmp_path / FEW / 'report.html').read_text()
  capsys.readouterr()
  assert main(['eval', '--compare', str(tmp_path), '--everything']) == 0
  table = capsys.readouterr().out
  assert 'ade150+1 of 2000/PQ' in table
  # Published numbers are of all photos: MasQCLIP's PQ is no match for this.
  assert '23.3' not in table
  collected = collect(tmp_path, tmp_path / 'ledger')
  assert collected.returncode == 0, collected.stderr
  assert 'ade150+1 of 2000/PQ' in collected.stdout
  entry = tmp_path / 'ledger' / 'masqclip_tiny' / FEW / 'results.json'
  assert json.loads(entry.read_text()) == results
  assert main(['eval', '--compare', str(tmp_path / 'ledger')]) == 0
  assert 'masqclip_tiny' in capsys.readouterr().out
  refused = collect(tmp_path / 'nothing', tmp_path / 'ledger')
  assert refused.returncode == 2
  assert len(refused.stderr.splitlines()) == 1


def test_mistakes_are_one_line(data_dir, tmp_path, capsys):
  place = ['--data_dir', data_dir, '--out', str(tmp_path)]
  for arguments, part in (
    (['--evals', 'ade150', *place], '--model M'),
    (MODEL, '--evals'),
    (['--evals', 'ade151', *place, *MODEL], 'ade150'),
    (['--evals', 'pc59', *place, *MODEL], 'data build pascal_context'),
    (['--evals', 'ade150', '--scales', 'big', *place, *MODEL], 'scales'),
    (['--evals', 'ade150', '--vocabulary', 'cat', *place, *MODEL], 'class'),
    (['--compare', str(tmp_path / 'nothing')], 'nothing'),
  ):
    assert main(['eval', *arguments]) == 2, arguments
    lines = capsys.readouterr().err.splitlines()
    assert len([x for x in lines if 'RANDOM' not in x]) == 1, lines
    assert part in lines[-1], lines
  assert not (tmp_path / 'ade150').exists()


def test_protocols_are_listed(capsys):
  assert main(['eval', '--list']) == 0
  listed = capsys.readouterr().out
  assert all(name in listed for name in PROTOCOLS)
