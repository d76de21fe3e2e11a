"""Vocabulary files as people have them, by their ending: JSON, YAML, tables, and lists.

A table is `.csv` or `.tsv`, with a heading or without; any other file is a list with
one class a line. `.yaml` holds `names`, as object detectors have them.
"""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from maskclip_jax import plain
from maskclip_jax.names import shown
from maskclip_jax.text import syntax
from maskclip_jax.text.category import Category

# Endings by which a text names a file, whether there is one or not.
ENDINGS = ('.json', '.txt', '.csv', '.tsv', '.yaml', '.yml', '.names', '.lst', '.list')

_DELIMITERS = {'.csv': ',', '.tsv': '\t'}
# Headings of the columns of a table.
_NAME_COLUMNS = ('name', 'class', 'class_name', 'label', 'category', 'display_name')
_ID_COLUMNS = ('id', 'class_id', 'category_id', 'index', 'label_id', 'number')
_COLOUR_COLUMNS = (('r', 'g', 'b'), ('red', 'green', 'blue'))


def read(path: pathlib.Path) -> Any:
  """What a file says: classes, or the data of its JSON or YAML.

  Raises:
    OSError: it cannot be read.
    ValueError: it is not what its ending says, or makes no classes.
  """
  text = decode_text(path.read_bytes())
  ending = path.suffix.lower()
  if ending == '.json':
    return plain.parse_json(text, 'the file')
  if ending in ('.yaml', '.yml'):
    return _from_yaml(text)
  if ending in _DELIMITERS:
    return _from_table(text, _DELIMITERS[ending])
  return syntax.from_text(text)


def decode_text(content: bytes) -> str:
  """Text in UTF-8, or in UTF-16 with a byte order mark, as Windows writes it.

  Raises:
    ValueError: it is neither.
  """
  utf16 = content.startswith((b'\xff\xfe', b'\xfe\xff'))
  try:
    text = content.decode('utf-16' if utf16 else 'utf-8-sig')
  except UnicodeDecodeError:
    text = '\0'
  if '\0' in text:
    raise ValueError('not a text in UTF-8: save it as one')
  return text


def _from_yaml(text: str) -> Any:
  try:
    data = yaml.safe_load(text)
  except (yaml.YAMLError, RecursionError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise ValueError(f'not valid YAML: {reason}') from None
  # Detectors write the paths of their data beside the names.
  names = data.get('names') if isinstance(data, dict) else data
  if not isinstance(names, list | dict):
    raise ValueError("the YAML must hold a list of classes, or one under 'names'")
  return names


def _from_table(text: str, delimiter: str) -> tuple[Category, ...]:
  """Classes of a table: a column of names, and perhaps one of numbers."""
  lines = [line for line in text.splitlines() if line.strip()]
  if delimiter == ',' and lines:
    delimiter = _delimiter(lines)
  try:
    rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
  except csv.Error as error:
    raise ValueError(f'not a table: {error}') from None
  rows = [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]
  if not rows:
    return ()
  heading = _heading(rows[0])
  name, number = (
    next((heading.index(column) for column in columns if column in heading), None)
    for columns in (_NAME_COLUMNS, _ID_COLUMNS)
  )
  if name is None:
    if len(set(map(len, rows))) > 1:
      raise ValueError('the rows of the table differ in length, and it has no heading')
    name, number = _columns(rows)
  else:
    rows = rows[1:]
  if any(len(row) <= max(name, number or 0) for row in rows):
    raise ValueError('the rows of the table differ in length')
  numbers = None if number is None else [row[number] for row in rows]
  classes = syntax.numbered([row[name] for row in rows], numbers)
  return _coloured(classes, heading, rows)


def _coloured(
  classes: tuple[Category, ...], heading: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Category, ...]:
  """The classes of a table with the colours of its columns r, g and b, if it has them.

  Raises:
    ValueError: one of them is not a number from 0 to 255.
  """
  for columns in _COLOUR_COLUMNS:
    if set(columns) <= set(heading):
      places = [heading.index(column) for column in columns]
      colours = [tuple(_byte(row, place) for place in places) for row in rows]
      return tuple(
        dataclasses.replace(category, color=colour)
        for category, colour in zip(classes, colours, strict=True)
      )
  return classes


def _byte(row: Sequence[str], place: int) -> int:
  text = row[place] if place < len(row) else ''
  if not text.isdecimal() or int(text) > 255:
    raise ValueError(f'a colour of the table is {shown(text)}: give 0 to 255')
  return int(text)


def _heading(cells: Sequence[str]) -> list[str]:
  """Headings in the spelling of the lists above."""
  return [cell.strip(' "').lower().replace(' ', '_') for cell in cells]


def _delimiter(lines: Sequence[str]) -> str:
  """What separates the columns of a .csv: what its heading says, or all lines have.

  Spreadsheets write a semicolon where the comma is in numbers.
  """
  others = (';', '\t', '|')
  for delimiter in (',', *others):
    cells = _heading(lines[0].split(delimiter))
    if len(cells) > 1 and not set(cells).isdisjoint(_NAME_COLUMNS):
      return delimiter
  for delimiter in others:
    counts = {line.count(delimiter) for line in lines}
    if len(counts) == 1 and counts != {0}:
      return delimiter
  return ','


def _columns(rows: list[list[str]]) -> tuple[int, int | None]:
  """Which column has the names and which the numbers, without a heading."""
  width = len(rows[0])
  numbers = [
    column
    for column in range(width)
    if all(len(row) > column and row[column].isdecimal() for row in rows)
  ]
  names = [column for column in range(width) if column not in numbers]
  if len(names) != 1 or len(numbers) > 1:
    raise ValueError(
      f'a table of {width} columns without a heading: write one with '
      f"'{_NAME_COLUMNS[0]}' and, for numbers, '{_ID_COLUMNS[0]}'; or call the file "
      '.txt, where commas separate the words of a class'
    )
  return names[0], numbers[0] if numbers else None
