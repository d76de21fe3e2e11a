"""`python -m maskclip_jax models list`."""

import argparse

NAME, HELP = 'models', 'List the models that have a name.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `models`."""
  parser.add_argument('action', choices=['list'])


def run(arguments: argparse.Namespace) -> int:
  """Prints the table of models."""
  import rich.console
  import rich.table

  from maskclip_jax import zoo

  table = rich.table.Table(title='Models', show_lines=True)
  for heading in ('name', 'what it is', 'weights', 'licence of the weights', 'numbers'):
    table.add_column(heading, overflow='fold')
  for name in zoo.list_models():
    card = zoo.cards()[name]
    table.add_row(name, card.summary, card.weights, card.licence, card.numbers)
  rich.console.Console().print(table)
  return 0
