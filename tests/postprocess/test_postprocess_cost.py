"""Post-processing compiles once and stays in bounded memory."""

import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import plain_postprocess as plain
import pytest

from maskclip_jax.postprocess import PostprocessConfig, postprocess, tiles
from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.postprocess.instances import _top
from maskclip_jax.postprocess.one_pass import _tile_results
from maskclip_jax.postprocess.tiles import Geometry


def test_no_photo_and_no_vocabulary_compiles_anything():
  programs = (
    _tile_results,
    _top,
    tiles.arrange_arrays,
    class_probabilities,
  )

  def everything(original, words, threshold):
    rng = np.random.default_rng(words)
    columns = np.arange(64)
    logits = rng.standard_normal((7, 64)).astype(np.float32)
    scores = class_probabilities(logits, columns <= words, columns == words)
    geometry = Geometry((20, 30), (80, 120), (75, 111), original)
    masks = jnp.asarray(plain.smooth_masks(rng, 7, 40, 40))
    config = PostprocessConfig(threshold, threshold)
    thing = jnp.asarray(columns % 2 == 0)
    tasks = ('semantic', 'panoptic', 'instance')
    postprocess(masks, scores, thing, geometry, config, tasks, tile=32)

  everything((64, 48), 5, 0.0)
  before = [program._cache_size() for program in programs]
  everything((1, 1), 2, 0.1)
  everything((3, 500), 63, 0.02)
  everything((130, 97), 40, 0.0)
  assert [program._cache_size() for program in programs] == before


def test_tiles_cover_the_photo_once():
  rng = np.random.default_rng(0)
  for _ in range(50):
    original = tuple(rng.integers(1, 300, 2))
    image = tuple(rng.integers(1, 129, 2))
    mask = tuple(rng.integers(1, 65, 2))
    geometry = Geometry(mask, (128, 128), image, original)
    seen = np.zeros(original, int)
    for tile in tiles.plan(geometry, (64, 64), 32):
      seen[tile.rows, tile.columns] += 1
      assert (tile.spot[:, 1] >= 1).all()
      assert (tile.spot[:, 1] <= 32).all()
    assert (seen == 1).all()


@pytest.mark.parametrize(
  ('image', 'original'),
  [((640, 854), (512, 683)), ((800, 1066), (480, 640)), ((512, 683), (512, 683))],
)
def test_photos_that_networks_see_enlarged_take_no_more_tiles(image, original):
  padded = tuple(-(-side // 32) * 32 for side in image)
  mask = tuple(side // 4 for side in padded)
  geometry = Geometry(mask, padded, image, original)
  wanted = -(-original[0] // 128) * -(-original[1] // 128)
  assert len(tiles.plan(geometry, mask, 128)) == wanted


MEMORY_PROBE = """
import pathlib
import jax.numpy as jnp
import numpy as np
from maskclip_jax.postprocess.class_scores import class_probabilities
from maskclip_jax.postprocess.tiles import Geometry
from maskclip_jax.postprocess import PostprocessConfig, postprocess

def memory(line):
  # Not getrusage: its peak is inherited from the process that started this one.
  status = pathlib.Path('/proc/self/status').read_text()
  return int(status.split(line + ':')[1].split()[0]) * 1024

rng = np.random.default_rng(0)
columns = np.arange(1024)
masks = jnp.asarray(rng.standard_normal((100, 256, 256), np.float32))
logits = 20 * rng.standard_normal((100, 1024)).astype(np.float32)
scores = class_probabilities(logits, columns < 848, columns == 847)
geometry = Geometry((171, 256), (704, 1024), (683, 1024), (854, 1280))
before = memory('VmRSS')
tasks = ('semantic', 'panoptic', 'instance')
found = postprocess(
  masks, scores, columns % 2 == 0, geometry, PostprocessConfig(0.0, 0.0), tasks
)
assert found.segments and len(found.instances)
print(memory('VmHWM') - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_847_words_on_a_photo_of_a_megapixel_stay_below_two_gigabytes():
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    [sys.executable, '-c', MEMORY_PROBE],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  added = int(done.stdout)
  print(f'peak memory added: {added / 2**30:.2f} GiB')
  # It can be no less than the results: two maps of int32 and 100 packed masks. The
  # scores of all pixels at once would take 4.5 GB.
  assert 22e6 < added < 2 * 2**30
