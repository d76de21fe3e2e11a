"""Bundles in another precision."""

import numpy as np
import pytest

from maskclip_jax import zoo
from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle, params, restore
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.checkpoints.repack import repack

PRESET = zoo.find_preset('masqclip_tiny')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  directory = tmp_path_factory.mktemp('repack') / 'run' / 'bundle'
  flat = params.flatten(random_model(PRESET.system, PRESET.config, seed=1))
  flat = {path: np.asarray(x) for path, x in flat.items()}
  bundle.save(directory, PRESET.to_dict(), flat, card='# a card\n')
  return directory


@pytest.mark.parametrize(('dtype', 'error'), [('float16', 2**-11), ('bfloat16', 2**-8)])
def test_half_the_bytes_and_the_same_numbers(whole, tmp_path, dtype, error):
  repack(whole.parent, tmp_path / 'b', dtype)
  sizes = [(d / bundle.TENSORS).stat().st_size for d in (whole, tmp_path / 'b')]
  assert sizes[1] < 0.53 * sizes[0]
  ours, theirs = (
    params.flatten(restore.load_model(d)[0]) for d in (tmp_path / 'b', whole)
  )
  for path, array in theirs.items():
    assert ours[path].dtype == np.float32
    # Rounding to the nearest; float16's smallest numbers are 6e-8 apart.
    np.testing.assert_allclose(ours[path], array, rtol=error, atol=3e-8)
  text = (tmp_path / 'b' / bundle.CARD).read_text()
  assert text.startswith('# a card')
  assert f'Stored as {dtype}' in text


def test_on_the_command_line(whole, tmp_path, capsys):
  to = tmp_path / 'c'
  arguments = ['export', '--model', whole, '--format', 'bundle', '--to', to]
  assert main([*map(str, arguments), '--dtype', 'float16']) == 0
  assert 'as float16' in capsys.readouterr().out
  assert bundle.load(to).source['stored_as'] == 'float16'


def test_what_does_not_fit_is_refused(whole, tmp_path):
  flat = dict(bundle.load(whole).parameters)
  flat['mask_embeddings'] = np.full_like(flat['mask_embeddings'], 1e6)
  bundle.save(tmp_path / 'large', PRESET.to_dict(), flat)
  with pytest.raises(ValueError, match='mask_embeddings has values beyond float16'):
    repack(tmp_path / 'large', tmp_path / 'd', 'float16')
  assert not (tmp_path / 'd').exists()
  with pytest.raises(ValueError, match=r"dtype must be one of .*, not 'int8'"):
    repack(whole, tmp_path / 'd', 'int8')
