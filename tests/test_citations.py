"""Every citation of a specification leads to a section that exists.

Code and documents cite docs/spec as `[masqclip 4.3]`, `[ovseg B]`, or several sections
of one page as `[masqclip 7.4, 8.4]`.
"""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ('masqclip', 'ovseg', 'segclip', 'fcclip')
SUFFIXES = ('.py', '.md', '.json', '.sh', '.toml')
# Python's lists and indices begin otherwise: after the name stands a blank.
CITATION = re.compile(rf'\[({"|".join(PAGES)})\s([^\[\]]*)\]')
HEADING = re.compile(r'^#{2,3} ((?:\d+|[A-Z])(?:\.\d+)?)\.? \S', re.MULTILINE)
# How citations were written before the pages were part of the repository.
WITHOUT_PAGE = re.compile(
  r'\bspec(ification)?\s+(#\s*)?(section|appendix)', re.IGNORECASE
)


def sections(page: str) -> set[str]:
  """The numbers of a page's headings."""
  text = (ROOT / 'docs' / 'spec' / f'{page}.md').read_text(encoding='utf-8')
  # A line of a code block is no heading.
  return set(HEADING.findall(re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)))


def citations(text: str) -> list[tuple[int, str, str]]:
  """Line, page and section of every citation."""
  found = []
  for match in CITATION.finditer(text):
    line = text.count('\n', 0, match.start()) + 1
    numbers = match[2].split(',')
    found += [(line, match[1], number.strip(' \n#')) for number in numbers]
  return found


def tracked() -> dict[str, str]:
  """The text of the repository's files that could cite, by path."""
  names = subprocess.run(
    ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=True, text=True
  ).stdout.split('\0')
  paths = [name for name in names if name.endswith(SUFFIXES) and (ROOT / name).exists()]
  return {name: (ROOT / name).read_text(encoding='utf-8') for name in paths}


@pytest.fixture(scope='module')
def files() -> dict[str, str]:
  if not (ROOT / '.git').exists():
    pytest.skip('not a git checkout')
  return tracked()


def test_every_citation_leads_to_a_section(files):
  known = {page: sections(page) for page in PAGES}
  cited = [
    (f'{name}:{line}', page, number)
    for name, text in files.items()
    for line, page, number in citations(text)
  ]
  assert len(cited) > 100
  assert not [c for c in cited if c[2] not in known[c[1]]]


def test_no_citation_leaves_out_the_page(files):
  here = pathlib.Path(__file__).relative_to(ROOT).as_posix()
  assert not [
    f'{name}:{text.count(chr(10), 0, match.start()) + 1}'
    for name, text in files.items()
    if name != here
    for match in WITHOUT_PAGE.finditer(text)
  ]


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('see [masqclip 4.3].', [(1, 'masqclip', '4.3')]),
    ('\n[ovseg 4.4, B.2]', [(2, 'ovseg', '4.4'), (2, 'ovseg', 'B.2')]),
    ('# as [segclip\n# 4.1] says', [(1, 'segclip', '4.1')]),
    ("models[fcclip] and ['masqclip', 4]", []),
  ],
)
def test_how_citations_are_read(text, expected):
  assert citations(text) == expected
