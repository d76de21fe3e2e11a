"""`python -m maskclip_jax data list`, `data build NAME --raw DIR`, `data check`."""

import argparse

NAME, HELP = 'data', 'List, build and check datasets.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `data`."""
  parser.add_argument('action', choices=['list', 'build', 'check'])
  parser.add_argument('name', nargs='?', help='a dataset of `data list`')
  parser.add_argument('--raw', help='build: folder of the official files or archives')
  parser.add_argument(
    '--data_dir', help='where built datasets lie (~/tensorflow_datasets)'
  )
  parser.add_argument(
    '--parts', help='build: only these optional parts, separated by commas'
  )
  parser.add_argument(
    '--from',
    dest='read_as',
    choices=['captions'],
    help='build: pairs of photo and text, under a name of your own',
  )
  parser.add_argument(
    '--on_error',
    choices=['stop', 'skip'],
    default='stop',
    help='build: what pairs do that cannot be used (%(default)s)',
  )
  parser.add_argument(
    '--short_side',
    type=int,
    default=0,
    help='build: shorter side of larger photos of pairs; 0 keeps them (%(default)s)',
  )
  parser.add_argument(
    '--superpixels',
    nargs='?',
    const='224,0.9,224',
    metavar='SCALE,SIGMA,MIN_SIZE',
    help='build: cut photos into superpixels, by default as SegCLIP does (%(const)s)',
  )
  parser.add_argument(
    '--workers', type=int, help='build: how many at once (one per core)'
  )
  parser.add_argument(
    '--images',
    type=int,
    default=2000,
    help='check: photos of each split to decode, 0 for all (%(default)s)',
  )
  parser.add_argument('--page', help='check: where the report goes')


def run(arguments: argparse.Namespace) -> int:
  """Lists, builds or checks; 1 if a check found problems."""
  from maskclip_jax.cli import data_report
  from maskclip_jax.data.sources import DATA_DIR

  data_dir = arguments.data_dir or DATA_DIR
  if arguments.action == 'list':
    data_report.show_datasets(data_dir)
    return 0
  if arguments.name is None:
    raise ValueError(
      f'which dataset? `data {arguments.action} NAME`; `data list` names them'
    )
  if arguments.action == 'check':
    report = data_report.check_with_report(
      arguments.name,
      data_dir,
      images=arguments.images or None,
      page=arguments.page,
    )
    return 0 if report.ok else 1
  data_report.build_with_progress(
    arguments.name,
    arguments.raw,
    data_dir,
    parts=arguments.parts.split(',') if arguments.parts else None,
    read_as=arguments.read_as,
    on_error=arguments.on_error,
    extras=_extras(arguments),
    workers=arguments.workers,
  )
  return 0


def _extras(arguments: argparse.Namespace):
  """What is added to every record; None for nothing.

  Raises:
    ValueError: the numbers of --superpixels are not three.
  """
  from maskclip_jax.data.builders.extras import Extras
  from maskclip_jax.data.superpixels import SuperpixelRule

  rule = None
  if arguments.superpixels:
    try:
      scale, sigma, min_size = arguments.superpixels.split(',')
      rule = SuperpixelRule(float(scale), float(sigma), int(min_size))
    except ValueError as error:
      raise ValueError(
        f'--superpixels is SCALE,SIGMA,MIN_SIZE, such as 224,0.9,224, not '
        f'{arguments.superpixels!r}'
      ) from error
  return Extras(arguments.short_side, rule) if rule or arguments.short_side else None
