"""What the data commands print."""

import io

import pytest
import raw_coco
from rich.console import Console

from maskclip_jax.cli.data_report import (
  build_with_progress,
  check_with_report,
  show_datasets,
)
from maskclip_jax.data.build import BuildError
from maskclip_jax.data.registry import list_datasets


@pytest.fixture
def console():
  return Console(file=io.StringIO(), width=200)


def _text(console):
  return console.file.getvalue()


def test_list_says_where_from_which_terms_and_what_by_hand(console, tmp_path):
  show_datasets(tmp_path, console)
  text = _text(console)
  for card in list_datasets():
    assert card.name in text
    assert card.licence in text
    for download in card.downloads:
      assert download.url in text
  assert 'by hand: register on the page and wait' in text
  assert 'coco/base48' in text
  assert f'not built in {tmp_path}' in text
  assert 'lacks the maps of 150 classes' in text


def test_build_and_check_print_a_summary(console, tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw', stuff=False)
  build_with_progress('coco', raw, tmp_path / 'data', console=console)
  text = _text(console)
  assert 'coco built: train 6, val 2 in' in text
  assert 'left out: stuff' in text
  assert '6/6' in text
  report = check_with_report('coco', tmp_path / 'data', console=console)
  text = _text(console)
  assert not report.ok
  assert 'train: the number of photos is not the published one: 6' in text
  assert 'what to do: The archive is incomplete' in text
  assert 'coco: problems found' in text
  assert (tmp_path / 'data/coco/check.html').read_text().startswith('<!doctype html>')
  show_datasets(tmp_path / 'data', console)
  assert f'built in {tmp_path}/data/coco/1.0.0' in _text(console)
  build_with_progress('coco', raw, tmp_path / 'data', console=console)
  assert 'coco was built before: train 6, val 2 in' in _text(console)


class _Pressed(io.StringIO):
  """A terminal at which Ctrl-C is pressed when the bar appears."""

  def write(self, text):
    if 'reading' not in text:
      raise KeyboardInterrupt
    return len(text)


def test_ctrl_c_is_one_line(tmp_path):
  raw = raw_coco.write_coco(tmp_path / 'raw')
  console = Console(file=_Pressed(), force_terminal=True)
  with pytest.raises(BuildError, match='run the same command again to go on'):
    build_with_progress('coco', raw, tmp_path / 'data', console=console)
