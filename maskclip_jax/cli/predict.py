"""`python -m maskclip_jax predict PHOTO... --model M --vocabulary WORDS --out DIR`."""

import argparse
import pathlib
import time
from collections.abc import Sequence

from maskclip_jax import atomic
from maskclip_jax.cli.messages import note, one_line
from maskclip_jax.cli.model import add_model_flags, load_segmenter, watch_compilation

NAME, HELP = 'predict', 'Segment photos by words.'
# So few photos get a table of what was found in each.
TABLES = 4
_CHOICES = (
  'object_threshold',
  'overlap_threshold',
  'background_threshold',
  'top_k',
  'short_edge',
  'long_edge',
  'white',
)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `predict`."""
  parser.add_argument('photos', nargs='+', metavar='PHOTO', help='file, folder or glob')
  parser.add_argument('--model', required=True, help='bundle directory or name')
  parser.add_argument(
    '--vocabulary',
    help="words ('cat; sofa, couch; stuff:floor'), a file, or a name (ade20k-150)",
  )
  parser.add_argument(
    '--task', default='panoptic', help='panoptic, semantic, instance, or a,b of them'
  )
  parser.add_argument(
    '--out', required=True, type=pathlib.Path, help='folder for results'
  )
  parser.add_argument('--object_threshold', type=float, help='least score of a segment')
  parser.add_argument(
    '--overlap_threshold', type=float, help='least visible share of a segment'
  )
  parser.add_argument(
    '--background_threshold',
    type=float,
    help="segclip: least score of a word where a class is called 'background'",
  )
  parser.add_argument('--top_k', type=int, help='most instances per photo')
  parser.add_argument('--short_edge', type=int, help='resize the short side to this')
  parser.add_argument('--long_edge', type=int, help='but the long side at most to this')
  parser.add_argument(
    '--white', type=float, help='number that is white in photos of more than 8 bits'
  )
  add_model_flags(parser)


def run(arguments: argparse.Namespace) -> int:
  """Segments the photos; 2 if one of them could not be read."""
  from maskclip_jax import photos

  start = time.perf_counter()
  files = photos.find_photos(arguments.photos)
  for file in files:
    if not file.is_file():
      raise FileNotFoundError(f'{file} does not exist: give the path of an image file')
  atomic.check_place(arguments.out / files[0].name)
  if len(files) == 1:
    photos.read_photo(files[0], arguments.white)  # Fails before the model is loaded.
  compiled = watch_compilation(arguments.cache_dir)
  segmenter = load_segmenter(arguments)
  if arguments.vocabulary is not None:
    for warning in segmenter.vocabulary(arguments.vocabulary).check():
      note(f'note: {warning}')
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
  choices = {n: v for n in _CHOICES if (v := getattr(arguments, n)) is not None}
  failures = []

  def on_error(file, error):
    failures.append(file)
    note(one_line(error))

  stems = _stems(files)
  with bar:
    step = bar.add_task('photos', total=len(files))
    predictions = segmenter.predict(
      files,
      arguments.vocabulary,
      arguments.task,
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
