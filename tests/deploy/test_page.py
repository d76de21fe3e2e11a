"""The page in a real browser: words are typed, a photo is chosen, masks are seen."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from served import MODEL, SCENES, serving

import maskclip_jax

playwright = pytest.importorskip(
  'playwright.sync_api', reason='needs pip install playwright'
)
expect = playwright.expect
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(CHROMIUM is None, reason='needs the program chromium'),
]
WORDS = 'disk; bar; stuff:water; stuff:tiles'


@pytest.fixture(scope='module')
def address():
  with serving(maskclip_jax.load(MODEL), canvases=((128, 192),)) as client:
    yield str(client.base_url)


@pytest.fixture(scope='module')
def browser():
  with playwright.sync_playwright() as found:
    # As root, as in containers, Chromium has no sandbox.
    browser = found.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu']
    )
    yield browser
    browser.close()


@pytest.fixture(params=['wide', 'phone'])
def page(browser, address, request):
  """The page, at two widths; it asks nobody else, and has no error."""
  size = {'wide': (1200, 800), 'phone': (390, 844)}[request.param]
  page = browser.new_page(viewport=dict(zip(('width', 'height'), size, strict=True)))
  asked, wrong = [], []
  page.on('request', lambda one: asked.append(one.url))
  page.on('pageerror', lambda error: wrong.append(str(error)))
  page.goto(address)
  yield page
  assert all(url.startswith((address, 'blob:')) for url in asked), asked
  assert wrong == []
  page.close()


def segment(page, words=WORDS, photo=SCENES[1]):
  page.set_input_files('#file', photo)
  page.fill('#words', words)
  page.click('#go:enabled')


def names(page) -> list[str]:
  return sorted(page.locator('#regions .name').all_inner_texts())


def tint(page) -> list[int]:
  """Red, green and blue in the middle of the picture, where the disk is."""
  return page.evaluate(
    '() => { const c = document.getElementById("view");'
    'return [...c.getContext("2d").getImageData(c.width / 2, c.height * .7, 1, 1).data]'
    '.slice(0, 3); }'
  )


def test_a_person_sees_masks(page):
  page.set_input_files('#file', SCENES[1])
  page.wait_for_selector('#view:not([hidden])')
  bare = tint(page)
  segment(page)
  page.wait_for_selector('#found:not([hidden])')
  assert names(page) == ['bar', 'disk', 'tiles', 'water']
  assert page.inner_text('#status').startswith('4 regions')
  assert tint(page) != bare
  page.uncheck('#masks')
  assert tint(page) == bare
  page.check('#masks')
  # Nothing is wider than the page.
  width = page.evaluate('document.documentElement.scrollWidth - innerWidth')
  assert width <= 0
  box = page.locator('#view').bounding_box()
  page.locator('#view').scroll_into_view_if_needed()
  page.locator('#view').hover(
    position={'x': box['width'] / 2, 'y': box['height'] * 0.7}
  )
  assert page.inner_text('#tip').startswith('disk · 0.9')
  with page.expect_download() as download:
    page.click('[data-format=json]')
  found = json.loads(download.value.path().read_text())
  assert download.value.suggested_filename == 'scene_2.json'
  assert len(found['annotations'][0]['segments_info']) == 4
  with page.expect_download() as download:
    page.click('[data-format=ids]')
  assert download.value.path().read_bytes().startswith(b'\x89PNG')


def test_thresholds_move_the_result(page):
  segment(page)
  page.wait_for_selector('#found:not([hidden])')
  page.locator('#score').fill('0.97')
  regions, status = page.locator('#regions li'), page.locator('#status')
  expect(status).not_to_contain_text('4 regions', timeout=30_000)
  expect(status).to_contain_text('region', timeout=30_000)
  assert regions.count() < 4
  # Of instances all are there, and the page shows those above the threshold.
  page.check('[value=instance]', force=True)
  expect(page.locator('#score')).to_have_value('0.3')
  expect(regions.filter(has_text='tiles')).to_have_count(0, timeout=30_000)
  few = regions.count()
  page.locator('#score').fill('0')
  assert regions.count() > few


def test_words_are_suggested_and_completed_by_keys(page):
  page.select_option('#vocabulary', 'voc-20')
  page.locator('#words').press_sequentially('blu')
  # Who types means the words.
  assert page.input_value('#vocabulary') == ''
  page.wait_for_selector('#suggestions button')
  page.keyboard.press('ArrowDown')
  page.keyboard.press('Enter')
  assert page.input_value('#words') == 'blue bar, '
  assert page.evaluate('document.activeElement.id') == 'words'
  # A class of several words, after others.
  page.locator('#words').press_sequentially('dish aerial')
  page.click('#suggestions button')
  assert (
    page.input_value('#words') == 'blue bar; dish, dish aerial, dish antenna, saucer; '
  )


def test_mistakes_are_told_and_mended(page, tmp_path):
  segment(page, words=';;')
  page.wait_for_selector('#error:not([hidden])')
  assert page.inner_text('#error').startswith('The vocabulary is empty')
  broken = tmp_path / 'broken.jpg'
  broken.write_bytes(b'no photo')
  segment(page, photo=broken)
  expect(page.locator('#error')).to_contain_text('not an image', timeout=30_000)
  segment(page)
  page.wait_for_selector('#found:not([hidden])')
  assert page.is_hidden('#error')


def test_what_was_guessed_is_told(page, tmp_path):
  deep = np.asarray(Image.open(SCENES[1]).convert('L')).astype(np.uint16) * 16
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  segment(page, photo=tmp_path / 'deep.png')
  expect(page.locator('#notes')).to_contain_text(
    'deep.png has integers up to', timeout=30_000
  )
