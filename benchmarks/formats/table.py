"""Which files of other libraries `convert` reads, and whether the networks agree.

  pip install '.[formats]'
  python benchmarks/formats/table.py
  python benchmarks/formats/table.py --only mask2former

Every row builds a network by the library itself, with few layers and seeded weights,
saves it as the library does, converts it by `python -m maskclip_jax convert` (or opens
it as training does, where it is a backbone), and compares what both compute for the
same input. Prints the table, keeps the numbers in
`results/formats.json` (those of `--only` beside the others), and writes the whole table
between the marks of `docs/formats.md`. Exits with 1 where a row is not as expected.
"""

import argparse
import importlib.metadata
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import backbones
import clip
import mask2former
import maskformer
from rows import Row, measure

# One module for each family of networks, each with its `ROWS`.
FAMILIES = (clip, mask2former, maskformer, backbones)

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'formats.md'
RESULTS = ROOT / 'benchmarks' / 'results' / 'formats.json'
# Has what all benchmarks share.
sys.path.append(str(ROOT / 'benchmarks'))


def table(rows: Sequence[Row], results: Mapping[str, dict]) -> str:
  """The results in Markdown, in the order of the rows."""
  lines = ['| library | network | files | read | difference |', '|---|---|---|---|---|']
  for row in rows:
    if (result := results.get(row.title)) is None:
      continue
    if result['difference'] is not None:
      last = f'yes | {result["difference"]:.0e}'
    else:
      last = f'no | {result["message"]}'
    library = f'{row.library} {result["version"]}'
    lines.append(f'| {library} | {row.network} | {row.files} | {last} |')
  return '\n'.join(lines)


def main() -> int:
  """Measures every row asked for."""
  from pages import fill

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='rows whose title has this text')
  arguments = parser.parse_args()
  rows = [row for family in FAMILIES for row in family.ROWS]
  measured, bad = {}, []
  for row in rows:
    if arguments.only.lower() not in row.title.lower():
      continue
    print(row.title, file=sys.stderr, flush=True)
    result = measure(row)
    version = importlib.metadata.version(row.library)
    measured[row.title] = result.to_dict() | {'version': version}
    if not result.good:
      bad.append(f'not as expected: {row.title}: {result.message}')
  kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
  kept = {r.title: kept[r.title] for r in rows if r.title in kept} | measured
  RESULTS.write_text(json.dumps(kept, indent=2) + '\n')
  fill(PAGE, 'benchmarks/formats', table(rows, kept))
  print(table(rows, measured))
  print(*bad, sep='\n', end='\n' if bad else '', file=sys.stderr)
  return int(bool(bad))


if __name__ == '__main__':
  sys.exit(main())
