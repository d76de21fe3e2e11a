"""`python -m maskclip_jax models list`."""

import argparse
import dataclasses
import json
import textwrap

NAME, HELP = 'models', 'List the models that have a name.'
# Of the list, in letters; links are never broken.
WIDTH = 80


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `models`."""
  parser.add_argument('action', choices=['list'])
  parser.add_argument('--json', action='store_true', help='for programs, not people')


def run(arguments: argparse.Namespace) -> int:
  """Prints the models: first those that work at once, last parts without masks.

  Names and links stand on lines of their own, so that they can be copied.
  """
  from maskclip_jax import zoo

  cards = zoo.cards()
  if arguments.json:
    print(json.dumps({n: dataclasses.asdict(c) for n, c in cards.items()}, indent=2))
    return 0
  for name, card in cards.items():
    print(f'{name}{"  (works at once)" if card.shipped else ""}')
    for label, text in (
      ('', card.summary),
      ('limits: ', card.limits),
      ('weights: ', card.weights),
      ('', card.url),
      ('licence: ', card.licence),
      ('numbers: ', card.numbers),
    ):
      if text:
        print(_wrapped(label + text))
    print()
  print(
    'A published model is fetched by hand and converted: convert FILE --to DIR, with\n'
    '--clip FILE where the weights are those of two files (docs/models.md).'
  )
  return 0


def _wrapped(text: str) -> str:
  """A line of a card, those it goes on in set in further."""
  return textwrap.fill(
    text,
    WIDTH,
    initial_indent='  ',
    subsequent_indent='    ',
    break_long_words=False,
    break_on_hyphens=False,
  )
