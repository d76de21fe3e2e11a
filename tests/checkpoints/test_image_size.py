"""A CLIP that is shown photos of another size than it was trained with."""

import dataclasses

import numpy as np
import pytest
import tiny_stages

import maskclip_jax
from maskclip_jax.checkpoints import bundle, restore
from maskclip_jax.checkpoints.convert import convert_checkpoint
from maskclip_jax.nn.positions import resized_places

_MAP = np.array([[0, 1, 5], [2, 3, 1], [4, 0, 2]], np.float32)
# torch.nn.functional.interpolate(_MAP, size, mode='bicubic', antialias=True), by which
# open_clip resizes its positions.
_RESIZED = {
  2: [[0.96989, 2.99952], [2.57853, 1.27345]],
  4: [
    [-0.15672, 0.21965, 2.57565, 5.43428],
    [1.04263, 1.96269, 2.54339, 2.42068],
    [2.93206, 2.40900, 1.61344, 1.04413],
    [4.32708, 1.27878, 0.36881, 2.16763],
  ],
}


@pytest.mark.parametrize('side', _RESIZED)
def test_places_are_resized_as_pictures(side):
  channels = np.stack([_MAP.ravel(), np.full(9, 7.0)], axis=-1)
  places = np.concatenate([[[40.0, 50.0]], channels])
  first, *grid = resized_places(places, side, before=1)
  assert first.tolist() == [40.0, 50.0]
  first, second = np.array(grid).T
  # To the digits that are noted.
  np.testing.assert_allclose(first.reshape(side, side), _RESIZED[side], atol=2e-5)
  np.testing.assert_allclose(second, 7.0, rtol=1e-6)


def test_prompts_of_all_blocks_are_resized():
  prompts = np.random.default_rng(0).normal(size=(2, 9, 5)).astype(np.float32)
  found = resized_places(prompts, 4)
  assert found.shape == (2, 16, 5)
  for ours, alone in zip(found, prompts, strict=True):
    np.testing.assert_array_equal(ours, resized_places(alone, 4))


@pytest.fixture(scope='module')
def masqclip(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model') / 'masqclip'
  tiny_stages.random_bundle(folder, 'masqclip_tiny')
  return folder


def test_a_model_is_converted_for_another_size(masqclip, tmp_path):
  """Everything else stays, and a size that it had before changes nothing."""
  _, before, opened = restore.load_model(masqclip)
  usual = before.config.clip.image_size
  done = convert_checkpoint(masqclip, tmp_path / 'larger', image_size=2 * usual)
  assert f'photos of {2 * usual} pixels' in str(done)
  model, preset, _ = restore.load_model(tmp_path / 'larger')
  larger = dataclasses.replace(before.config.clip, image_size=2 * usual)
  assert preset == dataclasses.replace(
    before, config=dataclasses.replace(before.config, clip=larger)
  )
  places = model.clip.visual.positional_embedding[...]
  assert len(places) == larger.grid**2 + 1
  convert_checkpoint(tmp_path / 'larger', tmp_path / 'same', image_size=np.int64(usual))
  card = (tmp_path / 'same' / 'MODEL_CARD.md').read_text()
  assert card.count('its CLIP is shown photos of') == 1
  assert f'photos of {usual} pixels' in card
  convert_checkpoint(masqclip, tmp_path / 'same', image_size=usual)
  same = restore.open_bundle(tmp_path / 'same')[0]
  for path, array in opened.parameters.items():
    np.testing.assert_allclose(same.parameters[path], array, rtol=1e-6, atol=1e-7)


def test_a_clip_is_opened_for_another_size(masqclip):
  """The one inside a system, too."""
  usual = maskclip_jax.load_clip(masqclip)
  larger = maskclip_jax.load_clip(masqclip, image_size=2 * usual.image_size)
  assert larger.image_size == 2 * usual.image_size
  photo = np.zeros((40, 30, 3), np.uint8)
  assert larger.preprocess([photo]).shape == (1, *(larger.image_size,) * 2, 3)
  vectors = [clip.encode_images([photo]) for clip in (usual, larger)]
  assert vectors[0].shape == vectors[1].shape
  assert np.isfinite(vectors).all()


def test_sizes_that_a_model_does_not_take_are_refused(masqclip, tmp_path):
  tiny_stages.random_bundle(tmp_path / 'segclip', 'segclip_tiny')
  tiny_stages.random_bundle(tmp_path / 'masks', 'proposals_tiny')
  for source, side, message in (
    (masqclip, 65, '65 is not a multiple of'),
    (masqclip, 0, 'image_size'),
    (masqclip, '64', 'a whole number of pixels'),
    (masqclip, 64.0, 'a whole number of pixels'),
    (masqclip, True, 'a whole number of pixels'),
    (masqclip, 1_000_000_000, 'image_size'),
    (tmp_path / 'segclip', 96, 'more than the CLIP of a SegCLIP'),
    (tmp_path / 'masks', 96, 'has no CLIP takes no'),
  ):
    with pytest.raises(ValueError, match=message):
      convert_checkpoint(source, tmp_path / 'x', image_size=side)
  assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('change', ['missing', 'unknown'])
def test_parameters_of_another_model_are_refused(masqclip, tmp_path, change):
  opened = bundle.load(masqclip)
  flat = dict(opened.parameters)
  if change == 'missing':
    del flat['clip/visual/positional_embedding']
  else:
    flat['extra/kernel'] = np.zeros(2, np.float32)
  bundle.save(tmp_path / 'damaged', opened.config, flat)
  with pytest.raises(ValueError, match=f'1 {change}'):
    convert_checkpoint(tmp_path / 'damaged', tmp_path / 'x', image_size=128)
  assert not (tmp_path / 'x').exists()
