"""Augmentations against the official mappers' recorded outputs, and their rules."""

import dataclasses
import json
import math

import cv2
import golden
import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from toy_records import photo, tiles

from maskclip_jax.data.examples import VOID, Example, Region, Targets, row_map
from maskclip_jax.data.transforms import geometric, mappers, polygons
from maskclip_jax.data.transforms.colour import ColourJitter
from maskclip_jax.data.transforms.geometric import (
  Crop,
  Flip,
  Pad,
  Resize,
  Window,
  apply,
)

GOLDEN = golden.load('augment')


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def example_of(rng, height=60, width=80, rows=5):
  segments = tiles(rng, height, width, np.arange(-1, rows)).astype(np.int16)
  return Example(
    photo(rng, height, width),
    'x',
    segments,
    np.arange(rows, dtype=np.int32) * 10,
    np.zeros(rows, bool),
    np.arange(rows, dtype=np.int64),
  )


# Recorded runs of the official mappers: images, masks and classes must be equal.


def recorded(kind):
  return sorted({k.split('/')[1] for k in GOLDEN if k.startswith(f'{kind}/')})


def draws(key):
  values = json.loads(str(GOLDEN[f'{key}/numpy_draws_json']))
  return [value for _, _, value in values]


def panoptic_input():
  table = GOLDEN['in/segments_id_category_iscrowd']
  ids, classes, crowd = table[table[:, 2] == 0].T
  segments = row_map(GOLDEN['in/pan_ids'].astype(np.int32), ids)
  return Example(
    GOLDEN['in/image'], 'x', segments, classes.astype(np.int32), crowd > 0, ids
  )


def assert_same_as_recorded(example, key):
  np.testing.assert_array_equal(
    example.image.transpose(2, 0, 1), GOLDEN[f'{key}/image']
  )
  np.testing.assert_array_equal(example.classes, GOLDEN[f'{key}/gt_classes'])
  masks = golden.unpack(GOLDEN[f'{key}/gt_masks_packed'], example.size[1])
  for row, mask in enumerate(masks):
    np.testing.assert_array_equal(example.segments == row, mask, err_msg=f'row {row}')


@pytest.mark.parametrize('case', recorded('panoptic_lsj'))
def test_large_scale_jitter_equals_the_official_mapper(case):
  flip, scale, position = draws(f'panoptic_lsj/{case}')
  example, mapper = panoptic_input(), mappers.LargeScaleJitter((128, 128))
  operations = mapper.operations(
    example.size, flip=flip < 0.5, scale=scale, position=position
  )
  assert_same_as_recorded(apply(example, operations), f'panoptic_lsj/{case}')


@pytest.mark.parametrize('case', recorded('masqclip_resize'))
def test_flip_and_squash_equals_the_official_mapper(case):
  (flip,) = draws(f'masqclip_resize/{case}')
  example, mapper = panoptic_input(), mappers.FlipAndSquash((96, 96))
  operations = mapper.operations(example.size, flip=flip < 0.5)
  assert_same_as_recorded(apply(example, operations), f'masqclip_resize/{case}')


def objects_through(flip: bool, scale: float, position: float):
  """The three recorded objects, jittered: (photo, rows of the table, their masks)."""
  outlines = json.loads(str(GOLDEN['in/polygons_json']))
  regions = tuple(
    Region(tuple(np.array(p).reshape(-1, 2) for p in outline)) for outline in outlines
  )
  count = len(regions)
  example = Example(
    GOLDEN['in/image'],
    'x',
    classes=np.arange(count, dtype=np.int32),
    crowd=np.zeros(count, bool),
    ids=np.arange(count, dtype=np.int64),
    areas=np.ones(count, np.float32),
    regions=regions,
  )
  operations = mappers.LargeScaleJitter((128, 128)).operations(
    example.size, flip=flip, scale=scale, position=position
  )
  example = apply(example, operations)
  table = Targets(count, masks=True).arrays(example)
  kept = table['valid']
  return example.image, table['class'][kept], table['masks'][kept]


@pytest.mark.parametrize('case', recorded('instance_lsj'))
def test_polygons_are_cropped_and_drawn_as_the_official_mapper_does(case):
  """The third object, a small one in a corner, is cut off or too small in each."""
  key = f'instance_lsj/{case}'
  flip, scale, position = draws(key)
  image, classes, masks = objects_through(flip < 0.5, scale, position)
  np.testing.assert_array_equal(image.transpose(2, 0, 1), GOLDEN[f'{key}/image'])
  np.testing.assert_array_equal(classes, GOLDEN[f'{key}/gt_classes'])
  np.testing.assert_array_equal(masks, GOLDEN[f'{key}/gt_masks_packed'])


def test_a_small_object_stays_where_the_window_holds_it():
  _, classes, masks = objects_through(flip=False, scale=1.0, position=0.0)
  assert classes.tolist() == [0, 1, 2]
  small = golden.unpack(masks[2], 128)
  # At this scale a pixel of 160 x 107 becomes 0.8.
  assert small[:4, :4].all()
  assert small.sum() == 16


# Resampling.


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(
  'size', [(33, 190), (150, 40), (60, 80), (7, 9), (135, 180), (60, 190), (7, 70)]
)
def test_a_window_of_a_resized_photo_equals_pillows_crop(rng, size, method):
  image = photo(rng, 60, 80)
  whole = Image.fromarray(image).resize(
    size[::-1], getattr(Image.Resampling, method.upper())
  )
  window = Window(size[0] // 3, size[1] // 4, size[0] // 2, size[1] // 2)
  np.testing.assert_array_equal(
    geometric.resize_image(image, size, window, method),
    np.asarray(whole)[window.rows, window.columns],
  )
  np.testing.assert_array_equal(
    geometric.resize_image(image, size, method=method), np.asarray(whole)
  )


def test_nearest_neighbour_is_pillows_at_any_size(rng):
  for length, resized in rng.integers(1, 2000, (300, 2)):
    line = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    expected = np.asarray(line.resize((int(resized), 1), Image.Resampling.NEAREST))
    index = geometric.nearest_index(int(length), int(resized), 'pillow')
    np.testing.assert_array_equal(index, expected[0])


def test_nearest_neighbour_of_torch_rounds_down():
  np.testing.assert_array_equal(geometric.nearest_index(5, 3, 'torch'), [0, 1, 3])
  np.testing.assert_array_equal(geometric.nearest_index(3, 5, 'torch'), [0, 0, 1, 1, 2])
  assert geometric.nearest_index(5, 3, 'pillow').tolist() == [0, 2, 4]
  # Recorded from PyTorch on float64 labels: float32 arithmetic gives 119 and 239 at the
  # first two places, exact arithmetic 119 and 199 at the outer two.
  index = geometric.nearest_index(480, 804, 'torch')
  assert index[[201, 402, 335]].tolist() == [120, 240, 200]


def test_a_window_of_labels_equals_the_crop(rng):
  labels = rng.integers(0, 50, (30, 40)).astype(np.int16)
  window = Window(5, 7, 20, 31)
  for rule in ('pillow', 'torch'):
    whole = geometric.resize_labels(labels, (71, 64), rule=rule)
    part = geometric.resize_labels(labels, (71, 64), window, rule)
    np.testing.assert_array_equal(part, whole[window.rows, window.columns])


# Operations act alike on photo, map and polygons.


def test_photo_map_and_polygons_stay_aligned(rng):
  """One bright rectangle, seen by all three, through every kind of operation."""
  image = np.zeros((64, 96, 3), np.uint8)
  image[16:48, 24:72] = 255
  segments = np.where(image[..., 0] > 0, 0, VOID).astype(np.int16)
  outline = np.array([[24.0, 16], [72, 16], [72, 48], [24, 48]])
  example = Example(
    image, 'x', segments, regions=(Region((outline,)), Region(bitmap=segments + 1))
  )
  operations = (
    Flip(96),
    Resize((64, 96), (128, 192), Window(8, 20, 110, 150)),
    Crop(Window(4, 10, 100, 130)),
    Pad((120, 160), 0),
  )
  result = apply(example, operations)
  bright = result.image[..., 0] > 127
  np.testing.assert_array_equal(result.segments == 0, bright)
  np.testing.assert_array_equal(result.regions[1].bitmap > 0, bright)
  drawn = np.unpackbits(
    polygons.pack_polygons(result.regions[0].polygons, (120, 160)), axis=1
  )
  # COCO's rasteriser may put an edge one pixel further.
  assert (drawn != bright).sum() <= np.ptp(np.argwhere(bright), axis=0).sum() * 2
  assert bright.sum() > 4000


def test_flipping_twice_changes_nothing(rng):
  example = example_of(rng)
  twice = apply(example, (Flip(80), Flip(80)))
  np.testing.assert_array_equal(twice.image, example.image)
  np.testing.assert_array_equal(twice.segments, example.segments)


def test_padding_is_grey_and_void(rng):
  padded = apply(example_of(rng), (Pad((70, 100), 128),))
  assert (padded.image[60:] == 128).all()
  assert (padded.image[:, 80:] == 128).all()
  assert (padded.segments[60:] == VOID).all()


# Polygons.


def test_clipping_keeps_what_lies_inside():
  square = np.array([[-10.0, 5], [10, 5], [10, 15], [-10, 15]])
  clipped = polygons.clip_polygon(square, Window(10, 0, 100, 100))
  assert clipped.min(axis=0).tolist() == [0, 0]
  assert clipped.max(axis=0).tolist() == [10, 5]
  assert not len(polygons.clip_polygon(square, Window(50, 50, 10, 10)))
  # Touching along an edge leaves nothing.
  assert not len(polygons.clip_polygon(square, Window(0, 10, 10, 10)))


def test_a_clipped_outline_draws_as_the_crop_of_the_drawing(rng):
  """Stars, which a border cuts into several pieces."""
  for _ in range(30):
    angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
    radius = rng.uniform(8, 45, 14)[:, None]
    star = 50 + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    window = Window(30, 25, 40, 48)
    clipped = polygons.clip_polygon(star, window)
    drawn = np.unpackbits(polygons.pack_polygons([clipped], (40, 48)), axis=1)
    runs = coco_mask.frPyObjects([star.reshape(-1)], 100, 100)
    whole = coco_mask.decode(coco_mask.merge(runs))[window.rows, window.columns]
    # New corners at the border are rounded anew, which moves single edge pixels.
    assert (drawn != whole).mean() < 0.02


def test_packing_in_the_box_equals_drawing_in_the_whole_image(rng):
  for _ in range(50):
    points = rng.uniform(0, (90, 60), (rng.integers(3, 9), 2))
    runs = coco_mask.frPyObjects([points.reshape(-1)], 60, 90)
    expected = np.packbits(coco_mask.decode(coco_mask.merge(runs)), axis=1)
    np.testing.assert_array_equal(polygons.pack_polygons([points], (60, 90)), expected)


def test_slivers_have_no_box():
  assert not polygons.has_box([])
  assert not polygons.has_box([np.array([[0.0, 0], [0, 9], [5e-6, 9]])])
  assert polygons.has_box([np.array([[0.0, 0], [0, 9], [1, 9]])])


# Colour.


def test_each_colour_step_does_what_it_says(rng):
  image = photo(rng, 20, 30)
  brighter = ColourJitter(brightness=20.5).image(image)
  np.testing.assert_array_equal(
    brighter, np.clip(image + 20.5, 0, 255).astype(np.uint8)
  )
  contrasted = ColourJitter(contrast=0.7).image(image)
  expected = (image.astype(np.float32) * np.float32(0.7)).astype(np.uint8)
  np.testing.assert_array_equal(contrasted, expected)
  np.testing.assert_array_equal(ColourJitter().image(image), image)


def test_saturation_and_hue_work_in_opencvs_hsv(rng):
  # The official code works on BGR; HSV does not see the order of the channels.
  image = photo(rng, 20, 30)
  hsv = cv2.cvtColor(image[..., ::-1].copy(), cv2.COLOR_BGR2HSV)
  turned = hsv.copy()
  turned[..., 0] = (turned[..., 0].astype(int) - 17) % 180
  np.testing.assert_array_equal(
    ColourJitter(hue=-17).image(image)[..., ::-1],
    cv2.cvtColor(turned, cv2.COLOR_HSV2BGR),
  )
  paler = hsv.copy()
  paler[..., 1] = (paler[..., 1] * np.float32(0.5)).astype(np.uint8)
  np.testing.assert_array_equal(
    ColourJitter(saturation=0.5).image(image)[..., ::-1],
    cv2.cvtColor(paler, cv2.COLOR_HSV2BGR),
  )


def test_contrast_comes_before_or_after_as_drawn(rng):
  image = photo(rng, 20, 30)
  after = ColourJitter(contrast=1.5, saturation=1.4, contrast_first=False)
  before = dataclasses.replace(after, contrast_first=True)
  contrast, saturation = ColourJitter(contrast=1.5), ColourJitter(saturation=1.4)
  np.testing.assert_array_equal(
    before.image(image), saturation.image(contrast.image(image))
  )
  np.testing.assert_array_equal(
    after.image(image), contrast.image(saturation.image(image))
  )
  assert (before.image(image) != after.image(image)).any()


def test_colour_draws_have_the_published_ranges(rng):
  jitters = [ColourJitter.draw(rng) for _ in range(2000)]
  for name, low, high in (
    ('brightness', -32, 32),
    ('contrast', 0.5, 1.5),
    ('saturation', 0.5, 1.5),
    ('hue', -18, 18),
  ):
    values = [getattr(j, name) for j in jitters]
    drawn = np.array([v for v in values if v is not None])
    assert 0.45 < len(drawn) / len(values) < 0.55
    assert low <= drawn.min() < low + 0.05 * (high - low)
    assert high >= drawn.max() > high - 0.05 * (high - low)
  assert 0.45 < np.mean([j.contrast_first for j in jitters]) < 0.55


# Mappers.


@pytest.mark.parametrize(
  'name',
  [
    'coco_panoptic',
    'coco_instance',
    'ade20k_panoptic',
    'ade20k_semantic',
    'ovseg_swin_b',
    'ovseg_r101c',
    'segclip',
    'ovseg_clip',
    'miniature',
    'miniature_clip',
  ],
)
@pytest.mark.parametrize('profile', ['released', 'paper'])
@pytest.mark.parametrize('size', [(60, 80), (97, 31), (16, 300)])
def test_every_mapper_fills_its_canvas(rng, name, profile, size):
  mapper, example = mappers.named(name, profile), example_of(rng, *size)
  seen = set()
  for seed in range(5):
    operations = mapper.draw(np.random.default_rng(seed), example)
    again = mapper.draw(np.random.default_rng(seed), example)
    assert operations == again
    seen.add(operations)
    result = apply(example, operations)
    assert result.size == result.segments.shape == mapper.canvas
    assert set(np.unique(result.segments)) <= set(range(-1, 5))
  # A narrow strip leaves one crop of an allowed ratio.
  assert len(seen) > 1 or isinstance(mapper, mappers.RandomResizedCrop)


def test_profiles_differ_where_paper_and_code_do():
  assert isinstance(mappers.named('coco_panoptic'), mappers.FlipAndSquash)
  paper = mappers.named('coco_panoptic', 'paper')
  assert paper == mappers.named('coco_instance') == mappers.LargeScaleJitter()
  assert mappers.named('ovseg_r101c').short_edges == (800,)
  assert mappers.named('ovseg_r101c', 'paper').short_edges[1] == 307
  assert mappers.named('ade20k_panoptic').short_edges[::15] == (320, 1280)
  with pytest.raises(ValueError, match="no mapper is called 'coco'"):
    mappers.named('coco')
  with pytest.raises(ValueError, match='released'):
    mappers.named('coco_panoptic', 'official')


def test_jitter_scales_within_its_range_and_crops_both_axes_alike(rng):
  mapper, example = mappers.LargeScaleJitter((100, 100)), example_of(rng)
  for _ in range(200):
    resize = mapper.draw(rng, example)[-2]
    longest = max(resize.size)
    assert 10 <= longest <= 200
    assert resize.window.height == min(resize.size[0], 100)
    spare = [max(side - 100, 0) for side in resize.size]
    if min(spare) > 20:
      ratio = [resize.window.top / spare[0], resize.window.left / spare[1]]
      assert abs(ratio[0] - ratio[1]) < 1 / min(spare)


def test_a_category_cap_rejects_uniform_crops(rng):
  """Left half one class, right half two: only the right half is mixed."""
  example = example_of(rng, 64, 128, rows=3)
  segments = np.zeros((64, 128), np.int16)
  segments[:, 64:] = 1 + (np.arange(64) // 4 % 2)[:, None]
  example = dataclasses.replace(example, segments=segments)
  mapper = mappers.ResizeCropColour((16, 16), (64,), 1000, max_category_area=0.75)
  free = dataclasses.replace(mapper, max_category_area=1.0)

  def uniform(mapper):
    count = 0
    for seed in range(60):
      operations = mapper.draw(np.random.default_rng(seed), example)
      count += len(np.unique(apply(example, operations).segments)) == 1
    return count

  assert uniform(free) > 15
  # Ten attempts fail together about once in 2 ** 10.
  assert uniform(mapper) <= 2


def test_void_does_not_count_towards_the_cap(rng):
  example = example_of(rng, 32, 32, rows=2)
  segments = np.full((32, 32), VOID, np.int16)
  segments[0, :2] = (0, 1)
  example = dataclasses.replace(example, segments=segments)
  mapper = mappers.ResizeCropColour((32, 32), (32,), 1000, max_category_area=0.75)
  assert mapper._is_mixed(example.categories())
  assert not mapper._is_mixed(np.where(segments == 1, VOID, segments))


def test_random_resized_crop_keeps_area_and_ratio(rng):
  mapper, example = mappers.RandomResizedCrop((32, 32)), example_of(rng, 90, 120)
  for _ in range(200):
    crop, resize = mapper.draw(rng, example)
    share = crop.window.height * crop.window.width / (90 * 120)
    # Sides are rounded to pixels.
    assert 0.48 < share < 1.02
    assert (
      abs(math.log(crop.window.width / crop.window.height)) < math.log(4 / 3) + 0.03
    )
    assert resize.size == (32, 32)
  # A strip of which no half has an allowed ratio: the central square-ish part.
  (crop, _) = mapper.draw(rng, example_of(rng, 10, 200))
  assert crop.window == Window(0, 93, 10, 13)


def test_random_resized_crop_flips_when_asked(rng):
  mapper = mappers.RandomResizedCrop((8, 8), flip=0.5)
  example = example_of(rng, 90, 120)
  drawn = [mapper.draw(rng, example) for _ in range(50)]
  assert {len(operations) for operations in drawn} == {2, 3}
  mirrored = next(operations for operations in drawn if len(operations) == 3)
  plain, flipped = (apply(example, o).image for o in (mirrored[:2], mirrored))
  np.testing.assert_array_equal(flipped, plain[:, ::-1])


def test_photos_are_not_changed_in_place(rng):
  example = example_of(rng)
  image, segments = example.image.copy(), example.segments.copy()
  for name in ('coco_instance', 'ade20k_panoptic'):
    mapper = dataclasses.replace(mappers.named(name), canvas=(64, 64))
    apply(example, mapper.draw(rng, example))
  np.testing.assert_array_equal(example.image, image)
  np.testing.assert_array_equal(example.segments, segments)
  mirrored = ImageOps.mirror(Image.fromarray(image))
  np.testing.assert_array_equal(apply(example, (Flip(80),)).image, np.asarray(mirrored))
