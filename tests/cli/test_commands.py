"""All commands: what `--help` costs, and that each is where the list says."""

import os
import pathlib
import subprocess
import sys

import pytest

from maskclip_jax import __main__ as entry
from maskclip_jax import cli


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
  for command in entry.COMMANDS:
    assert command.__name__ == f'{cli.__name__}.{command.NAME}'


@pytest.mark.parametrize(
  'words', [['predict', '--nothing'], ['train', '--config.'], []]
)
def test_unknown_words_are_refused(words, capsys):
  with pytest.raises(SystemExit) as stopped:
    entry.main(words)
  assert stopped.value.code == 2
  assert 'usage:' in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error():
  # As in `models list | head`.
  reader, writer = os.pipe()
  os.close(reader)
  command = [sys.executable, '-m', 'maskclip_jax', 'models', 'list']
  done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, b'')


def test_a_user_without_a_home_and_a_terminal_of_few_letters():
  environment = {'PATH': '', 'HOME': '', 'PYTHONIOENCODING': 'ascii'}
  environment['PYTHONPATH'] = str(pathlib.Path(cli.__file__).parents[2])
  code = (
    'import os, pwd\n'
    'def nobody(uid): raise KeyError(uid)\n'
    'os.environ.pop("HOME"); pwd.getpwuid = nobody\n'
    'from maskclip_jax.__main__ import main\n'
    'print(main(["train", "--config", "gr\u00fcn", "--workdir", "w"]))\n'
    'main(["predict", "--help"])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('2\n')
  assert "'gr?n'" in done.stderr
