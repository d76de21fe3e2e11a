"""`words check` and `words suggest`, as people type them."""

import json

import pytest

from maskclip_jax.__main__ import main
from maskclip_jax.data.build import build

MODEL = ['--model', 'clip_baseline_miniature', '--no_cache']


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  build('miniature', None, folder, sizes={'test': 6})
  return str(folder)


def test_check(capsys):
  assert main(['words', 'check', '--vocabulary', 'cat; dog']) == 0
  assert '2 classes' in capsys.readouterr().out
  assert main(['words', 'check', '--vocabulary', 'cat; stuff']) == 1
  assert 'vague' in capsys.readouterr().out


def test_suggest_writes_a_vocabulary(data_dir, tmp_path, capsys):
  out = tmp_path / 'words.json'
  command = ['words', 'suggest', '--data', 'miniature/panoptic', '--split', 'test']
  command += [*MODEL, '--data_dir', data_dir, '--photos', '6', '--out', str(out)]
  assert main([*command, '--templates', 'keep']) == 0
  shown = capsys.readouterr()
  assert 'true regions of 6 photos' in shown.out
  assert 'held out' in shown.out
  assert 'compiling' in shown.err
  assert len(json.loads(out.read_text())['classes']) == 116
  assert main(['words', 'check', '--vocabulary', str(out)]) in (0, 1)


@pytest.mark.parametrize(
  ('arguments', 'part'),
  [
    (['check'], 'which words'),
    (['suggest', '--data', 'miniature'], 'which model'),
    (['suggest', '--data', 'miniatur', *MODEL], 'miniature'),
    (['suggest', '--data', 'miniature', '--out', 'a.txt', *MODEL], 'end it in .json'),
    (['suggest', '--data', 'miniature/captions', *MODEL], 'no masks'),
    (['suggest', '--data', 'coco', *MODEL], 'data build coco'),
    (['suggest', '--data', 'miniature', '--split', 'vall', *MODEL], 'vall'),
  ],
)
def test_mistakes_are_one_line(arguments, part, data_dir, capsys):
  assert main(['words', *arguments, '--data_dir', data_dir]) == 2
  error = capsys.readouterr().err
  assert part in error
  assert len(error.splitlines()) == 1
