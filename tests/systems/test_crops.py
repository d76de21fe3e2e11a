"""What CLIP is shown of a mask, against the official crops and against Pillow."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskclip_jax.nn.clip import CLIP_SIZES, PIXEL_MEAN, PIXEL_STD
from maskclip_jax.systems.contract import Images
from maskclip_jax.systems.crops import CHUNK, CropRule, crop, encode_crops
from maskclip_jax.systems.ovseg.model import RULE


def side(size: int):
  """A CLIP of some input size."""
  return dataclasses.replace(CLIP_SIZES['vit_tiny'], image_size=size, patch_size=1)


STD = 255 * np.float32(PIXEL_STD)
MEAN = 255 * np.float32(PIXEL_MEAN)


@functools.partial(jax.jit, static_argnums=(3, 4))
def cut(pixels, image_hw, mask, size, rule):
  return crop(jnp.asarray(pixels, jnp.float32), image_hw, mask, side(size), rule)


def ovseg_crops():
  """Crops of the recorded masks that cover something, on a larger canvas."""
  g = golden.load('ovseg')
  pixels = np.zeros((160, 192, 3), np.uint8)
  pixels[:121, :150] = g['in/adapter/image_uint8']
  for mask, valid in zip(g['in/adapter/masks'], g['out/adapter/valid'], strict=True):
    if valid:
      canvas = np.zeros((160, 192), bool)
      canvas[:121, :150] = mask > 0.4
      yield cut(pixels, np.array([121, 150]), canvas, 224, RULE)


def test_crops_are_those_of_ovseg():
  g = golden.load('ovseg')
  masks = golden.unpack(g['out/adapter/region_masks_packed'][:, 0], 224)
  for i, found in enumerate(ovseg_crops()):
    np.testing.assert_array_equal(found.mask, masks[i])
    statistics = [found.pixels.mean(), found.pixels.std(ddof=1)]
    golden.assert_close(
      statistics, g[f'out/adapter/region{i}_mean_std'], name=f'statistics {i}'
    )
    if i == 0:
      every_second = np.moveaxis(found.pixels, -1, 0)[:, ::2, ::2]
      golden.assert_close(
        every_second, g['out/adapter/region0_every2'], name='the first crop'
      )


@pytest.mark.parametrize('square', ['pad', 'squash'])
@pytest.mark.parametrize(
  'box', [(10, 41, 20, 37), (0, 48, 0, 60), (47, 48, 59, 60), (0, 3, 5, 55)]
)
def test_the_baseline_crops_as_pillow_does(box, square):
  """A part of a photo, all of it, one pixel of it, and a flat strip of it."""
  photo = np.random.default_rng(0).integers(90, 160, (48, 60, 3), np.uint8)
  mask = np.zeros((48, 60), bool)
  y0, y1, x0, x1 = box
  mask[y0:y1, x0:x1] = True
  rule = CropRule(fill='black', square=square)
  ours = cut(photo, np.array([48, 60]), mask, 32, rule).pixels * STD + MEAN
  image = Image.fromarray(photo * mask[..., None]).crop((x0, y0, x1, y1))
  if square == 'pad':
    side = max(image.size)
    padded = Image.new('RGB', (side, side))
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    image = padded
  image = image.resize((32, 32), Image.Resampling.BICUBIC)
  # Pillow rounds to integers and clips after either axis, ours clips in the end.
  assert np.abs(np.asarray(ours) - np.asarray(image)).max() < 1.6


def test_unknown_choices_are_refused():
  for change, message in (
    ({'fill': 'red'}, 'fill must be'),
    ({'square': 'cut'}, 'square must be'),
    ({'box_scale': 0.5}, 'box_scale must be 1 or more'),
    ({'method': 'nearest'}, 'method must be'),
  ):
    with pytest.raises(ValueError, match=message):
      CropRule(**change)


def test_work_ends_with_the_masks_that_cover_something():
  """Three rounds for 2 + 25 masks of 40 in two photos: each its own, in any order."""
  rng = np.random.default_rng(1)
  photos = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
  images = Images.from_arrays(photos)
  masks = np.full((2, 40, 16, 16), -3.0, np.float32)
  covering = [rng.choice(40, n, replace=False) for n in (2, 25)]
  for row, chosen in zip(masks, covering, strict=True):
    for query in chosen:
      row[query, query % 8 : query % 8 + 6, query // 4 : query // 4 + 5] = 3.0
  rounds = []

  def encode(crops):
    jax.debug.callback(lambda: rounds.append(1))
    return jnp.concatenate([crops.pixels.mean((1, 2)), crops.pixels[:, 5, 7]], -1)

  def run(images, masks):
    hw = images.input_hw // 4
    return encode_crops(images, masks, hw, encode, clip=side(32), rule=RULE)

  found = jax.jit(run)(images, masks)
  jax.effects_barrier()
  assert len(rounds) == sum(-(-len(chosen) // CHUNK) for chosen in covering)
  for i, chosen in enumerate(covering):
    assert sorted(np.flatnonzero(~np.asarray(found.empty[i]))) == sorted(chosen)
  assert np.isfinite(found.vectors).all()
  assert found.vectors.shape == (2, 40, 6)
  # Each vector is the one of its own mask.
  alone = jax.jit(run)(Images.from_arrays(photos[1:]), masks[1:, covering[1][3:4]])
  np.testing.assert_allclose(
    alone.vectors[0, 0], found.vectors[1, covering[1][3]], atol=1e-5
  )
