"""A page over a folder of results: every photo with what was found in it."""

import collections
import dataclasses
import html
import urllib.parse
from collections.abc import Mapping, Sequence

# By this a page of ours is known.
MARK = '<meta name="generator" content="maskclip_jax">'
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em }
main { display: grid; gap: 1.5em; grid-template-columns: repeat(auto-fill, 20em) }
figure { margin: 0; overflow-wrap: anywhere }
img { max-width: 100% }
.failed { color: #a00 }
"""


@dataclasses.dataclass(frozen=True)
class PageRow:
  """One photo.

  Attributes:
    name: the name of the photo.
    picture: its overlay, relative to the page.
    data: its JSON, relative to the page.
    found: the class of everything that was found.
  """

  name: str
  picture: str
  data: str
  found: tuple[str, ...]


def index_page(rows: Sequence[PageRow], failures: Mapping[str, str]) -> str:
  """The page.

  Args:
    rows: photos with results.
    failures: by name of the photo, why it has none.
  """
  failed = ''.join(
    f'<p class="failed">{html.escape(name)}: {html.escape(reason)}</p>\n'
    for name, reason in failures.items()
  )
  figures = ''.join(map(_figure, rows))
  return (
    f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n{MARK}\n'
    f'<title>{len(rows)} photos</title>\n<style>{_STYLE}</style>\n'
    f'<h1>{len(rows)} photos</h1>\n{failed}<main>\n{figures}</main>\n</html>\n'
  )


def _figure(row: PageRow) -> str:
  picture, data = (urllib.parse.quote(path) for path in (row.picture, row.data))
  name = html.escape(row.name)
  found = ', '.join(
    html.escape(label if count == 1 else f'{count} {label}')
    for label, count in collections.Counter(row.found).most_common()
  )
  return (
    f'<figure><a href="{picture}"><img loading="lazy" src="{picture}" alt="{name}"></a>'
    f'<figcaption><a href="{data}">{name}</a>: {found or "nothing found"}'
    '</figcaption></figure>\n'
  )
