"""What a search for words has found, as text for people."""

from collections.abc import Sequence

from maskclip_jax.eval.wording.search import Gain
from maskclip_jax.eval.wording.suggest import Suggestion

# Of a column of words, in letters.
_WIDTH = 44


def report(found: Suggestion) -> str:
  """The templates that were tried, the words that changed, and what all of it gains."""
  metric, classes = found.metric, found.vocabulary.classes
  held = found.photos // 2
  lines = [
    f'{metric} of {found.regions} true regions of {found.photos} photos, named by the '
    f'model: {found.photos - held} photos to choose by, {held} held out',
    '',
  ]
  rows = [('templates', '', f'{metric} gained', 'held out')]
  for tried in found.templates:
    mark = 'taken' if tried.name == found.chosen else ''
    rows.append((tried.name, mark, *_points(tried.gain)))
  if len(rows) > 1:
    lines += [*_table(rows), '']
  rows = [('words now', 'words instead', f'{metric} gained', 'held out')]
  for change in found.changes:
    before, after = (_listed(words) for words in (change.before, change.after))
    rows.append((before, after, *_points(change.gain)))
  if len(rows) > 1:
    lines += [*_table(rows), '']
  lines.append(
    f'{len(found.changes)} of {len(classes)} classes changed; {found.judged} occur in '
    'both halves of the photos, the others stay as they are'
  )
  lines.append(
    f'{metric} of true masks: {_change(found.before.chosen, found.after.chosen)}; held '
    f'out {_change(found.before.held_out, found.after.held_out)}'
  )
  if found.whole is not None:
    name, before, after = found.whole
    lines.append(f"{name} of the model's own masks, held out {_change(before, after)}")
  return '\n'.join(lines)


def _points(gain: Gain) -> tuple[str, str]:
  return f'{gain.chosen:+.2f}', f'{gain.held_out:+.2f}'


def _change(before: float, after: float) -> str:
  return f'{before:.2f} -> {after:.2f}'


def _listed(words: Sequence[str]) -> str:
  """Words with commas, cut where they are many."""
  text = ', '.join(words)
  return text if len(text) <= _WIDTH else f'{text[: _WIDTH - 3]}...'


def _table(rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
  """Two columns of text and two of numbers, under a heading."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    f'{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}'
    for a, b, c, d in rows
  ]
