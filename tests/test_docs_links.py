"""Links of README and documents: well formed, and leading to what exists."""

import pathlib
import re
import subprocess
import urllib.parse

import pytest
import yaml

import maskclip_jax

ROOT = pathlib.Path(__file__).parents[1]
# [text](target), ![text](target), and the attributes of HTML.
MARKDOWN = re.compile(r'!?\[(?P<text>[^\]]*)\]\((?P<target>[^)]*)\)')
HTML = re.compile(r'\b(?:href|src|srcset)="(?P<target>[^"]*)"')
HOST = re.compile(r'([a-z0-9-]+\.)+[a-z]{2,}')


def documents() -> list[str]:
  """Every Markdown file of the repository."""
  found = subprocess.run(
    ['git', 'ls-files', '*.md'], cwd=ROOT, capture_output=True, text=True
  ).stdout.split()
  return sorted(found) or ['README.md']


def without_code(text: str) -> str:
  """The text without blocks of code, and a word in place of spans of it."""
  text = re.sub(r'^( *)```.*?^ *```', '', text, flags=re.M | re.S)
  return re.sub(r'`[^`\n]*`', 'code', text)


def slug(heading: str) -> str:
  """The anchor that GitHub gives a heading."""
  shown = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
  return re.sub(r'[^\w\- ]', '', shown).strip().replace(' ', '-')


def anchors(path: pathlib.Path) -> set[str]:
  text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.S)
  return {slug(h) for h in re.findall(r'^#{1,6} (.+)$', text, re.M)}


@pytest.mark.parametrize('name', documents())
def test_links_lead_somewhere(name):
  path = ROOT / name
  # A link may be wrapped between words of its text.
  text = without_code(path.read_text())
  wrong = []
  links = [(m['text'], m['target']) for m in MARKDOWN.finditer(text)]
  links += [('image', m['target']) for m in HTML.finditer(text)]
  for shown, target in links:
    url = urllib.parse.urlsplit(target)
    if url.scheme:
      fine = url.scheme in ('http', 'https') and HOST.fullmatch(url.netloc)
      fine = fine and not re.search(r'[\s<>"]', target)
    else:
      file = (path.parent / url.path).resolve() if url.path else path
      fine = file.exists() and file.is_relative_to(ROOT)
      if fine and url.fragment:
        fine = file.suffix == '.md' and url.fragment in anchors(file)
    if not (fine and shown.strip()):
      wrong.append((shown, target))
  assert wrong == []


def test_every_address_is_a_link():
  """What is not written as a link cannot be clicked, and no other test follows it."""
  text = without_code((ROOT / 'README.md').read_text())
  assert re.findall(r'(?<![("])https?://\S+', MARKDOWN.sub('', text)) == []


@pytest.mark.parametrize(
  'name', [n for n in documents() if re.fullmatch(r'[A-Z]+\.md|docs/\w+\.md', n)]
)
def test_lines_wrap(name):
  text = re.sub(r'^```.*?^```', '', (ROOT / name).read_text(), flags=re.M | re.S)
  # Rows of tables, HTML, pictures and links that no blank divides stay whole.
  long = [
    line
    for line in text.splitlines()
    if len(line) > 100 and ' ' in line.strip() and line.lstrip()[0] not in '|<!'
  ]
  assert long == []


def test_the_site_shows_every_page():
  text = (ROOT / 'mkdocs.yml').read_text()
  listed = re.findall(r'[\w/-]+\.(?:md|ipynb)\b', text.partition('\nnav:')[2])
  docs = ROOT / 'docs'
  pages = [p for p in docs.rglob('*') if p.suffix in ('.md', '.ipynb')]
  assert sorted(listed) == sorted(p.relative_to(docs).as_posix() for p in pages)
  assert yaml.safe_load(text)['site_name'] == 'maskclip_jax'


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_the_architecture_is_what_its_script_draws(theme, tmp_path):
  script = ROOT / 'docs' / 'images' / 'architecture.py'
  name = f'architecture.{theme}.svg'
  subprocess.run(['python', script, '--out', tmp_path], check=True)
  assert (tmp_path / name).read_text() == script.with_name(name).read_text()


def test_the_citation_names_the_papers_of_the_readme():
  """And the version that the package has."""
  text = (ROOT / 'README.md').read_text()
  cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert cited['version'] == maskclip_jax.__version__
  titles = re.findall(r'^  title += \{(.*?)\},$', text, re.M | re.S)
  plain = [
    ' '.join(title.replace('{', '').replace('}', '').split()) for title in titles
  ]
  assert [paper['title'] for paper in cited['references']] == plain
