"""The command line: `python -m maskclip_jax predict|train|eval|convert|export|...`.

Errors in what the user gave are one line on stderr and exit status 2; `--debug` shows
where they arose.
"""

import argparse
import io
import os
import select
import sys
import warnings
from collections.abc import Sequence

from maskclip_jax._version import __version__
from maskclip_jax.cli import (
  convert,
  data,
  export,
  mine,
  models,
  predict,
  serve,
  train,
  words,
)
from maskclip_jax.cli import eval as evaluate
from maskclip_jax.cli.messages import PROGRAM, note, one_line, show_warning
from maskclip_jax.cli.stopping import Stopped
from maskclip_jax.train.config_files import is_override

COMMANDS = (
  *(predict, serve, train, evaluate, convert, export),
  *(models, data, words, mine),
)


# What the shell says of a program whose reader is gone: 128 + SIGPIPE.
_UNREAD = 141


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit status."""
  for stream in (sys.stdout, sys.stderr):
    # Names of classes and files may have letters that a terminal lacks.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')
  try:
    try:
      return _run(argv)
    finally:
      if sys.stdout is not None:
        sys.stdout.flush()
  except BrokenPipeError as error:
    if not _unread(error):
      raise
    # Python would complain of what is left when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _UNREAD


def _unread(error: Exception) -> bool:
  """Whether it says that the program that reads what is printed has ended, as in
  `... | head`, which is no error."""
  if not isinstance(error, BrokenPipeError):
    return False
  reader = select.poll()
  reader.register(sys.stdout, 0)
  return bool(reader.poll(0))


def _run(argv: Sequence[str] | None) -> int:
  parser = _parser()
  arguments, overrides = parser.parse_known_args(argv)
  trains = arguments.run is train.run
  if unknown := [o for o in overrides if not (trains and is_override(o))]:
    parser.error(f'unrecognized arguments: {" ".join(unknown)}')
  arguments.overrides = overrides
  try:
    with warnings.catch_warnings():
      warnings.showwarning = show_warning
      return arguments.run(arguments)
  except KeyboardInterrupt as stop:
    note('interrupted')
    return stop.status if isinstance(stop, Stopped) else 130
  except (ValueError, OSError, ImportError) as error:
    if arguments.debug or _unread(error):
      raise
    note(one_line(error))
    return 2


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
  for command in COMMANDS:
    child = commands.add_parser(
      command.NAME, parents=[common], help=command.HELP, description=command.HELP
    )
    command.add_flags(child)
    child.set_defaults(run=command.run)
  return parser


if __name__ == '__main__':
  sys.exit(main())
