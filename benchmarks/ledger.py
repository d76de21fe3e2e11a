"""Collects evaluations in the ledger of this project, and shows it.

  python benchmarks/ledger.py RUNS... [--name MODEL]
  python -m maskclip_jax eval --compare benchmarks/ledger

`RUNS` are folders that `eval --out` has written. Their `results.json` are copied to
`benchmarks/ledger/<model>/<evaluation>/`; without `RUNS` the ledger is only shown.
"""

import argparse
import pathlib
import shutil
import sys

from maskclip_jax.eval import ledger
from maskclip_jax.eval.compare import comparison

LEDGER = pathlib.Path(__file__).parent / 'ledger'


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('runs', nargs='*', type=pathlib.Path)
  parser.add_argument('--name', help="what the model is called (its path's last part)")
  parser.add_argument('--ledger', type=pathlib.Path, default=LEDGER)
  arguments = parser.parse_args()
  try:
    for run in arguments.runs:
      for path in ledger.collect(run, arguments.ledger, name=arguments.name):
        print(path)
    width = shutil.get_terminal_size((120, 24)).columns
    print(comparison(ledger.read_all(arguments.ledger), width=width))
  except (OSError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
