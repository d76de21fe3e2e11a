"""The command line: `python -m maskclip_jax predict|train|eval|convert|export|...`.

Flags, environment variables and the choice of cache directories live here and nowhere
below. Errors in what the user gave are one line on stderr and exit status 2; `--debug`
shows where they arose.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from maskclip_jax._version import __version__
from maskclip_jax.train.command import train_flags
from maskclip_jax.train.config_files import is_override

PROGRAM = 'maskclip_jax'
# So few photos get a table of what was found in each.
TABLES = 4


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  parser = _parser()
  arguments, overrides = parser.parse_known_args(argv)
  if unknown := [o for o in overrides if not (_trains(arguments) and is_override(o))]:
    parser.error(f'unrecognized arguments: {" ".join(unknown)}')
  arguments.overrides = overrides
  try:
    return arguments.run(arguments) or 0
  except KeyboardInterrupt:
    print(f'{PROGRAM}: interrupted', file=sys.stderr)
    return 130
  except (ValueError, OSError, ImportError) as error:
    if arguments.debug:
      raise
    print(f'{PROGRAM}: {_one_line(error)}', file=sys.stderr)
    return 2


def _trains(arguments: argparse.Namespace) -> bool:
  return arguments.run is train


def _one_line(error: Exception) -> str:
  if isinstance(error, OSError) and error.strerror:
    where = f'{error.filename}: ' if error.filename else ''
    return f'{where}{error.strerror.lower()}'
  return ' '.join(str(error).split())


def _parser() -> argparse.ArgumentParser:
  common = argparse.ArgumentParser(add_help=False)
  common.add_argument(
    '--debug', action='store_true', help='show where an error arose (a traceback)'
  )
  parser = argparse.ArgumentParser(
    prog=f'python -m {PROGRAM}', description='Segment photos by words.'
  )
  parser.add_argument('--version', action='version', version=__version__)
  commands = parser.add_subparsers(required=True, metavar='COMMAND')

  def command(name, run, help_text):
    child = commands.add_parser(
      name, parents=[common], help=help_text, description=help_text
    )
    child.set_defaults(run=run)
    return child

  _predict_flags(command('predict', predict, 'Segment photos by words.'))
  train_flags(command('train', train, 'Train a stage, or a pipeline of stages.'))
  _eval_flags(command('eval', evaluate, 'Evaluate a model on published protocols.'))
  _convert_flags(
    command('convert', convert, 'Turn an official checkpoint into a bundle.')
  )
  _export_flags(command('export', export, 'Write a bundle in another format.'))
  models = command('models', models_list, 'List the models that have a name.')
  models.add_argument('action', choices=['list'])
  _data_flags(command('data', data, 'List, build and check datasets.'))
  return parser


def _predict_flags(p: argparse.ArgumentParser) -> None:
  p.add_argument('photos', nargs='+', metavar='PHOTO', help='file, folder or glob')
  p.add_argument('--model', required=True, help='bundle directory or name')
  p.add_argument(
    '--vocabulary',
    help="words ('cat; sofa, couch; stuff:floor'), a file, or a name (ade20k-150)",
  )
  p.add_argument(
    '--task', default='panoptic', help='panoptic, semantic, instance, or a,b of them'
  )
  p.add_argument('--out', required=True, type=pathlib.Path, help='folder for results')
  p.add_argument('--object_threshold', type=float, help='least score of a segment')
  p.add_argument(
    '--overlap_threshold', type=float, help='least visible share of a segment'
  )
  p.add_argument('--top_k', type=int, help='most instances per photo')
  p.add_argument('--short_edge', type=int, help='resize the short side to this')
  p.add_argument('--long_edge', type=int, help='but the long side at most to this')
  _model_flags(p)


def _eval_flags(p: argparse.ArgumentParser) -> None:
  p.add_argument('--evals', help='protocols, such as ade150,pc59; --list names them')
  p.add_argument('--model', help='bundle directory or name')
  p.add_argument('--predictions', help='judge the predictions in this folder instead')
  p.add_argument('--compare', nargs='+', metavar='RESULTS', help='only show a table')
  p.add_argument(
    '--everything',
    action='store_true',
    help='compare: not only the numbers that are quoted',
  )
  p.add_argument('--list', action='store_true', help='only list the protocols')
  p.add_argument('--out', default='results', help='folder for results (%(default)s)')
  p.add_argument('--data_dir', help='where built datasets lie (~/tensorflow_datasets)')
  p.add_argument('--batch_size', type=int, help='photos a call (one a device)')
  p.add_argument('--limit', type=int, help='only the first so many photos')
  p.add_argument('--tasks', help='some of panoptic,semantic,instance')
  p.add_argument('--flip', action='store_true', help='average with the mirror image')
  p.add_argument('--scales', default='1', help='sizes to average, such as 0.75,1,1.25')
  p.add_argument('--vocabulary', help="other words for the protocol's classes")
  p.add_argument(
    '--save_predictions', action='store_true', help='write PNG and COCO JSON as well'
  )
  p.add_argument(
    '--save_every', type=int, default=50, help='photos between savings (%(default)s)'
  )
  p.add_argument(
    '--diagnose', action='store_true', help='find out what limits the model: a report'
  )
  p.add_argument(
    '--distributed',
    action='store_true',
    help='one of several processes, on a pod or a cluster that jax recognises',
  )
  _model_flags(p)


def _model_flags(p: argparse.ArgumentParser) -> None:
  p.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  p.add_argument(
    '--random_weights',
    type=int,
    metavar='SEED',
    help='build a named model with random weights, to try the path out',
  )
  _cache_flag(p)


def _cache_flag(p: argparse.ArgumentParser) -> None:
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  p.add_argument(
    '--cache_dir',
    type=pathlib.Path,
    default=pathlib.Path(home) / PROGRAM,
    help='keeps text vectors and compiled programs between runs (%(default)s)',
  )
  p.add_argument(
    '--no_cache',
    dest='cache_dir',
    action='store_const',
    const=None,
    help='keep nothing between runs',
  )


def _convert_flags(p: argparse.ArgumentParser) -> None:
  p.add_argument('source', metavar='SOURCE', help='official checkpoint file')
  p.add_argument('--to', required=True, type=pathlib.Path, help='bundle directory')
  p.add_argument('--system', help='clip, mask2former, maskclip or masqclip')
  p.add_argument('--preset', help='a name of `models list`; guessed where possible')
  p.add_argument(
    '--clip', help='CLIP checkpoint, for the text tower that system files leave out'
  )


def _data_flags(p: argparse.ArgumentParser) -> None:
  p.add_argument('action', choices=['list', 'build', 'check'])
  p.add_argument('name', nargs='?', help='a dataset of `data list`')
  p.add_argument('--raw', help='build: folder of the official files or archives')
  p.add_argument('--data_dir', help='where built datasets lie (~/tensorflow_datasets)')
  p.add_argument(
    '--parts', help='build: only these optional parts, separated by commas'
  )
  p.add_argument('--workers', type=int, help='build: how many at once (one per core)')
  p.add_argument(
    '--images',
    type=int,
    default=2000,
    help='check: photos of each split to decode, 0 for all (%(default)s)',
  )
  p.add_argument('--page', help='check: where the report goes')


def _export_flags(p: argparse.ArgumentParser) -> None:
  p.add_argument('--model', required=True, help='bundle directory, or a workdir')
  p.add_argument(
    '--to', required=True, type=pathlib.Path, help='file or directory to write'
  )
  p.add_argument(
    '--format',
    default='official',
    choices=['official', 'bundle'],
    help="'official': the layout of the PyTorch code (.safetensors, or .pth); "
    "'bundle': of a bundle, or of a checkpoint in a workdir",
  )
  p.add_argument(
    '--dtype',
    default='float32',
    choices=['float32', 'float16', 'bfloat16'],
    help='bundle: of the stored arrays; loading widens them again (%(default)s)',
  )
  p.add_argument('--step', help="bundle: which checkpoint, a number or 'best'")


def predict(arguments: argparse.Namespace) -> int:
  """`predict PHOTO... --model M --vocabulary WORDS --task T --out DIR`."""
  from maskclip_jax import photos

  start = time.perf_counter()
  files = photos.find_photos(arguments.photos)
  for file in files:
    if not file.is_file():
      raise FileNotFoundError(f'{file} does not exist: give the path of an image file')
  _check_writable(arguments.out)
  if len(files) == 1:
    photos.read_photo(files[0])  # Fails before the model is loaded.
  compiled = _watch_compilation(arguments.cache_dir)
  segmenter = _segmenter(arguments)
  if arguments.vocabulary is not None:
    for warning in segmenter.vocabulary(arguments.vocabulary).check():
      print(f'{PROGRAM}: note: {warning}', file=sys.stderr)
  failed = _predict_files(segmenter, files, arguments)
  seconds = time.perf_counter() - start
  print(
    f'{len(files) - failed} of {len(files)} photos in {seconds:.1f} s, of which '
    f'{compiled.seconds:.1f} s compiling {compiled.programs} programs'
  )
  return 2 if failed else 0


def _predict_files(segmenter, files, arguments) -> int:
  """Segments and saves; returns how many photos failed."""
  import rich.console
  import rich.progress

  console = rich.console.Console()
  bar = rich.progress.Progress(console=console, disable=len(files) == 1)
  names = ['object_threshold', 'overlap_threshold', 'top_k', 'short_edge', 'long_edge']
  choices = {n: v for n in names if (v := getattr(arguments, n)) is not None}
  failures = []

  def on_error(file, error):
    failures.append(file)
    print(f'{PROGRAM}: {_one_line(error)}', file=sys.stderr)

  stems = _stems(files)
  with bar:
    step = bar.add_task('photos', total=len(files))
    predictions = segmenter.predict(
      files,
      arguments.vocabulary,
      tuple(arguments.task.split(',')),
      on_error=on_error,
      **choices,
    )
    for file, prediction in predictions:
      for written in prediction.save(arguments.out, stems[file]):
        console.print(written, highlight=False, soft_wrap=True)
      if len(files) <= TABLES:
        console.print(prediction.summary())
      bar.update(step, completed=files.index(file) + 1)
  return len(failures)


def _stems(files: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
  """A distinct name for each file's results: its stem, or its full name if shared."""
  count: dict[str, int] = {}
  for file in files:
    count[file.stem] = count.get(file.stem, 0) + 1
  stems = {f: f.stem if count[f.stem] == 1 else f.name for f in files}
  if len(set(stems.values())) < len(files):
    raise ValueError(
      'two photos have the same name: segment them into separate folders'
    )
  return stems


def _segmenter(arguments):
  from maskclip_jax import segmenter as api

  if arguments.random_weights is None:
    return api.load(
      arguments.model, dtype=arguments.dtype, cache_dir=arguments.cache_dir
    )
  print(
    f'{PROGRAM}: {arguments.model} has RANDOM weights (seed '
    f'{arguments.random_weights}): the result means nothing',
    file=sys.stderr,
  )
  return api.Segmenter.from_preset(
    arguments.model, seed=arguments.random_weights, dtype=arguments.dtype
  )


def _check_writable(directory: pathlib.Path) -> None:
  """Fails early, and without creating anything, where results could not be saved."""
  path = directory.absolute()
  while not path.exists():
    path = path.parent
  if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
    raise PermissionError(f'cannot write into {directory}: choose another --out')


class _Compilation:
  """Counts the programs compiled (not those read from the cache) and the seconds."""

  def __init__(self):
    self.programs, self.hits, self.seconds = 0, 0, 0.0

  def on_duration(self, event: str, seconds: float, **_):
    if event == '/jax/core/compile/backend_compile_duration':
      self.programs += 1
      self.seconds += seconds

  def on_event(self, event: str, **_):
    if event == '/jax/compilation_cache/cache_hits':
      self.programs -= 1


def _watch_compilation(cache_dir: pathlib.Path | None) -> _Compilation:
  """Counts compilations, and keeps their results in the cache directory."""
  import jax

  counter = _Compilation()
  jax.monitoring.register_event_duration_secs_listener(counter.on_duration)
  jax.monitoring.register_event_listener(counter.on_event)
  if cache_dir is not None:
    # The defaults keep only programs that took a second or more to compile.
    jax.config.update('jax_compilation_cache_dir', str(cache_dir / 'compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  return counter


def train(arguments: argparse.Namespace) -> int:
  """`train --config FILE:ARG --workdir DIR [--config.field=value ...]`."""
  if arguments.topology is not None:
    # The TPU compiler works here; there is no TPU to look for.
    os.environ |= {
      'JAX_PLATFORMS': 'cpu',
      'TPU_SKIP_MDS_QUERY': '1',
      'TPU_WORKER_HOSTNAMES': 'localhost',
      # Nothing here is held, so other compilers need not wait.
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }
  from maskclip_jax.train import command

  return command.run(arguments, arguments.overrides)


def evaluate(arguments: argparse.Namespace) -> int:
  """`eval --model M --evals P,Q`, `eval --predictions DIR --evals P`,
  `eval --compare A B`, `eval --list`."""
  import jax

  from maskclip_jax.eval import command
  from maskclip_jax.eval.ledger import Subject

  if arguments.list:
    print(command.protocol_table())
    return 0
  if arguments.compare:
    print(command.compare(arguments.compare, everything=arguments.everything))
    return 0
  if arguments.evals is None:
    raise ValueError('which protocols? --evals ade150,pc59; `eval --list` names them')
  names = [field.name for field in dataclasses.fields(command.Request)]
  request = command.Request(**{name: getattr(arguments, name) for name in names})
  if arguments.predictions is not None:
    command.judge_predictions(arguments.predictions, request)
    return 0
  if arguments.model is None:
    raise ValueError('what is to be evaluated? --model M, or --predictions DIR')
  if arguments.distributed:
    jax.distributed.initialize()
  _watch_compilation(arguments.cache_dir)
  segmenter = _segmenter(arguments)
  named = arguments.random_weights is not None
  subject = Subject(
    arguments.model,
    preset=arguments.model if named else None,
    dtype=arguments.dtype,
    seed=arguments.random_weights,
  )
  command.run_evaluations(segmenter, subject, request)
  return 0


def convert(arguments: argparse.Namespace) -> int:
  """`convert SOURCE --to DIR [--system S] [--preset P] [--clip FILE]`."""
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


def export(arguments: argparse.Namespace) -> int:
  """`export --model DIR --format official|bundle --to PLACE`."""
  if arguments.format == 'bundle':
    _export_bundle(arguments)
    return 0
  from maskclip_jax.checkpoints.export_official import export_official

  print(export_official(arguments.model, arguments.to))
  return 0


def _export_bundle(arguments: argparse.Namespace) -> None:
  from maskclip_jax.checkpoints import bundle
  from maskclip_jax.checkpoints.repack import repack

  source = arguments.model
  if arguments.step is not None or not bundle.is_bundle(bundle.locate(source)):
    from maskclip_jax.train.export import export_checkpoint

    print(export_checkpoint(source, arguments.to, arguments.step))
    source = arguments.to
  if source != arguments.to or arguments.dtype != 'float32':
    print(repack(source, arguments.to, arguments.dtype))


def models_list(arguments: argparse.Namespace) -> int:
  """`models list`."""
  import rich.console
  import rich.table

  from maskclip_jax import zoo

  table = rich.table.Table(title='Models', show_lines=True)
  for heading in ('name', 'what it is', 'weights', 'licence of the weights', 'numbers'):
    table.add_column(heading, overflow='fold')
  for name in zoo.list_models():
    card = zoo.CARDS[name]
    table.add_row(name, card.summary, card.weights, card.licence, card.numbers)
  rich.console.Console().print(table)
  return 0


def data(arguments: argparse.Namespace) -> int:
  """`data list`, `data build NAME --raw DIR --data_dir DIR`, `data check NAME`."""
  from maskclip_jax.data import console, sources

  data_dir = arguments.data_dir or sources.DATA_DIR
  if arguments.action == 'list':
    console.show_datasets(data_dir)
    return 0
  if arguments.name is None:
    raise ValueError(
      f'which dataset? `data {arguments.action} NAME`; `data list` names them'
    )
  if arguments.action == 'check':
    report = console.check_with_report(
      arguments.name,
      data_dir,
      photos=arguments.images or None,
      page=arguments.page,
    )
    return 0 if report.ok else 1
  console.build_with_progress(
    arguments.name,
    arguments.raw,
    data_dir,
    parts=arguments.parts.split(',') if arguments.parts else None,
    workers=arguments.workers,
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
