"""`models list`: what there is, in a form that can be copied."""

import json
import pathlib
import re

import inventory

from maskclip_jax import zoo
from maskclip_jax.__main__ import main

README = pathlib.Path(__file__).parents[2] / 'README.md'
MODELS = README.parent / 'docs' / 'models.md'


def test_names_and_links_stand_alone_on_their_lines(capsys):
  assert main(['models', 'list']) == 0
  lines = capsys.readouterr().out.splitlines()
  for name, card in zoo.cards().items():
    assert any(line.split()[:1] == [name] for line in lines), name
    assert not card.url or f'  {card.url}' in lines
  assert lines[0] == f'{next(iter(zoo.shipped()))}  (works at once)'


def test_lines_fit_a_terminal_but_for_links(capsys):
  assert main(['models', 'list']) == 0
  lines = capsys.readouterr().out.splitlines()
  links = {f'  {card.url}' for card in zoo.cards().values()}
  assert [line for line in lines if len(line) > 80 and line not in links] == []


def test_programs_read_json(capsys):
  assert main(['models', 'list', '--json']) == 0
  listed = json.loads(capsys.readouterr().out)
  assert list(listed) == zoo.list_models()
  assert listed['masqclip_r50_vit_l14_336']['licence'].startswith('CC BY-NC')


def test_readme_names_the_file_of_every_published_system():
  text = README.read_text()
  wanted = {
    c.url for n, c in zoo.cards().items() if c.url and not n.startswith('clip_')
  }
  assert {url for url in wanted if url not in text} == set()


def test_the_table_of_licences_has_every_model_and_its_size():
  """Parameters in millions, those of the stored list of each preset."""
  text = MODELS.read_text().partition('## Licences, sizes')[2]
  table = text.partition('\nPublished numbers')[0]
  rows = [line.split(' | ') for line in table.splitlines() if line.startswith('| `')]
  sizes = {}
  for names, _, _, millions, *_ in rows:
    named = re.findall(r'`(\w+)`', names)
    counts = [int(number) for number in re.findall(r'\d+', millions)]
    if len(counts) == 1:
      counts *= len(named)
    sizes |= dict(zip(named, counts, strict=True))
  assert set(zoo.cards()) == set(sizes)
  for name, millions in sizes.items():
    stored = (inventory.ROOT / f'{name}.txt').read_text()
    assert round(inventory.count(stored) / 1e6) == millions, name
