"""`python -m maskclip_jax mine SOURCE --model M --nouns WORDS --out DIR`."""

import argparse
import functools

from maskclip_jax.cli.model import add_model_flags, tell_limits
from maskclip_jax.cli.stopping import obeyed_at_once

NAME, HELP = 'mine', 'Mine pairs of region and noun from photos with captions.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `mine`."""
  parser.add_argument(
    'source',
    help='a built dataset with captions, such as coco/captions; or a folder or file: '
    'webdataset tars, a list, COCO JSON, photos beside texts, parquet; or generated:8',
  )
  parser.add_argument('--model', required=True, help='matches, and proposes masks')
  parser.add_argument('--proposals', metavar='MODEL', help='proposes the masks instead')
  parser.add_argument(
    '--nouns',
    required=True,
    help='a vocabulary (typed, a file or a name), or spaCy: spacy:en_core_web_sm',
  )
  parser.add_argument('--out', required=True, help='folder of the pairs')
  parser.add_argument('--split', default='train', help='(%(default)s)')
  parser.add_argument(
    '--data_dir', help='where built datasets lie (~/tensorflow_datasets)'
  )
  _add_recipe(parser)
  parser.add_argument(
    '--format',
    default='array_record',
    choices=['array_record', 'tar'],
    help='of the pairs; training reads array_record (%(default)s)',
  )
  parser.add_argument(
    '--photos_per_shard', type=int, default=1000, help='(%(default)s)'
  )
  parser.add_argument('--limit', type=int, help='only the first so many photos')
  parser.add_argument(
    '--engine', default='local', choices=['local', 'ray'], help='(%(default)s)'
  )
  parser.add_argument(
    '--workers', type=int, default=1, help='processes that mine (%(default)s)'
  )
  add_model_flags(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
  """How pairs are made: the fields of `MiningConfig` and `NounRule`."""
  parser.add_argument(
    '--captions',
    type=int,
    default=1,
    help='of a photo to read, 0 for all (%(default)s)',
  )
  parser.add_argument(
    '--form',
    default='written',
    choices=['written', 'name'],
    help="nouns as written, or the class's name (spaCy: the lemma) (%(default)s)",
  )
  parser.add_argument(
    '--tags', default='NN,NNS,NNP,NNPS', help='spaCy: what is a noun (%(default)s)'
  )
  parser.add_argument(
    '--compounds', action='store_true', help='spaCy: nouns in a row are one'
  )
  parser.add_argument(
    '--words',
    default='ovseg',
    help='how a noun becomes a vector: ovseg (14 templates), clean (none), ... '
    '(%(default)s)',
  )
  parser.add_argument(
    '--scores',
    default='',
    help='such as mask_threshold=0.4, above which a pixel is in a mask, or '
    'mask_prompts=1',
  )
  parser.add_argument(
    '--region',
    default='filled',
    choices=['filled', 'box'],
    help="stored: CLIP's mean outside the mask, or the whole box (%(default)s)",
  )
  parser.add_argument(
    '--repeats',
    action='store_true',
    help='a noun makes as many pairs as captions of the photo mention it',
  )
  parser.add_argument(
    '--min_score', type=float, default=-1.0, help='least cosine (none)'
  )
  parser.add_argument(
    '--min_lead',
    type=float,
    default=-2.0,
    help="least lead over the photo's other nouns; 0: each region's best noun (none)",
  )
  parser.add_argument(
    '--min_area', type=int, default=1, help='least pixels (%(default)s)'
  )
  parser.add_argument(
    '--batch_size', type=int, default=1, help='photos a call (%(default)s)'
  )
  parser.add_argument(
    '--on_error',
    default='stop',
    choices=['stop', 'skip'],
    help='at a photo that cannot be read (%(default)s)',
  )


def run(arguments: argparse.Namespace) -> int:
  """Mines; 3 if other processes are still busy with some files."""
  if arguments.random_weights is not None:
    raise ValueError('mining with random weights means nothing: leave them out')
  with obeyed_at_once():
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
  import rich.console

  from maskclip_jax.cli.data_report import progress_bars
  from maskclip_jax.mining.mine import mine

  job = _job(arguments)
  if not job.source.startswith(('miniature/', 'generated:')):
    for model in filter(None, (job.config.model, job.config.proposals)):
      tell_limits(model, arguments.quiet)
  console = rich.console.Console(quiet=arguments.quiet)
  with progress_bars(console) as advance:
    mined = mine(
      job,
      engine=arguments.engine,
      workers=arguments.workers,
      setup=functools.partial(_get_ready, job.config.cache_dir),
      progress=functools.partial(advance, 'photos'),
    )
  speed = f', {mined.fresh / mined.seconds:.1f} a second' if mined.fresh else ''
  console.print(
    f'{mined.pairs:,} pairs of {mined.photos:,} photos in {job.out}; {mined.fresh:,} '
    f'photos mined now in {mined.seconds:.0f} s{speed}',
    soft_wrap=True,
  )
  if mined.elsewhere:
    console.print(
      f'{mined.elsewhere} files are being mined by other processes: run the same '
      'command again when they are done'
    )
    return 3
  console.print(f'report: {mined.report}', soft_wrap=True)
  return 0


def _get_ready(cache_dir: str | None) -> None:
  """Keeps compiled programs, in every process."""
  import pathlib

  from maskclip_jax.cli.model import watch_compilation

  watch_compilation(None if cache_dir is None else pathlib.Path(cache_dir))


def _job(arguments: argparse.Namespace):
  """The job that the flags describe.

  Raises:
    ValueError: a value out of its range.
  """
  from maskclip_jax.mining.job import MiningJob
  from maskclip_jax.mining.nouns import NounRule
  from maskclip_jax.mining.recipe import MiningConfig

  tags = tuple(tag.strip() for tag in arguments.tags.split(',') if tag.strip())
  config = MiningConfig(
    nouns=NounRule(arguments.nouns, arguments.form, tags, arguments.compounds),
    cache_dir=arguments.cache_dir and str(arguments.cache_dir),
    **_fields(
      arguments,
      *('model', 'proposals', 'captions', 'words', 'scores', 'region', 'repeats'),
      *('min_score', 'min_lead', 'min_area', 'batch_size', 'on_error', 'dtype'),
    ),
  )
  return MiningJob(
    config,
    **_fields(
      arguments,
      *('source', 'out', 'split', 'data_dir', 'format', 'photos_per_shard', 'limit'),
    ),
  )


def _fields(arguments: argparse.Namespace, *names: str) -> dict:
  return {name: getattr(arguments, name) for name in names}
