"""Evaluations side by side, and beside the papers' numbers."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table
import rich.text

from maskclip_jax.eval.published import Published, published

_UNKNOWN_RULE = '*'
# How the name of an evaluation ends that is not of all photos.
_SHARE = re.compile(r'\+\d+ of \d+$')
_FOOTNOTE = (
  '* the paper does not say which rule its mean IoU follows (see mIoU_gt, '
  'mIoU_gt_or_pred).'
)


def comparison(
  entries: Sequence[Mapping[str, Any]],
  *,
  everything: bool = False,
  width: int | None = None,
) -> str:
  """A table of evaluations: a row per number, a column per model, and the papers'.

  Args:
    entries: the ledger's entries; the last one of a model and a protocol counts.
    everything: all numbers, not only those that the literature quotes.
    width: the text's width in letters; as wide as it needs by default.

  Returns:
    The table, and what a reader must know about it, as text.

  Raises:
    ValueError: no entries.
  """
  if not entries:
    raise ValueError('there is nothing to compare: name evaluations')
  models, rows = _grid(entries, everything)
  table = rich.table.Table(title='Evaluations, in percent', title_justify='left')
  # What people search for and copy: other columns give way first.
  table.add_column('number', overflow='fold', no_wrap=True)
  for model in models:
    heading = rich.text.Text(model)
    table.add_column(heading, justify='right', overflow='fold')
  table.add_column('published', overflow='fold')
  notes = _notes(entries)
  for metric, found in rows.items():
    papers = published(metric)
    if any(_unknown_rule(p, metric) for p in papers) and _FOOTNOTE not in notes:
      notes.append(_FOOTNOTE)
    cells = [_cell(found.get(model)) for model in models]
    # Names are shown as they are: 'AP50[base]' looks like markup.
    table.add_row(rich.text.Text(metric), *cells, _papers(papers, metric))
  console = rich.console.Console(file=io.StringIO(), width=width or 200)
  console.print(table)
  return '\n'.join([console.file.getvalue().rstrip(), *notes])


def _grid(entries, everything):
  """Names of the models, and by metric the number of each."""
  models: list[str] = []
  rows: dict[str, dict[str, float | None]] = {}
  for one in entries:
    model = one['model']['name']
    if model not in models:
      models.append(model)
    wanted = one['numbers'] if everything else one['headline']
    for metric in wanted:
      if metric in one['numbers']:
        rows.setdefault(metric, {})[model] = one['numbers'][metric]
  return models, rows


def _cell(value: float | None) -> str:
  return '-' if value is None else f'{value:.2f}'


def _papers(papers: Sequence[Published], metric: str) -> str:
  return '\n'.join(
    f'{p.value:.1f}{_UNKNOWN_RULE if _unknown_rule(p, metric) else ""} {p.method}'
    for p in papers
  )


def _unknown_rule(paper: Published, metric: str) -> bool:
  return paper.metric != metric


def _notes(entries) -> list[str]:
  """What makes the numbers of one protocol differ besides the model."""
  notes = []
  by_name: dict[str, list] = {}
  for one in entries:
    by_name.setdefault(one['evaluation'], []).append(one)
  for name, group in by_name.items():
    for what in ('preprocessing', 'postprocessing', 'data', 'words'):
      values = {str(one['settings'].get(what)) for one in group}
      if len(values) > 1:
        notes.append(f'Note: the evaluations of {name} differ in their {what}.')
  for one in entries:
    data = one['settings'].get('data') or {}
    published = data.get('published_photos')
    photos = one['examples'] if data.get('photos') is None else data['photos']
    # Entries of version 0.1.0 have the name of the whole protocol.
    if _SHARE.search(one['evaluation']) or (published and photos < published):
      name = f'{one["evaluation"]} of {one["model"]["name"]}'
      whole = f' of {published:,}' if published else ''
      notes.append(
        f'Note: {name} is over {one["examples"]:,}{whole} photos: it does not compare '
        'with published numbers.'
      )
  seeds = [one['model']['name'] for one in entries if one['model']['seed'] is not None]
  if seeds:
    names = ', '.join(dict.fromkeys(seeds))
    notes.append(f'Note: {names} has random weights: its numbers mean nothing.')
  return notes
