"""What every command prints on stderr: one line for a note, one for an error."""

import sys

from maskclip_jax.names import cut

PROGRAM = 'maskclip_jax'
# Longer ones are no paths, but text that was taken for one.
_LONGEST_PATH = 1000


def note(text: str) -> None:
  """Prints a line that does not end the command."""
  print(f'{PROGRAM}: {text}', file=sys.stderr)


def show_warning(message: Warning, *where) -> None:
  """Prints a warning as a note, in place of Python's form with file and code."""
  note(f'note: {" ".join(str(message).split())}')


def one_line(error: Exception) -> str:
  """The text of an error in one line; for errors of the system, with the path."""
  if isinstance(error, OSError) and error.strerror:
    where = f'{cut(str(error.filename), _LONGEST_PATH)}: ' if error.filename else ''
    return f'{where}{error.strerror.lower()}'
  return ' '.join(str(error).split())
