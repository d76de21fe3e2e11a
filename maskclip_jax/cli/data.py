"""`python -m maskclip_jax data list`, `data build NAME --raw DIR`, `data check NAME`.

Labels of one's own: `data build NAME --from coco --images DIR --annotations FILE`.
"""

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
    metavar='FORM',
    help='build, under a name of your own: captions (pairs of photo and text), or how '
    'your photos are labelled: coco, cvat, labelme, masks, yolo',
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
    metavar='DIR',
    help='build: folder of your photos',
  )
  parser.add_argument(
    '--photos',
    metavar='NUMBER',
    help='check: of each split to decode, 0 for all (2000)',
  )
  _add_own_flags(parser)
  parser.add_argument('--page', help='check: where the report goes')


def _add_own_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of photos and labels of one's own."""
  group = parser.add_argument_group('build, of labels of your own')
  group.add_argument(
    '--annotations', nargs='+', default=[], metavar='FILE', help='files of the labels'
  )
  group.add_argument('--masks', metavar='DIR', help='a label picture for each photo')
  group.add_argument(
    '--classes', help='file of the classes (names, ids, colours, words), or words'
  )
  group.add_argument(
    '--val',
    type=float,
    default=0.0,
    help='draw this share of the photos to evaluate on',
  )
  group.add_argument('--seed', type=int, default=0, help='of that draw (%(default)s)')
  group.add_argument(
    '--ignore',
    default='255',
    help='values of masks that are not judged, such as 0,255, or none (%(default)s)',
  )
  for name in ('seen', 'unseen'):
    group.add_argument(
      f'--{name}', help=f'a,b: evaluation reports these classes as {name} as well'
    )


def run(arguments: argparse.Namespace) -> int:
  """Lists, builds or checks; 1 if a check found problems."""
  from maskclip_jax.cli import data_report
  from maskclip_jax.places import DATA_DIR

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
      # --images is what --photos was called at first.
      images=_count(arguments.photos or arguments.images),
      page=arguments.page,
    )
    return 0 if report.ok else 1
  data_report.build_with_progress(
    arguments.name,
    arguments.raw,
    data_dir,
    parts=arguments.parts.split(',') if arguments.parts else None,
    read_as='captions' if arguments.read_as == 'captions' else None,
    own=_own(arguments),
    on_error=arguments.on_error,
    extras=_extras(arguments),
    workers=arguments.workers,
  )
  return 0


def _count(text: str | None) -> int | None:
  """How many photos to decode; None for all.

  Raises:
    ValueError: it is no number.
  """
  if text is not None and not text.isdecimal():
    raise ValueError(f'--photos of a check is a number, and not {text!r}')
  return 2000 if text is None else int(text) or None


def _own(arguments: argparse.Namespace):
  """Photos and labels of one's own; None for a dataset of `data list` and for captions.

  Raises:
    ValueError: flags that are missing, or that belong to another build.
  """
  from maskclip_jax.data.own import READERS, OwnData
  from maskclip_jax.eval.protocols import protocol_names
  from maskclip_jax.names import unknown

  form = arguments.read_as
  if form in (None, 'captions'):
    for flag in ('images', 'annotations', 'masks', 'classes', 'seen', 'unseen'):
      if getattr(arguments, flag):
        raise ValueError(
          f'--{flag} is for labels of your own: say how they are written by --from, '
          f'{" or ".join(READERS)}'
        )
    return None
  if form not in READERS:
    raise unknown('form of data', form, ('captions', *READERS))
  if arguments.name in protocol_names():
    raise ValueError(
      f'{arguments.name} is the name of a published evaluation: take another'
    )
  if arguments.images is None:
    raise ValueError(f'--from {form} needs --images DIR: where the photos lie')
  if arguments.raw is not None:
    raise ValueError(f'--from {form} reads --images and labels: leave out --raw')
  return OwnData(
    form,
    arguments.images,
    tuple(arguments.annotations),
    arguments.masks,
    arguments.classes,
    arguments.val,
    arguments.seed,
    _ignored(arguments.ignore),
    _names(arguments.seen),
    _names(arguments.unseen),
  )


def _ignored(text: str) -> tuple[int, ...]:
  parts = [part.strip() for part in text.split(',')]
  if parts == ['none']:
    return ()
  if not all(part.isdecimal() and int(part) < 65536 for part in parts):
    raise ValueError(f"--ignore is numbers such as 0,255, or 'none', not {text!r}")
  return tuple(map(int, parts))


def _names(text: str | None) -> tuple[str, ...]:
  return tuple(filter(None, (part.strip() for part in (text or '').split(','))))


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
