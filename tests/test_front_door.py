"""The networks by themselves, as JAX developers take them: CLIP, systems, programs."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_stages
from PIL import Image

import maskclip_jax
from maskclip_jax import Images, TextBank, load_clip
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.random_weights import random_model
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.mapping import rules
from maskclip_jax.nn.clip import PIXEL_MEAN, PIXEL_STD
from maskclip_jax.systems.clip.checkpoint import LAYOUTS
from maskclip_jax.systems.system import find_system
from maskclip_jax.zoo import find_preset

SHIPPED = 'clip_baseline_miniature'


@pytest.fixture(scope='module')
def segmenter():
  return maskclip_jax.load(SHIPPED)


@pytest.fixture(scope='module')
def clip():
  return load_clip(SHIPPED)


def photo(height, width, seed=0):
  coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
  image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(image)


def test_the_clip_of_a_system_is_the_one_it_segments_with(clip, segmenter):
  prompts = ['a photo of a star', 'a disk']
  ours = segmenter.encode_text(prompts)
  ours /= np.linalg.norm(ours, axis=-1, keepdims=True)
  np.testing.assert_allclose(clip.encode_texts(prompts), ours, atol=1e-6)
  whole, _, _ = maskclip_jax.load_model(SHIPPED)
  taken = params.flatten(whole.clip)
  for path, array in params.flatten(clip.model).items():
    np.testing.assert_array_equal(array, taken[path], err_msg=path)


def test_photos_are_resized_cut_and_normalised_as_clip_does(clip, tmp_path):
  pixels = photo(150, 301)
  Image.fromarray(pixels).save(tmp_path / 'photo.png')
  side = clip.image_size
  given = clip.preprocess([tmp_path / 'photo.png', pixels, Image.fromarray(pixels)])
  assert given.shape == (3, side, side, 3)
  np.testing.assert_array_equal(given[0], given[1])
  np.testing.assert_array_equal(given[0], given[2])
  # 301 x 96 / 150 = 192.64 columns, of which 48 are cut away on either side.
  resized = Image.fromarray(pixels).resize((192, 96), Image.Resampling.BICUBIC)
  middle = np.asarray(resized)[:, 48:144] / 255
  expected = (middle - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
  np.testing.assert_allclose(given[0], expected, atol=1e-5)
  vectors = clip.encode_images([pixels])
  np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, atol=1e-6)
  with pytest.raises(ValueError, match='takes a list of photos'):
    clip.encode_images(pixels)


@pytest.mark.parametrize('layout', sorted(LAYOUTS))
def test_an_official_clip_opens_as_it_was_fetched(layout, tmp_path):
  """Whatever its names, the vectors are those of the model the file was made of."""
  preset = find_preset('clip_vit_tiny')
  model = random_model('clip', preset.config, seed=3)
  file = tmp_path / 'clip.safetensors'
  write_official(params.flatten(model), layout, file)
  clip = load_clip(file)
  pixels = clip.preprocess([photo(70, 90)])
  np.testing.assert_allclose(
    clip.model.visual(pixels), model.visual(pixels), atol=1e-5, rtol=1e-5
  )
  tokens = clip.tokenize(['a cat', 'a sofa'])
  np.testing.assert_allclose(clip.model.text(tokens), model.text(tokens), atol=1e-5)
  assert any('activation quick_gelu' in note for note in clip.notes)
  assert load_clip(file, activation='gelu').config.activation == 'gelu'


def test_a_folder_of_a_repository_tells_what_weights_do_not(tmp_path):
  model = random_model('clip', find_preset('clip_vit_tiny').config)
  file = tmp_path / 'open_clip_model.safetensors'
  write_official(params.flatten(model), 'openai', file)
  vision = {'width': 128, 'layers': 3, 'patch_size': 16, 'image_size': 64}
  text = {'width': 64, 'layers': 3, 'heads': 1}
  told = {'embed_dim': 32, 'vision_cfg': vision, 'text_cfg': text}
  (tmp_path / 'open_clip_config.json').write_text(json.dumps({'model_cfg': told}))
  clip = load_clip(tmp_path)
  assert (clip.config.activation, clip.notes) == ('gelu', ())


def write_official(flat, layout, file):
  config = find_preset('clip_vit_tiny').config
  table = find_system('clip').format.write(config, layout, None)
  flat = {path: np.asarray(array) for path, array in flat.items()}
  write_tensors(file, rules.invert(flat, table))


def test_a_convnext_takes_photos_of_a_size_of_ones_own():
  config = find_preset('clip_convnext_tiny').config
  model = random_model('convnext_clip', config)
  clip = maskclip_jax.ClipEncoder(model, image_size=64)
  assert clip.encode_images([photo(70, 90)]).shape == (1, config.embed_dim)
  with pytest.raises(ValueError, match='65 is not a multiple of 32'):
    maskclip_jax.ClipEncoder(model, image_size=65)


def test_what_is_no_clip_is_told(tmp_path, clip):
  with pytest.raises(FileNotFoundError, match=r'no model .*missing\.pt'):
    load_clip(tmp_path / 'missing.pt')
  preset = find_preset('mask2former_tiny')
  flat = params.flatten(random_model(preset.system, preset.config))
  bundle.save(tmp_path / 'proposals', preset.to_dict(), flat)
  with pytest.raises(ValueError, match='Mask2Former, which has no CLIP'):
    load_clip(tmp_path / 'proposals')
  with pytest.raises(ValueError, match='100 is not a multiple of 8'):
    load_clip(SHIPPED, image_size=100)
  with pytest.raises(ValueError, match='float32'):
    load_clip(SHIPPED, dtype='float16')
  tiny_stages.random_bundle(tmp_path / 'siglip', 'clip_siglip_tiny')
  with pytest.raises(ValueError, match='activation is not for a SigLIP'):
    load_clip(tmp_path / 'siglip', activation='gelu')


@pytest.mark.parametrize(
  ('pixels', 'message'),
  [
    (np.zeros((1, 3, 96, 96)), 'channels last'),
    (np.zeros((96, 96, 3)), r'x\[None\]'),
    (np.zeros((1, 224, 224, 3)), '96 x 96, not 224 x 224'),
  ],
)
def test_the_image_tower_says_what_it_takes(clip, pixels, message):
  with pytest.raises(ValueError, match=message):
    clip.model.visual(pixels)


def test_the_text_tower_says_what_it_takes(clip):
  with pytest.raises(ValueError, match='at most 32'):
    clip.model.text(np.zeros((1, 77), np.int32))


def test_images_say_what_they_take():
  for given, message in (
    ([np.zeros((3, 40, 50), np.uint8)], 'channels last'),
    (np.zeros((40, 50, 3), np.uint8), 'list of photos'),
    ([np.full((40, 50, 3), 0.5)], 'multiply by 255'),
    ([], 'at least one'),
  ):
    with pytest.raises(ValueError, match=message):
      Images.from_arrays(given)
  both = Images.from_arrays([photo(40, 50), photo(30, 70).astype(np.float32)])
  np.testing.assert_array_equal(both.pixels[1, :30, :70], photo(30, 70))


def test_systems_say_what_they_take(segmenter):
  model, images = segmenter.model, Images.from_arrays([photo(64, 64)])
  words = segmenter.text_bank(segmenter.vocabulary('star; disk'))
  for given, text, message in (
    (images.pixels, words, 'takes Images, not an array'),
    (np.moveaxis(images.pixels, -1, 1), words, 'takes Images, not an array'),
    (Images(np.moveaxis(images.pixels, -1, 1), images.image_hw), words, 'channels'),
    (Images(images.pixels[:, :50], images.image_hw), words, 'multiples of 32'),
    (images, words.embeddings, 'TextBank, not an array'),
    (images, 'star; disk', 'TextBank, not a str'),
    (images, TextBank.build(np.ones((1, 512)), [True]), '512 numbers do not fit'),
  ):
    with pytest.raises(ValueError, match=message):
      # Shapes tell, without computing.
      jax.eval_shape(functools.partial(model, given, text))


def test_a_program_is_stored_and_called_without_the_module(segmenter, tmp_path):
  forward, weights = segmenter.as_function()
  assert set(weights) == set(params.flatten(segmenter.model))
  program = jax.jit(forward)
  one = Images.from_arrays([photo(64, 96)], (96, 96))
  words = segmenter.text_bank(segmenter.vocabulary('star; disk'))
  exported = jax.export.export(program)(weights, one, words)
  (tmp_path / 'network').write_bytes(exported.serialize())
  read = jax.export.deserialize((tmp_path / 'network').read_bytes())
  other = Images.from_arrays([photo(90, 70, seed=1)], (96, 96))
  more = segmenter.text_bank(segmenter.vocabulary('bar; star; stuff:sand'))
  expected, found = program(weights, other, more), read.call(weights, other, more)
  for name in ('mask_logits', 'class_logits', 'objectness', 'mask_hw'):
    # The same program, compiled once more.
    np.testing.assert_allclose(
      getattr(found, name), getattr(expected, name), atol=1e-4, err_msg=name
    )
