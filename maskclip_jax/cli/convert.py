"""`python -m maskclip_jax convert SOURCE --to DIR [--system S] [--preset P]`, and
`convert --proposals X --classifier Y --rule R --to DIR`, which makes one model of two.
"""

import argparse
import pathlib

from maskclip_jax.systems import system_names

NAME, HELP = 'convert', 'Turn an official checkpoint, or two models, into a bundle.'

_OF_FILE = ('source', 'system', 'preset', 'clip', 'image_size')
_OF_CROSS = ('proposals', 'classifier', 'rule', 'scores')


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `convert`."""
  parser.add_argument(
    'source', metavar='SOURCE', nargs='?', help='official checkpoint file'
  )
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
  parser.add_argument(
    '--image_size',
    type=int,
    help='side of the squares that the CLIP is shown, if not that of its training: of '
    'a ViT, whose positions are resized, a ConvNeXt or a SigLIP 2 NaFlex',
  )
  cross = parser.add_argument_group(
    'one model of two',
    'in the place of SOURCE: bundles, names, or whole official files',
  )
  cross.add_argument('--proposals', metavar='MODEL', help='whose masks')
  cross.add_argument('--classifier', metavar='MODEL', help='whose CLIP names them')
  cross.add_argument(
    '--rule',
    help='how: masq, rma or bias (mask tokens), crop or pool; by default as that model '
    'does',
  )
  cross.add_argument(
    '--scores', metavar='NAME=VALUE,...', help='of the result: coat=0.5'
  )


def run(arguments: argparse.Namespace) -> int:
  """Converts and prints what was found."""
  given = {name for name, value in vars(arguments).items() if value is not None}
  crossed = sorted(given.intersection(_OF_CROSS))
  alone = sorted(given.intersection(_OF_FILE))
  if crossed and alone:
    raise ValueError(
      f'{_flag(alone[0])} is for one checkpoint and {_flag(crossed[0])} for a model of '
      'two: give either'
    )
  if crossed:
    for name in ('proposals', 'classifier'):
      if name not in given:
        raise ValueError(f'a model of two needs --{name} as well')
    return _cross(arguments)
  if 'source' not in given:
    raise ValueError(
      'nothing to convert: name a checkpoint, or two models by --proposals and '
      '--classifier'
    )
  return _convert(arguments)


def _flag(name: str) -> str:
  return 'SOURCE' if name == 'source' else f'--{name}'


def _cross(arguments: argparse.Namespace) -> int:
  from maskclip_jax.checkpoints.cross import cross_models

  made = cross_models(
    arguments.proposals,
    arguments.classifier,
    arguments.rule,
    score=arguments.scores,
    to=arguments.to,
  )
  print(*made.notes, f'{arguments.to}: {made}', sep='\n')
  return 0


def _convert(arguments: argparse.Namespace) -> int:
  from maskclip_jax.checkpoints.convert import convert_checkpoint

  report = convert_checkpoint(
    arguments.source,
    arguments.to,
    system=arguments.system,
    preset=arguments.preset,
    clip=arguments.clip,
    image_size=arguments.image_size,
  )
  print(report)
  return 0
