"""The documentation site: built without a warning, and whole without a network."""

import html.parser
import os
import pathlib
import subprocess
import sys
import urllib.parse

import pytest

pytest.importorskip('mkdocs', reason="needs pip install '.[docs]'")
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> pathlib.Path:
  """The site, built with warnings as errors."""
  out = tmp_path_factory.mktemp('site')
  # Nothing listens there: whatever is fetched fails.
  nowhere = dict.fromkeys(('http_proxy', 'https_proxy'), 'http://127.0.0.1:9')
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', out],
    cwd=ROOT,
    env=os.environ | nowhere | {'NO_MKDOCS_2_WARNING': '1'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'WARNING' not in done.stderr
  return out


class Page(html.parser.HTMLParser):
  """The anchors, links and loaded files of a page.

  Attributes:
    ids: of its elements.
    links: targets of its links.
    loaded: what a browser fetches to show it.
  """

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.ids, self.links, self.loaded = set(), [], []
    self.feed(path.read_text())

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.ids |= {attributes[k] for k in ('id', 'name') if attributes.get(k)}
    if tag == 'a' and attributes.get('href'):
      self.links.append(attributes['href'])
    rel = attributes.get('rel') or ''
    if tag == 'link' and ('stylesheet' in rel or 'icon' in rel):
      self.loaded.append(attributes['href'])
    if tag in ('script', 'img', 'iframe') and attributes.get('src'):
      self.loaded.append(attributes['src'])


def test_links_of_the_site_lead_somewhere(site):
  """Also those that the site makes itself: citations, cross references."""
  pages = {path.resolve(): Page(path) for path in site.rglob('*.html')}
  wrong = []
  for path, page in pages.items():
    if path.name == '404.html':
      continue
    for link in page.links:
      url = urllib.parse.urlsplit(link)
      if url.scheme:
        continue
      target = (path.parent / urllib.parse.unquote(url.path)).resolve()
      target = target / 'index.html' if target.is_dir() else target
      known = pages[target].ids if target in pages else set()
      if not target.exists() or (url.fragment and url.fragment not in known):
        wrong.append((path.relative_to(site).as_posix(), link))
  assert wrong == []


def test_citations_are_links(site):
  text = (site / 'glossary' / 'index.html').read_text()
  assert '[masqclip <a href="../spec/masqclip/#43-relative-mask-attention' in text


def test_nothing_is_fetched_to_read_it(site):
  pages = {path: Page(path).loaded for path in site.rglob('*.html')}
  fetched = {url for loaded in pages.values() for url in loaded}
  assert [url for url in fetched if urllib.parse.urlsplit(url).netloc] == []


def test_the_reference_has_shapes(site):
  shown = []
  parser = html.parser.HTMLParser()
  parser.handle_data = shown.append
  parser.feed((site / 'api' / 'contracts' / 'index.html').read_text())
  assert "Float[Array, 'b q k'] | None" in ''.join(shown)
  assert "photos: Sequence[Num[ndarray, 'h w 3']]" in ''.join(shown)


def test_light_and_dark_pictures_follow_the_switch(site):
  text = (site / 'index.html').read_text()
  for theme in ('light', 'dark'):
    assert f'images/architecture.{theme}.svg#only-{theme}' in text
