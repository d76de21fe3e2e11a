"""`python -m maskclip_jax convert SOURCE --to DIR [--system S] [--preset P]`."""

import argparse
import pathlib

from maskclip_jax.systems import system_names

NAME, HELP = 'convert', 'Turn an official checkpoint into a bundle.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `convert`."""
  parser.add_argument('source', metavar='SOURCE', help='official checkpoint file')
  parser.add_argument('--to', required=True, type=pathlib.Path, help='bundle directory')
  parser.add_argument(
    '--system', help=f'{", ".join(system_names())}; guessed where possible'
  )
  parser.add_argument(
    '--preset', help='a name of `models list`; guessed where possible'
  )
  parser.add_argument(
    '--clip',
    help='CLIP checkpoint, or the folder of its repository: for what system files '
    'leave out of it, or to replace the CLIP of an OVSeg',
  )


def run(arguments: argparse.Namespace) -> int:
  """Converts and prints what was found."""
  from maskclip_jax.checkpoints.convert import convert_checkpoint

  report = convert_checkpoint(
    arguments.source,
    arguments.to,
    system=arguments.system,
    preset=arguments.preset,
    clip=arguments.clip,
  )
  print(report)
  return 0
