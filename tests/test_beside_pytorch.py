"""`benchmarks/beside_pytorch.py`: its table, and the page where it is filled in."""

import importlib
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONTENT = {
  'machine': {
    'processor': 'a CPU',
    'cores_used': 2,
    'load': 0.1,
    'jax': '1.0',
    'torch': '2.0',
  },
  'rows': [
    {
      'network': 'trunk',
      'library': 'open_clip_torch',
      'version': '3.0',
      'size': 640,
      'difference': 2e-6,
      'ours': {'median_s': 1.5, 'least_s': 1.0},
      'theirs': {'median_s': 3.0, 'least_s': 2.0},
    }
  ],
}


@pytest.fixture(scope='module')
def modules():
  """The script, and what fills pages."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / 'benchmarks'))
    yield importlib.import_module('beside_pytorch'), importlib.import_module('pages')
  for name in ('beside_pytorch', 'pages'):
    sys.modules.pop(name, None)


def test_a_table_is_filled_between_its_marks_again_and_again(modules, tmp_path):
  script, pages = modules
  page = tmp_path / 'page.md'
  other = f'<!-- table of other -->\n\nkept\n\n{pages.END}\n'
  page.write_text(f'before\n<!-- table of X -->\nold\n{pages.END}\nafter\n{other}')
  for _ in range(2):
    pages.fill(page, 'X', script.table(CONTENT))
  text = page.read_text()
  assert '| trunk; open_clip_torch 3.0 | 640 | 1.50 | 3.00 | 2.0 | 2e-06 |' in text
  assert 'a CPU, 2 cores, load 0.1 before;\njax 1.0, torch 2.0.' in text
  assert text.startswith('before\n')
  assert text.endswith(f'after\n{other}')
  assert 'old' not in text
  with pytest.raises(ValueError, match='no place for a table: <!-- table of Y -->'):
    pages.fill(page, 'Y', 'text')


def test_the_page_shows_what_was_measured(modules):
  script, _ = modules
  page = script.PAGE.read_text()
  assert '<!-- table of benchmarks/beside_pytorch.py -->' in page
  if script.RESULTS.is_file():
    assert script.table(json.loads(script.RESULTS.read_text())) in page


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    ('--networks R50', 'give it an --output'),
    ('--sizes 640 700', 'multiples of 32'),
    ('--repeats 0', '1 or more'),
  ],
)
def test_a_part_of_the_table_does_not_replace_it(modules, capsys, flags, said):
  with pytest.raises(SystemExit):
    modules[0].main(flags.split())
  assert said in capsys.readouterr().err
