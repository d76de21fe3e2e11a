"""JAX's global settings as people have them: results are the same under all."""

import contextlib
import filecmp
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_stages
from PIL import Image

from maskclip_jax.__main__ import main
from maskclip_jax.train.loop import train

SETTINGS = {
  'JAX_ENABLE_X64': '1',
  'JAX_NUMPY_RANK_PROMOTION': 'raise',
  'JAX_NUMPY_DTYPE_PROMOTION': 'strict',
  'JAX_DEBUG_NANS': '1',
  'JAX_DEBUG_INFS': '1',
  'JAX_DEBUG_KEY_REUSE': '1',
  'JAX_LEGACY_PRNG_KEY': 'error',
  'JAX_TRANSFER_GUARD': 'disallow',
  # Not JAX's: a terminal that lacks the letters of tables.
  'PYTHONIOENCODING': 'latin-1',
}


def predict(photos, out):
  words = 'disk; star; stuff:ground'
  return [
    *('predict', str(photos), '--model', 'clip_baseline_miniature', '--out', str(out)),
    *('--vocabulary', words, '--task', 'panoptic,semantic,instance', '--no_cache'),
  ]


@pytest.mark.slow
def test_predict_writes_the_same_files_under_every_setting(tmp_path):
  photos = tmp_path / 'photos'
  photos.mkdir()
  coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  image = Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC)
  for name in ('a.png', 'b.png'):
    image.save(photos / name)
  assert main(predict(photos, tmp_path / 'plain')) == 0
  command = [sys.executable, '-m', 'maskclip_jax', *predict(photos, tmp_path / 'set')]
  done = subprocess.run(
    command, env=os.environ | SETTINGS, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  names = sorted(path.name for path in (tmp_path / 'plain').iterdir())
  assert len(names) >= 10
  same = filecmp.cmpfiles(tmp_path / 'plain', tmp_path / 'set', names, shallow=False)
  assert same == (names, [], [])


@pytest.mark.slow
def test_a_step_of_training_is_the_same_under_every_setting(tmp_path):
  config = tiny_stages.stage('masq', total_steps=1)
  plain = train(config, tmp_path / 'plain')
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.enable_x64(True))
    stack.enter_context(jax.numpy_rank_promotion('raise'))
    stack.enter_context(jax.numpy_dtype_promotion('strict'))
    under = train(config, tmp_path / 'set')
  for path, value in plain.state.params.items():
    np.testing.assert_array_equal(value, under.state.params[path], path)


def test_a_platform_that_is_not_there_is_one_line(monkeypatch, tmp_path, capsys):
  def devices():
    raise RuntimeError("Unable to initialize backend 'tpu': no such file\nmore")

  monkeypatch.setenv('JAX_PLATFORMS', 'tpu')
  monkeypatch.setattr(jax, 'devices', devices)
  Image.new('RGB', (8, 8)).save(tmp_path / 'x.png')
  assert main(predict(tmp_path / 'x.png', tmp_path / 'out')) == 2
  error = capsys.readouterr().err.strip()
  assert "JAX_PLATFORMS is 'tpu'" in error
  assert '\n' not in error
