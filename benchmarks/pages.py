"""Tables in documents that a script fills: what lies between two marks."""

import pathlib

END = '<!-- end of the table -->'


def fill(page: pathlib.Path, script: str, text: str) -> None:
  """Puts a table between `<!-- table of SCRIPT -->` and the next end of a table.

  Args:
    page: a Markdown file.
    script: whose table it is.
    text: the table.

  Raises:
    ValueError: the page has no such place.
  """
  start, content = f'<!-- table of {script} -->', page.read_text(encoding='utf-8')
  before, found, rest = content.partition(start)
  _, ended, after = rest.partition(END)
  if not found or not ended:
    raise ValueError(f'{page} has no place for a table: {start} and {END}')
  page.write_text(f'{before}{start}\n\n{text}\n\n{END}{after}', encoding='utf-8')
