"""The server as programs use it: results, refusals, and what is never compiled."""

import io
import json
import re
import socket
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from served import CANVAS, MODEL, SCENES, Held, compilations, serving

from maskclip_jax import photos
from maskclip_jax.results.files import panoptic_rgb
from maskclip_jax.segmenter import Segmenter

WORDS = 'disk; bar; stuff:water'
SCENE = SCENES[0].read_bytes()


@pytest.fixture(scope='module')
def segmenter():
  # Of all systems it compiles fastest, and with this seed it finds several regions.
  return Segmenter.from_preset('segclip_tiny', seed=2)


@pytest.fixture(scope='module')
def client(segmenter):
  with serving(segmenter, max_bytes=200_000, max_pixels=1_000_000) as client:
    yield client
    # All of these tests together: other words, sizes, thresholds, tasks.
    assert compilations(client) == 0


def png(*size, color=(40, 90, 200)) -> bytes:
  buffer = io.BytesIO()
  Image.new('RGB', size, color).save(buffer, 'png')
  return buffer.getvalue()


def post(client, photo=SCENE, *, name='photo.jpg', accept='*/*', query='', **fields):
  fields = {'words': WORDS} | fields
  return client.post(
    f'/segment{query}',
    files=[('image', (name, photo))],
    data={key: value for key, value in fields.items() if value is not None},
    headers={'Accept': accept},
  )


def alone(segmenter, task, **choices):
  """The prediction without a server, on the same canvas."""
  plan = segmenter.plan(WORDS, task, **choices)
  photo, resized = plan.read(SCENES[0])
  (outputs,) = segmenter.outputs([resized], [photo.shape[:2]], plan, CANVAS)
  return segmenter.prediction(outputs, plan, photo)


@pytest.mark.parametrize('task', ['panoptic', 'instance', 'semantic'])
def test_results_are_those_of_the_segmenter(client, segmenter, task):
  answer = post(client, task=task)
  assert answer.status_code == 200, answer.text
  assert answer.headers['content-type'] == 'application/json'
  found = answer.json()
  assert found.pop('info')['model'] == MODEL
  expected = alone(segmenter, task).json_files('photo', file_name='photo.jpg')
  assert found == json.loads(expected['photo.json'])


def test_pictures_by_format_and_by_accept(client, segmenter):
  expected = alone(segmenter, 'panoptic')
  assert len(expected.segments) > 3
  ids = post(client, query='?format=ids')
  assert ids.headers['content-type'] == 'image/png'
  shown = np.asarray(Image.open(io.BytesIO(ids.content)))
  np.testing.assert_array_equal(shown, panoptic_rgb(expected.panoptic))
  for overlay in (
    post(client, format='overlay'),
    post(client, accept='image/png, */*;q=0.5'),
  ):
    shown = np.asarray(Image.open(io.BytesIO(overlay.content)))
    np.testing.assert_array_equal(shown, expected.overlay())
  assert 'photo.overlay.png' in overlay.headers['content-disposition']


def test_several_photos_are_a_zip(client):
  answer = client.post(
    '/segment',
    files=[('image', ('été.png', png(60, 40))), ('image', ('été.jpg', SCENE))],
    data={'words': WORDS},
  )
  assert answer.headers['content-type'] == 'application/zip', answer.text
  with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
    endings = ('.json', '.overlay.png', '.panoptic.png')
    stems = ('été', 'été_2')
    assert sorted(archive.namelist()) == sorted(s + e for s in stems for e in endings)
    image = json.loads(archive.read('été_2.json'))['images'][0]
  assert image['file_name'] == 'été.jpg'


def test_other_thresholds_need_no_network(client, segmenter):
  def kept():
    text = client.get('/metrics').text
    return float(re.search(r'^maskclip_kept_outputs_total (.*)$', text, re.M)[1])

  post(client)
  before = kept()
  found = post(client, object_threshold='0.9').json()
  assert kept() == before + 1
  expected = alone(segmenter, 'panoptic', object_threshold=0.9)
  rows = found['annotations'][0]['segments_info']
  assert [row['area'] for row in rows] == [s.area for s in expected.segments]
  post(client, words='disk; star')
  assert kept() == before + 1


def test_commas_separate_classes_where_nothing_else_does(client):
  def names(words):
    return [c['name'] for c in post(client, words=words).json()['categories']]

  assert names('disk, bar, stuff:water') == ['disk', 'bar', 'water']
  assert names('disk, circle; bar') == ['disk', 'bar']
  answer = post(client, words=None, vocabulary='miniature-things')
  assert len(answer.json()['categories']) > 10
  answer = post(client, words=None, vocabulary='voc-20@segclip_word')
  assert len(answer.json()['categories']) == 20


def test_doubtful_words_get_a_note(client):
  assert 'thing' in post(client, words='disk, thing').json()['info']['notes'][0]


def test_words_are_never_files(client, tmp_path):
  secret = tmp_path / 'secret.txt'
  secret.write_text('password')
  for words in (str(secret), f'{secret}@clean', '/etc/passwd'):
    answer = post(client, words=words)
    assert 'password' not in answer.text.replace('/etc/passwd', '')
  for name in (str(secret), '../vocabularies/ade20k-150', '/etc/passwd'):
    answer = post(client, words=None, vocabulary=name)
    assert answer.status_code == 400


def test_shapes_and_modes_of_photos(client):
  for size in ((1, 1), (3, 400), (700, 5), (128, 192)):
    answer = post(client, png(*size))
    assert answer.status_code in (200, 422), answer.text
  grey = io.BytesIO()
  Image.fromarray(np.arange(96 * 64, dtype=np.uint16).reshape(64, 96)).save(grey, 'png')
  answer = post(client, grey.getvalue(), white='8000').json()
  assert answer['images'][0]['width'] == 96
  assert 'warnings' not in answer['info']
  # Without it the answer says what was guessed, and of which photo.
  (text,) = post(client, grey.getvalue()).json()['info']['warnings']
  assert text.startswith('photo.jpg has integers up to 6143 in 16 bits, so 16383')


def bomb() -> bytes:
  """A PNG of few bytes and very many pixels."""
  content = bytearray(png(8, 8))
  content[16:24] = (30_000).to_bytes(4, 'big') * 2
  content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
  return bytes(content)


@pytest.mark.parametrize(
  ('status', 'said', 'fields'),
  [
    (415, 'not an image', {'photo': b'%!PS-Adobe-3.0 EPSF-3.0\n'}),
    (415, 'not an image', {'photo': b''}),
    (415, 'damaged|not an image', {'photo': SCENE[: len(SCENE) // 2]}),
    (413, 'megapixels', {'photo': bomb()}),
    (413, '1.2 megapixels', {'photo': png(1200, 1000)}),
    (413, 'too large', {'photo': b'x' * 300_000}),
    (400, 'without folders', {'name': '../../etc/passwd'}),
    (400, 'without folders', {'name': 'a' * 500 + '.jpg'}),
    (400, 'name what to look for', {'words': None}),
    (400, 'name what to look for', {'words': '  '}),
    (400, 'vocabulary is empty|empty class', {'words': ';;'}),
    (400, 'words are too many', {'words': ','.join(f'w{i}' for i in range(1100))}),
    (400, 'no vocabulary is called', {'words': None, 'vocabulary': 'ade20k-151'}),
    (400, 'leave out what', {'words': None, 'vocabulary': 'voc-20@fcclip'}),
    (400, 'leave out what', {'words': 'voc-20@fcclip'}),
    (400, 'no treatment is called', {'words': None, 'vocabulary': 'voc-20@cat'}),
    (400, 'not both', {'vocabulary': 'ade20k-150'}),
    (400, 'task must be', {'task': 'depth'}),
    (400, 'one task', {'task': 'panoptic,semantic'}),
    (400, 'object_threshold must be in', {'object_threshold': 'nan'}),
    (400, 'object_threshold must be in', {'object_threshold': '-1'}),
    (400, 'must be a number', {'object_threshold': 'high'}),
    (400, 'top_k must be at most', {'top_k': '1000000'}),
    (400, 'top_k must be at least', {'top_k': '0'}),
    (400, 'must be an integer', {'top_k': '9' * 5000}),
    (400, 'short_edge', {'short_edge': '100000'}),
    (422, 'this server computes', {'short_edge': '800', 'long_edge': '1000'}),
    (400, 'white must be', {'white': 'inf'}),
    (400, 'no score is called', {'scores': 'weight=1'}),
    (400, 'format must be', {'format': 'tiff'}),
    (400, "did you mean 'words'", {'wrods': 'cat'}),
    (400, 'into the form', {'query': '?words=cat'}),
    (400, 'maximum size', {'words': 'a' * 300_000 + ';'}),
  ],
)
def test_mistakes_are_one_line(client, status, said, fields):
  answer = post(client, **fields)
  if 'maximum size' in said:
    said, status = 'maximum size|too large', answer.status_code
    assert 400 <= status < 500
  assert answer.status_code == status, answer.text
  body = answer.json()
  assert list(body) == ['error']
  assert re.search(said, body['error'])
  assert '\n' not in body['error']
  assert '/maskclip_jax/' not in body['error']


def test_bodies_that_are_no_form(client):
  for content, kind in (
    (b'{"a": ' * 10_000, 'application/json'),
    (b'--x\r\nnonsense', 'multipart/form-data'),
    (b'--x\r\nnonsense', 'multipart/form-data; boundary=x'),
    (b'words=cat', 'application/x-www-form-urlencoded'),
  ):
    answer = client.post('/segment', content=content, headers={'Content-Type': kind})
    assert 400 <= answer.status_code < 500, answer.text
    assert list(answer.json()) == ['error']
  assert client.post('/segment', data={'image': 'a text'}, files={}).status_code == 415
  assert client.get('/segment').json() == {'error': 'Method Not Allowed'}
  assert client.get('/nothing/../x').json() == {'error': 'Not Found'}


def test_a_client_that_leaves_in_the_middle_is_no_error(client, caplog):
  head = b'POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n'
  head += b'Content-Type: multipart/form-data; boundary=X\r\n\r\n--X\r\n'
  with socket.create_connection((client.base_url.host, client.base_url.port)) as one:
    one.sendall(head)
  gone = 'maskclip_requests_total{route="/segment",status="499"}'
  end = time.monotonic() + 30
  while gone not in client.get('/metrics').text:
    assert time.monotonic() < end
    time.sleep(0.02)
  assert not [one for one in caplog.records if one.levelname == 'ERROR']


def test_two_files_in_one_text_field(client):
  answer = client.post('/segment', files=[('words', ('w.txt', b'cat'))])
  assert answer.status_code == 400
  assert answer.json()['error'] == 'words must be a text, not a file'


def test_many_clients_at_once(client):
  sizes = [(96 + 9 * i, 64 + 7 * i) for i in range(6)]
  words = ['disk', 'bar, star', 'disk; stuff:sand', 'miniature-things']

  def one(number):
    answer = post(client, png(*sizes[number % 6]), words=words[number % 4])
    assert answer.status_code == 200, answer.text
    return answer.json()['images'][0]['width']

  with ThreadPoolExecutor(8) as threads:
    found = list(threads.map(one, range(24)))
  assert found == [sizes[number % 6][0] for number in range(24)]


def test_the_page_is_whole_and_asks_nobody_else(client):
  page = client.get('/')
  assert "default-src 'none'" in page.headers['content-security-policy']
  fetched = re.findall(r'(?:src|href)="([^"]+)"', page.text)
  assert {'page.js', 'page.css'} <= set(fetched)
  for address in fetched:
    answer = client.get(f'/{address}')
    assert answer.status_code == 200
    text = answer.text.replace('http://www.w3.org/2000/svg', '')
    assert not re.search(r'(https?:)?//[\w.]+\.\w', text)
  shown = client.get('/model').json()
  assert shown['model'] == MODEL
  assert 'ade20k-150' in shown['vocabularies']
  assert 'dog' in client.get('/suggestions').json()


def test_the_interface_describes_itself(client):
  described = client.get('/openapi.json').json()
  form = described['paths']['/segment']['post']['requestBody']['content']
  fields = form['multipart/form-data']['schema']['properties']
  assert {'image', 'words', 'task', 'object_threshold'} <= set(fields)
  # Its page would load scripts from elsewhere.
  assert client.get('/docs').status_code == 404


def test_a_full_queue_says_when_to_come_again(segmenter, monkeypatch):
  with serving(segmenter, queue=2) as client, ThreadPoolExecutor(4) as threads:
    held = Held(segmenter, monkeypatch)
    first = threads.submit(post, client)
    assert held.begun.wait(30)
    second = threads.submit(post, client, png(50, 50))
    while 'maskclip_queue_photos 2.0' not in client.get('/metrics').text:
      pass
    assert client.get('/model').json()['max_files'] == 2
    refused = post(client)
    assert refused.status_code == 429
    assert int(refused.headers['Retry-After']) >= 1
    # The rest of the server is awake.
    assert client.get('/health').status_code == 200
    held.go.set()
    assert first.result().status_code == second.result().status_code == 200
    assert post(client).status_code == 200


def test_what_takes_too_long_is_given_up(segmenter, monkeypatch):
  with serving(segmenter, timeout=0.3) as client:
    held = Held(segmenter, monkeypatch)
    late = post(client)
    held.go.set()
    assert late.status_code == 504
    assert 'within 0.3 seconds' in late.json()['error']


def test_a_failure_of_the_model_is_not_the_end(segmenter, monkeypatch):
  with serving(segmenter, kept=0) as client:
    with monkeypatch.context() as patched:

      def broken(*_):
        raise RuntimeError('/a/path/of/the/server: out of memory')

      patched.setattr(segmenter, 'outputs', broken)
      failed = post(client)
      assert failed.status_code == 500
      assert 'path' not in failed.text
    assert post(client).status_code == 200


def test_photos_of_programs_that_pillow_starts_are_not_opened():
  with pytest.raises(ValueError, match='not an image'):
    photos.photo_size(
      io.BytesIO(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'), 'x'
    )
