"""`python -m maskclip_jax predict PHOTO... --model M --vocabulary WORDS --out DIR`."""

import argparse
import collections
import concurrent.futures
import errno
import pathlib
import shlex
import time

from maskclip_jax import atomic
from maskclip_jax.cli.messages import note, one_line
from maskclip_jax.cli.model import (
  add_model_flags,
  load_segmenter,
  model_fingerprint,
  tell_limits,
  told,
  watch_compilation,
)
from maskclip_jax.cli.stopping import obeyed_at_once

NAME, HELP = 'predict', 'Segment photos by words.'
# So few photos get a table of what was found in each.
TABLES = 4
_LARGEST_SCALE = 16
_CHOICES = (
  'object_threshold',
  'overlap_threshold',
  'background_threshold',
  'region_threshold',
  'top_k',
  'short_edge',
  'long_edge',
  'white',
)


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `predict`."""
  parser.add_argument(
    'photos', nargs='+', metavar='PHOTO', help='file, folder or pattern'
  )
  parser.add_argument(
    '--model',
    required=True,
    help='bundle directory, that of a run, or a name of `models list`',
  )
  parser.add_argument(
    '--vocabulary',
    help="words ('cat; sofa, couch; stuff:floor'), a file, or a name (ade20k-150)",
  )
  parser.add_argument(
    '--data_dir',
    help='where built datasets lie: --vocabulary then is the name of one of your own',
  )
  parser.add_argument(
    '--task', default='panoptic', help='panoptic, semantic, instance, or a,b of them'
  )
  parser.add_argument('--out', required=True, type=_folder, help='folder for results')
  parser.add_argument('--object_threshold', type=float, help='least score of a segment')
  parser.add_argument(
    '--overlap_threshold', type=float, help='least visible share of a segment'
  )
  parser.add_argument(
    '--background_threshold',
    type=float,
    help="segclip: least score of a word where a class is called 'background'",
  )
  parser.add_argument(
    '--region_threshold',
    type=float,
    help="semantic: each word's best region alone, cut at this probability; other "
    'pixels have no class',
  )
  parser.add_argument(
    '--scores',
    help='how class scores are combined, where a system does: unseen_weight=0.6, '
    'mask_threshold=0.35, ...',
  )
  parser.add_argument('--top_k', type=int, help='most instances per photo')
  parser.add_argument('--short_edge', type=int, help='resize the short side to this')
  parser.add_argument('--long_edge', type=int, help='but the long side at most to this')
  parser.add_argument(
    '--batch_size',
    type=int,
    default=1,
    help='photos that a GPU or TPU computes together, where their canvas is one '
    '(%(default)s)',
  )
  parser.add_argument(
    '--white', type=float, help='number that is white in photos of more than 8 bits'
  )
  parser.add_argument(
    '--overlay_scale',
    type=int,
    help='1: the overlay has the size of the photo, to lie over it, and no panel; 2: '
    'twice that, ...',
  )
  parser.add_argument(
    '--again',
    action='store_true',
    help='make also results that are there, of the same photo and settings',
  )
  add_model_flags(parser)


def _folder(text: str) -> pathlib.Path:
  if not text:
    raise argparse.ArgumentTypeError('it is empty: name a folder')
  return pathlib.Path(text)


def run(arguments: argparse.Namespace) -> int:
  """Segments the photos; 2 if one of them could not be."""
  with obeyed_at_once():
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
  from maskclip_jax.batches import DeviceClock
  from maskclip_jax.cli.jobs import plan_jobs
  from maskclip_jax.cli.photo_files import find_photos
  from maskclip_jax.photos import heard, read_photo
  from maskclip_jax.plan import parse_tasks

  start = time.perf_counter()
  tasks = parse_tasks(arguments.task)
  if arguments.data_dir is not None:
    arguments.vocabulary = _dataset_words(arguments)
  elif arguments.vocabulary is not None:
    arguments.vocabulary = _known_words(arguments.vocabulary)
  if arguments.overlay_scale not in (None, *range(1, _LARGEST_SCALE + 1)):
    raise ValueError(
      f'--overlay_scale is 1, 2, ..., {_LARGEST_SCALE}, not {arguments.overlay_scale}'
    )
  if arguments.batch_size < 1:
    raise ValueError(f'--batch_size must be 1 or more, not {arguments.batch_size}')
  found = find_photos(arguments.photos)
  photos = found.photos
  for text in [*found.problems, *(f'note: {text}' for text in found.notes)]:
    note(text)
  atomic.check_place(arguments.out / photos[0].path.name)
  if len(photos) == 1:
    # Fails before the model is loaded; what is noted is noted when it is segmented.
    with heard():
      read_photo(photos[0].path, arguments.white)
  compiled = watch_compilation(arguments.cache_dir)
  segmenter = load_segmenter(arguments)
  tell_limits(arguments.model, arguments.quiet)
  if arguments.vocabulary is not None:
    for warning in segmenter.vocabulary(arguments.vocabulary).check():
      note(f'note: {warning}')
  settings = _settings(segmenter, tasks, arguments)
  jobs = plan_jobs(photos, arguments.out, tasks, settings, again=arguments.again)
  clock = DeviceClock()
  failures = _predict(segmenter, jobs, tasks, settings, arguments, clock)
  waited = clock.waited()
  _write_merged(jobs, settings, failures, arguments)
  if not arguments.quiet:
    seconds = time.perf_counter() - start
    print(_summary(jobs, failures, seconds) + f', of which {told(compiled)}')
    if len(jobs) > 1 and waited is not None:
      print(f'the network waited {waited:.0%} of the time for photos and results')
  return 2 if failures or found.problems else 0


def _dataset_words(arguments):
  """The words of the built dataset that --vocabulary names.

  Raises:
    ValueError: there is none of that name.
  """
  from maskclip_jax.data import described
  from maskclip_jax.names import unknown

  name = arguments.vocabulary or ''
  words = described.named_words(name, arguments.data_dir)
  if words is name:
    raise unknown('dataset of your own', name, described.names(arguments.data_dir))
  return words


def _known_words(typed: str):
  """What was typed; if it names a dataset that is built where all are, its words.

  A dataset of that name elsewhere is told: the name would be taken for a class.
  """
  from maskclip_jax.data import described

  words = described.named_words(typed, None)
  if words is typed and (place := described.nearby(typed)):
    note(
      f'note: {typed!r} is a class here; the words of {place / typed} are meant by '
      f'--data_dir {shlex.quote(str(place))}'
    )
  return words


def _summary(jobs, failures, seconds) -> str:
  done = sum(job.done for job in jobs)
  before = f' ({done} of them before; --again makes them anew)' if done else ''
  count = len(jobs) - len(failures)
  return f'{count} of {len(jobs)} photos{before} in {seconds:.1f} s'


def _settings(segmenter, tasks, arguments) -> str:
  """A key of all that decides the results of a photo."""
  from maskclip_jax.results.folder import settings_key

  return settings_key(
    {
      'model': model_fingerprint(arguments),
      'preset': segmenter.preset.to_dict(),
      'dtype': arguments.dtype,
      'words': segmenter.vocabulary(arguments.vocabulary).content_key(),
      'tasks': sorted(tasks),
      'choices': _choices(arguments),
      'overlay_scale': arguments.overlay_scale,
    }
  )


def _choices(arguments) -> dict[str, float]:
  from maskclip_jax.systems.contract import parse_scores

  given = {n: v for n in _CHOICES if (v := getattr(arguments, n)) is not None}
  return given | (parse_scores(arguments.scores) if arguments.scores else {})


def _predict(segmenter, jobs, tasks, settings, arguments, clock) -> dict[str, str]:
  """Segments what is not done, and saves results while the next photo is segmented;
  returns why photos failed, by name."""
  import rich.console
  import rich.progress

  console = rich.console.Console(quiet=arguments.quiet)
  todo = {job.photo.path: job for job in jobs if not job.done}
  hidden = arguments.quiet or len(jobs) == 1
  bar = rich.progress.Progress(console=console, disable=hidden)
  failures: dict[str, str] = {}

  saving = collections.deque()

  def finish_oldest():
    path, prediction, files = saving.popleft()
    try:
      written = files.result()
    except OSError as error:
      if error.errno != errno.ENAMETOOLONG:
        raise
      on_error(path, error)
      return
    for file in written:
      console.print(file, highlight=False, soft_wrap=True)
    if len(jobs) <= TABLES:
      console.print(prediction.summary())
    bar.advance(step)

  def on_error(path, error):
    failures[todo[path].photo.name] = one_line(error)
    note(one_line(error))
    bar.advance(step)

  with concurrent.futures.ThreadPoolExecutor(1) as writer, bar:
    done = len(jobs) - len(todo)
    step = bar.add_task('photos', total=len(jobs), completed=done)
    predictions = segmenter.predict(
      list(todo),
      arguments.vocabulary,
      tasks,
      on_error=on_error,
      batch_size=arguments.batch_size,
      clock=clock,
      **_choices(arguments),
    )
    for path, prediction in predictions:
      job = todo[path]
      files = writer.submit(_save, prediction, job, tasks, settings, arguments)
      saving.append((path, prediction, files))
      if len(saving) > 1:
        finish_oldest()
    while saving:
      finish_oldest()
  return failures


def _save(prediction, job, tasks, settings, arguments) -> list[pathlib.Path]:
  from maskclip_jax.results import folder

  names = folder.result_names(job.stem, tasks)
  info = folder.make_info(
    str(arguments.model), settings, folder.photo_state(job.photo.path), names
  )
  others = folder.other_results(arguments.out, job.stem, names)
  files = prediction.save(
    arguments.out,
    job.stem,
    file_name=job.photo.name,
    image_id=job.image_id,
    info=info,
    overlay_scale=arguments.overlay_scale,
  )
  for path in others:
    path.unlink(missing_ok=True)
  return files


def _write_merged(jobs, settings, failures, arguments) -> None:
  """One JSON file and one page, where a folder has the results of several photos."""
  from maskclip_jax.cli.jobs import listed_entries
  from maskclip_jax.results.folder import write_merged

  found = listed_entries(jobs, arguments.out, settings)
  if len(found) < 2:
    return
  for path in write_merged(arguments.out, found, str(arguments.model), failures):
    if not arguments.quiet:
      print(path)
