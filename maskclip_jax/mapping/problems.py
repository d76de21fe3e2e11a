"""One error for everything that is wrong with a set of tensors."""

from collections import defaultdict

from maskclip_jax.names import cut

# How many names an error spells out per kind of problem.
NAMED = 4
# Names of tensors are shorter, and a file may hold any.
_LONGEST = 240


class Problems(defaultdict):
  """Kind of problem -> names, in the order they were met."""

  def __init__(self):
    super().__init__(list)

  def raise_if_any(self, source: str, hint: str = '') -> None:
    """Raises a ValueError with one line per kind, counts and the first names.

    Args:
      source: what the problems are about, such as a file name.
      hint: a last line that tells what to do.
    """
    lines = []
    for kind, names in self.items():
      if names:
        more = ', ...' if len(names) > NAMED else ''
        first = ', '.join(cut(name, _LONGEST) for name in names[:NAMED])
        lines.append(f'{len(names)} {kind}: {first}{more}')
    if lines:
      raise ValueError('\n  '.join([f'{source}:', *lines, *([hint] if hint else [])]))


def dims(shape: tuple[int, ...]) -> str:
  """A shape as people write it: 16x3x3."""
  return 'x'.join(map(str, shape)) or 'a scalar'
