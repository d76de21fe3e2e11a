"""All commands: what `--help` costs, and that each is where the list says."""

import pathlib
import subprocess
import sys

import pytest

from maskclip_jax import __main__ as entry
from maskclip_jax import cli

SHARED = {'__init__', 'messages', 'model', 'data_report'}


@pytest.mark.parametrize('command', [c.NAME for c in entry.COMMANDS])
def test_help_loads_nothing_heavy(command):
  code = (
    'import contextlib, sys\n'
    'from maskclip_jax.__main__ import main\n'
    'with contextlib.suppress(SystemExit): main([sys.argv[1], "--help"])\n'
    'print(sorted({m.split(".")[0] for m in sys.modules} & {"jax", "numpy", "rich"}))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, command], capture_output=True, text=True, check=True
  )
  assert done.stdout.startswith('usage: python -m maskclip_jax')
  assert done.stdout.splitlines()[-1] == '[]'


def test_every_command_is_a_module_of_its_name():
  folder = pathlib.Path(cli.__file__).parent
  modules = {path.stem for path in folder.glob('*.py')} - SHARED
  assert modules == {command.NAME for command in entry.COMMANDS}


@pytest.mark.parametrize(
  'words', [['predict', '--nothing'], ['train', '--config.'], []]
)
def test_unknown_words_are_refused(words, capsys):
  with pytest.raises(SystemExit) as stopped:
    entry.main(words)
  assert stopped.value.code == 2
  assert 'usage:' in capsys.readouterr().err
