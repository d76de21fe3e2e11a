"""The data commands on a terminal: a table, a progress bar, a verdict.

Apart from `data.py`, whose flags must not wait for these imports. Each function returns
what it showed.
"""

import contextlib
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeRemainingColumn,
)
from rich.table import Table

from maskclip_jax.data import described
from maskclip_jax.data.build import BuildError, Built, build
from maskclip_jax.data.catalogue import DATASETS
from maskclip_jax.data.doctor import CheckReport, check
from maskclip_jax.data.registry import DatasetCard, list_datasets
from maskclip_jax.data.views import view_names
from maskclip_jax.places import DATA_DIR, dataset_path

_COLOURS = {'problem': 'red', 'warning': 'yellow', 'note': 'dim'}


def show_datasets(
  data_dir: str | os.PathLike | None = None, console: Console | None = None
) -> tuple[DatasetCard, ...]:
  """Prints where each dataset comes from, its terms, and whether it is built.

  Args:
    data_dir: where built datasets are looked for; TFDS's own place by default.
    console: where to print.
  """
  console = console or Console()
  for card in list_datasets():
    _show_card(card, data_dir, console)
  for name in described.names(data_dir):
    console.print(f'[bold]{name}[/]  your own', highlight=False)
    for head, text in _own_lines(name, data_dir):
      console.print(f'  {head:9} {escape(text)}', highlight=False, soft_wrap=True)
  console.print('[bold]Prepared by TFDS itself[/] (read as they are)')
  for name, prepared in DATASETS.items():
    views = ', '.join(view_names(name))
    console.print(f'  {prepared.folder}: views {views}', highlight=False)
    for lack in prepared.lacks:
      console.print(f'    lacks {escape(lack)}', highlight=False, soft_wrap=True)
  return list_datasets()


def _own_lines(name: str, data_dir: str | os.PathLike | None) -> list[tuple[str, str]]:
  """What is told of a dataset of one's own; of a damaged one, what is wrong."""
  try:
    splits = described.find(name, data_dir).contents.splits
    views = ', '.join(view_names(name, data_dir))
  except ValueError as error:
    return [('damaged', f'{error}: correct it, or delete the folder and build again')]
  sizes = ', '.join(f'{split} {count:,}' for split, count in splits.items())
  return [('photos', sizes), ('views', views)]


def _show_card(
  card: DatasetCard, data_dir: str | os.PathLike | None, console: Console
) -> None:
  path = dataset_path(card.name, data_dir)
  state = (
    f'built in {path}' if path.is_dir() else f'not built in {data_dir or DATA_DIR}'
  )
  sizes = ', '.join(f'{split} {n.images:,}' for split, n in card.counts.items())
  console.print(f'[bold]{card.name}[/]  {escape(card.title)}', highlight=False)
  for head, text in (
    ('photos', sizes),
    ('views', ', '.join(view_names(card.name))),
    ('homepage', card.homepage),
    ('licence', card.licence),
    ('notes', card.notes),
    ('state', state),
  ):
    if text:
      console.print(f'  {head:9} {escape(text)}', highlight=False, soft_wrap=True)
  for download in card.downloads:
    details = [
      f'{download.size:,} MB' if download.size else '',
      'optional' if download.optional else '',
    ]
    details = ', '.join(filter(None, details))
    line = f'  {download.file} ({details}): ' if details else f'  {download.file}: '
    line += download.what
    console.print(escape(line), highlight=False, soft_wrap=True)
    console.print(f'    {escape(download.url)}', highlight=False, soft_wrap=True)
    if download.by_hand:
      console.print(f'    [yellow]by hand:[/] {escape(download.by_hand)}')
  console.print()


def build_with_progress(
  name: str,
  raw: str | os.PathLike | None,
  data_dir: str | os.PathLike,
  *,
  console: Console | None = None,
  **options: Any,
) -> Built:
  """Builds a dataset under a progress bar and prints what it holds.

  Args:
    name, raw, data_dir: as of `build`.
    console: where to print.
    **options: others of `build`.

  Raises:
    As `build`; BuildError also when it is stopped by Ctrl-C.
  """
  console = console or Console()
  own = options.get('own')
  where = raw if own is None else own.images
  if where is not None:
    console.print(
      f'reading the lists and annotations of {name} in {where}', soft_wrap=True
    )
  try:
    with progress_bars(console) as progress:
      result = build(name, raw, data_dir, progress=progress, **options)
  except KeyboardInterrupt:
    raise BuildError(
      'stopped; what was built is kept, run the same command again to go on'
    ) from None
  counts = ', '.join(f'{split} {n:,}' for split, n in result.examples.items())
  verb = 'was built before' if result.existed else 'built'
  console.print(
    f'{name} {verb}: {counts} in {escape(str(result.path))}', soft_wrap=True
  )
  # To be copied into a shell.
  place = escape(shlex.quote(os.path.expanduser(data_dir)))
  if result.resumed:
    console.print(f'{result.resumed:,} photos were there from an earlier run')
  for part in result.left_out:
    console.print(f'[yellow]left out:[/] {part}, its file is not there or not wanted')
  if result.refused:
    console.print(f'[yellow]left out:[/] {result.refused:,} pairs that cannot be used')
  if options.get('read_as') == 'captions':
    console.print(f'train on it: the view {name}/captions', soft_wrap=True)
    return result
  for note in result.notes:
    console.print(f'[yellow]note:[/] {escape(note)}', highlight=False, soft_wrap=True)
  if own is not None:
    views = view_names(name, data_dir)
    fields = described.find(name, data_dir).contents.views
    first, more = views[: len(fields)], views[len(fields) :]
    groups = f'; of groups of classes {more[0]}, ...' if more else ''
    console.print(f'train on it: {", ".join(first)}{groups}', soft_wrap=True)
    console.print(f'evaluate on it: --evals {name} --data_dir {place}', soft_wrap=True)
    words = escape(str(result.path / described.FILE))
    console.print(f'its words, to edit: {words}', soft_wrap=True)
  console.print(
    f'check it: python -m maskclip_jax data check {name} --data_dir {place}',
    soft_wrap=True,
  )
  return result


def check_with_report(
  name: str,
  data_dir: str | os.PathLike,
  *,
  images: int | None = 2000,
  page: str | os.PathLike | None = None,
  console: Console | None = None,
) -> CheckReport:
  """Checks a dataset, prints the findings and writes the page.

  Args:
    name: which dataset.
    data_dir: where it was built.
    images: how many photos of each split to decode; None for all.
    page: where the page goes; `<data_dir>/<name>/check.html` by default.
    console: where to print.

  Raises:
    As `check`.
  """
  console = console or Console()
  if not dataset_path(name, data_dir).is_dir():
    _check_name(name, data_dir)
  with progress_bars(console) as progress:
    report = check(name, data_dir, images=images, progress=progress)
  _show_report(report, console)
  default = dataset_path(name, data_dir).parent / 'check.html'
  written = report.write_html(pathlib.Path(page or default))
  console.print(f'pictures and details: {written}', soft_wrap=True)
  return report


def _check_name(name: str, data_dir: str | os.PathLike) -> None:
  """Fails for a name that there is not, and passes one that is only not built.

  Raises:
    ValueError: there is none of that name.
  """
  cards = [card.name for card in list_datasets()]
  if name not in cards:
    raise described.unknown_name('dataset', name, cards, data_dir)


def _show_report(report: CheckReport, console: Console) -> None:
  table = Table('split', 'photos', 'decoded', 'segments', 'objects', 'captions')
  for split, numbers in report.sizes:
    table.add_row(split, *(f'{number:,}' for number in numbers))
  console.print(table)
  for group in report.groups:
    colour = _COLOURS[group.severity]
    line = f'[{colour}]{group.severity}[/] {escape(group.line())}'
    console.print(line, highlight=False, soft_wrap=True)
    if group.severity != 'note':
      fix = escape(report.remedy(group))
      console.print(f'  what to do: {fix}', highlight=False, soft_wrap=True)
  verdict = '[green]no problem found[/]' if report.ok else '[red]problems found[/]'
  console.print(f'{report.dataset}: {verdict}')


@contextlib.contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
  """A bar per split; nothing before the first of them."""
  columns = (
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
  )
  progress, tasks = Progress(*columns, console=console), {}

  def advance(split: str, done: int, total: int) -> None:
    if not tasks:
      progress.start()
    if split not in tasks:
      tasks[split] = progress.add_task(split, total=total)
    progress.update(tasks[split], completed=done)

  try:
    yield advance
  finally:
    if tasks:
      progress.stop()
