"""`data list`, `data build` and `data check` as a person types them."""

import raw_pascal

from maskclip_jax.__main__ import main


def test_list_names_every_dataset_and_its_terms(capsys, tmp_path):
  assert main(['data', 'list', '--data_dir', str(tmp_path)]) == 0
  out = capsys.readouterr().out
  for name in ('ade20k_150', 'ade20k_847', 'coco', 'pascal_context', 'voc2012'):
    assert name in out
  assert out.count('licence') >= 5


def test_build_then_check(capsys, tmp_path):
  raw = raw_pascal.write_voc(tmp_path / 'raw')
  place = ['--data_dir', str(tmp_path / 'data')]
  assert main(['data', 'build', 'voc2012', '--raw', str(raw), *place]) == 0
  assert 'built' in capsys.readouterr().out
  # A handful of photos is not the published number: the doctor must say so.
  assert main(['data', 'check', 'voc2012', *place]) == 1
  assert 'problems found' in capsys.readouterr().out
  assert (tmp_path / 'data' / 'voc2012' / 'check.html').is_file()


def test_mistakes_are_one_line(capsys, tmp_path):
  for arguments, part in (
    (['build'], 'which dataset?'),
    (['build', 'voc2012'], 'needs --raw'),
    (['build', 'voc2013', '--raw', str(tmp_path)], 'voc2012'),
    (['build', 'voc2012', '--raw', str(tmp_path / 'no')], 'no folder'),
    (['check', 'voc2012', '--data_dir', str(tmp_path)], 'is not built'),
  ):
    assert main(['data', *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert part in error
