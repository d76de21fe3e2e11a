"""Which files of other libraries `convert` reads, and whether the networks agree.

  pip install '.[formats]'
  python benchmarks/formats/table.py
  python benchmarks/formats/table.py --only mask2former

Every row builds a network by the library itself, with few layers and seeded weights,
saves it as the library does, converts it by `python -m maskclip_jax convert`, and
compares what both compute for the same input. Prints the table, and writes it between
the marks of `docs/formats.md`; with `--only`, prints alone. Exits with 1 where a row is
not as expected.
"""

import argparse
import importlib.metadata
import pathlib
import sys
import textwrap

import mask2former
from rows import Result, measure

# One module for each family of networks, each with its `ROWS`.
FAMILIES = (mask2former,)

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'formats.md'
START, END = '<!-- table of benchmarks/formats -->', '<!-- end of the table -->'
_LIBRARIES = ('transformers', 'open_clip_torch', 'timm', 'torchvision', 'torch', 'jax')


def table(results: list[Result]) -> str:
  """The results in Markdown."""
  lines = ['| library | network | files | read | difference |', '|---|---|---|---|---|']
  for result in results:
    row = result.row
    if result.difference is not None:
      last = f'yes | {result.difference:.0e}'
    else:
      last = f'no | {result.message}'
    lines.append(f'| {row.library} | {row.network} | {row.files} | {last} |')
  versions = ', '.join(f'{n} {importlib.metadata.version(n)}' for n in _LIBRARIES)
  return '\n'.join([*lines, '', textwrap.fill(f'Measured with {versions}.', 100)])


def write(text: str) -> None:
  """Puts the table between the marks of the page."""
  page = PAGE.read_text()
  before, rest = page.split(START)
  _, after = rest.split(END)
  PAGE.write_text(f'{before}{START}\n\n{text}\n\n{END}{after}')


def main() -> int:
  """Measures every row asked for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='rows whose title has this text')
  arguments = parser.parse_args()
  rows = [row for family in FAMILIES for row in family.ROWS]
  results = []
  for row in rows:
    if arguments.only.lower() in row.title.lower():
      print(row.title, file=sys.stderr, flush=True)
      results.append(measure(row))
  print(table(results))
  bad = [result for result in results if not result.good]
  for result in bad:
    print(f'not as expected: {result.row.title}: {result.message}', file=sys.stderr)
  if not arguments.only:
    write(table(results))
  return int(bool(bad))


if __name__ == '__main__':
  sys.exit(main())
