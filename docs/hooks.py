"""What the site needs beyond Markdown, which GitHub shows as it is.

`<!-- README: Models -->` becomes that section of the README; a `<picture>` for light
and dark pages follows the site's own switch; a link out of `docs/` becomes the name of
the file, or a link to the repository if `repo_url` is set; a citation such as
`[masqclip 4.3]` becomes a link to the section.
"""

import functools
import pathlib
import posixpath
import re

from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ('masqclip', 'ovseg', 'segclip', 'fcclip')
_INCLUDE = re.compile(r'^<!-- README: (.+) -->$', re.MULTILINE)
_PICTURE = re.compile(
  r'<picture>\s*<source [^>]*srcset="([^"]*)">\s*'
  r'<img src="([^"]*)"[^>]*alt="([^"]*)">\s*</picture>'
)
_LINK = re.compile(r'(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)\s]*)\)')
_CITATION = re.compile(rf'\[({"|".join(PAGES)})\s([^\[\]<>]*)\]')
_PAGE = re.compile(r'href="([\w/]+\.md)"')
_CODE = re.compile(r'(<(?:pre|code)\b.*?</(?:pre|code)>)', re.DOTALL)
_HEADING = re.compile(r'^#{2,3} (((?:\d+|[A-Z])(?:\.\d+)?)\.? \S.*)$', re.MULTILINE)


def on_page_markdown(
  markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
  """Takes in sections of the README, and turns links that leave the site."""
  folder = posixpath.dirname(page.file.src_uri)
  markdown = _INCLUDE.sub(lambda match: _readme(match[1], folder), markdown)
  markdown = _PICTURE.sub(r'![\3](\2#only-light)\n![\3](\1#only-dark)', markdown)

  def turned(match: re.Match) -> str:
    target = posixpath.normpath(posixpath.join('docs', folder, match[2]))
    if target.startswith('docs/'):
      return match[0]
    if config.repo_url:
      return f'[{match[1]}]({config.repo_url}/blob/main/{target})'
    path = target.partition('#')[0]
    return f'`{path}`' if match[1].strip('`') == path else f'{match[1]} (`{path}`)'

  return _LINK.sub(turned, markdown)


def on_page_content(
  html: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
  """Links citations of the specifications, but for those in code, and pages."""

  def linked(match: re.Match) -> str:
    url = files.get_file_from_path(f'spec/{match[1]}.md').url
    relative = get_relative_url(url, page.url)
    sections = [number.strip() for number in match[2].split(',')]
    anchors = [anchors_of(match[1]).get(number) for number in sections]
    if None in anchors:
      return match[0]
    links = [
      f'<a href="{relative}#{anchor}">{number}</a>'
      for anchor, number in zip(anchors, sections, strict=True)
    ]
    return f'[{match[1]} {", ".join(links)}]'

  def page_link(match: re.Match) -> str:
    file = files.get_file_from_path(match[1])
    return (
      match[0] if file is None else f'href="{get_relative_url(file.url, page.url)}"'
    )

  if page.file.src_uri.endswith('.ipynb'):
    # The notebook's plugin leaves links to other pages as they are.
    html = _PAGE.sub(page_link, html)
  parts = _CODE.split(html)
  parts[::2] = [_CITATION.sub(linked, part) for part in parts[::2]]
  return ''.join(parts)


@functools.cache
def anchors_of(name: str) -> dict[str, str]:
  """The anchors of a specification's sections, by number."""
  text = (ROOT / 'docs' / 'spec' / f'{name}.md').read_text(encoding='utf-8')
  text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  return {
    match[2]: slugify(match[1].replace('`', ''), '-')
    for match in _HEADING.finditer(text)
  }


def _readme(section: str, folder: str) -> str:
  """The text of a section of the README, as it reads in a folder of docs/."""
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  body = text.partition(f'\n## {section}\n')[2].partition('\n## ')[0].strip()
  if not body:
    raise ValueError(f'README.md has no section {section!r}')
  up = posixpath.relpath('.', folder or '.')

  def moved(match: re.Match) -> str:
    target = posixpath.normpath(posixpath.join(up, match[1]))
    return f']({target})'

  return re.sub(r'\]\(docs/([^)]*)\)', moved, body)
