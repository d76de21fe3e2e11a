"""Every kind of system behind the server: batches, and nothing compiled."""

import io
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from served import Held, compilations, serving

from maskclip_jax.segmenter import Segmenter

pytestmark = pytest.mark.slow


def photo(width, height, seed) -> bytes:
  """Smooth colours, so that masks have shapes."""
  coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
  buffer = io.BytesIO()
  image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  image.save(buffer, 'png')
  return buffer.getvalue()


@pytest.mark.parametrize(
  ('preset', 'words'),
  [
    # Several vectors a class, and one vocabulary.
    pytest.param(
      'fcclip_tiny', 'cat, kitten; dog; stuff:floor', marks=pytest.mark.slow
    ),
    ('mask2former_tiny', None),
  ],
)
def test_photos_that_wait_together_are_computed_together(preset, words, monkeypatch):
  segmenter = Segmenter.from_preset(preset)
  photos = [photo(150, 100, 0), photo(90, 60, 1), photo(64, 64, 2)]
  edges = {'short_edge': '96', 'long_edge': '160', 'object_threshold': '0'}

  def post(number, **fields):
    fields = edges | ({} if words is None else {'words': words}) | fields
    files = [('image', ('a.png', photos[number]))]
    answer = client.post('/segment', files=files, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()

  with serving(segmenter, canvases=((96, 160),), batch=2, kept=0) as client:
    alone = [post(number) for number in range(3)]
    with monkeypatch.context() as patched, ThreadPoolExecutor(3) as threads:
      held = Held(segmenter, patched)
      first = threads.submit(post, 0)
      assert held.begun.wait(60)
      others = [threads.submit(post, number) for number in (1, 2)]
      while 'maskclip_queue_photos 3.0' not in client.get('/metrics').text:
        pass
      held.go.set()
      together = [answer.result() for answer in (first, *others)]
    for a, b in zip(alone, together, strict=True):
      areas = [
        [row['area'] for row in one['annotations'][0]['segments_info']]
        for one in (a, b)
      ]
      # Sums of another order may move a pixel of a border.
      np.testing.assert_allclose(*areas, atol=3)
    text = client.get('/metrics').text
    assert re.search(r'^maskclip_batch_photos_count (.*)$', text, re.M)[1] == '5.0'
    for task, top_k in (('instance', '3'), ('instance', '128'), ('semantic', '7')):
      post(0, task=task, top_k=top_k)
    assert compilations(client) == 0
