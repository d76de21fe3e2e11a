"""`python -m maskclip_jax serve --model M`: a page and an interface for one model."""

import argparse
import dataclasses
import pathlib

from maskclip_jax.cli.messages import note
from maskclip_jax.cli.model import (
  add_model_flags,
  load_segmenter,
  told,
  watch_compilation,
)
from maskclip_jax.cli.stopping import obeyed_at_once

NAME, HELP = 'serve', 'Serve a model: a page for people, an interface for programs.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `serve`."""
  parser.add_argument(
    '--model',
    required=True,
    help='bundle directory, that of a run, or a name of `models list`',
  )
  parser.add_argument('--name', help="what clients see as the model's name")
  parser.add_argument(
    '--host',
    default='127.0.0.1',
    help='address to listen at (%(default)s: this machine alone; 0.0.0.0: everybody)',
  )
  parser.add_argument('--port', type=int, default=8000, help='(%(default)s)')
  parser.add_argument(
    '--words',
    nargs='+',
    default=[],
    metavar='WORDS',
    help="vocabularies to prepare at the start: names, files or words ('cat,dog'); the "
    'page begins with the first',
  )
  parser.add_argument(
    '--canvas',
    nargs='+',
    default=[],
    metavar='HxW',
    help='sizes to compile for, in place of those that hold every photo',
  )
  for name, kind, text in (
    ('batch', int, 'most photos that are computed together (4; on CPUs 1)'),
    ('queue', int, 'most photos in work; further ones are refused (64)'),
    ('max_mb', float, 'most megabytes of a request (32)'),
    ('max_megapixels', float, 'most megapixels of a photo (50)'),
    ('max_files', int, 'most photos of a request (16)'),
    ('max_words', int, 'most words of a vocabulary (1000, or as many as --words has)'),
    ('timeout', float, 'seconds until a request is given up (60)'),
    ('kept', int, 'photos whose network outputs are kept for other thresholds (8)'),
  ):
    parser.add_argument(f'--{name}', type=kind, help=text)
  add_model_flags(parser)


def run(arguments: argparse.Namespace) -> int:
  """Serves until it is told to stop."""
  try:
    from maskclip_jax.deploy.server import create_app, running
  except ModuleNotFoundError as error:
    raise ImportError(
      f"serving needs {error.name}: pip install 'maskclip_jax[serve]'"
    ) from None
  import jax

  with obeyed_at_once():
    settings = _settings(arguments)
    bound = running.bind(arguments.host, arguments.port)
    compiled = watch_compilation(arguments.cache_dir)
    if arguments.batch is None and jax.default_backend() == 'cpu':
      # There a batch takes as long as its photos one by one.
      settings = dataclasses.replace(settings, batch=1)
    loaded = load_segmenter(arguments)
    app = create_app(
      # Without the cache on disk: clients' words are nobody else's business.
      loaded.uncached(),
      arguments.name or pathlib.Path(arguments.model).resolve().name,
      settings,
      words=arguments.words,
      compiled=compiled,
      on_ready=lambda: arguments.quiet or note(f'ready: {told(compiled)}'),
    )
  if not arguments.quiet:
    host, port = bound.getsockname()[:2]
    host = f'[{host}]' if ':' in host else host
    note(f'http://{host}:{port} (Ctrl-C stops it); compiling')
  running.run(app, bound)
  return 0


def _settings(arguments: argparse.Namespace):
  """The limits that the flags name; the rest are those of `Settings`."""
  from maskclip_jax.deploy.canvases import parse_canvas
  from maskclip_jax.deploy.server import Settings

  given = {
    'canvases': tuple(map(parse_canvas, arguments.canvas)),
    'batch': arguments.batch,
    'queue': arguments.queue,
    'max_bytes': _millions('max_mb', arguments.max_mb),
    'max_pixels': _millions('max_megapixels', arguments.max_megapixels),
    'max_files': arguments.max_files,
    'max_words': arguments.max_words,
    'timeout': arguments.timeout,
    'kept': arguments.kept,
  }
  return Settings(**{name: value for name, value in given.items() if value is not None})


def _millions(flag: str, number: float | None) -> int | None:
  """A flag's number of millions, as ones."""
  if number is None:
    return None
  if not 0 < number < float('inf'):
    raise ValueError(f'--{flag} must be a number above 0, not {number}')
  return int(number * 1e6)
