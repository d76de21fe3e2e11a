"""Decoding records: photos, label maps of every kind, overlapping objects, damage."""

import dataclasses
import io

import numpy as np
import pytest
import toy_records as toy
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from maskclip_jax.data import records
from maskclip_jax.data.examples import (
  VOID,
  Example,
  RecordError,
  Region,
  Targets,
  decode,
  decode_ids,
  encode_id,
  row_map,
)
from maskclip_jax.data.transforms import polygons
from maskclip_jax.data.views import find_view

PANOPTIC = find_view('coco/panoptic')
INSTANCES = find_view('coco/instances80')


@pytest.fixture
def rng():
  return np.random.default_rng(0)


# Maps.


def test_ids_become_rows_and_the_rest_void(rng):
  ids = np.array([70003, 5, 16_000_000, 900])
  values = toy.tiles(rng, 40, 50, np.append(ids, [0, 123])).astype(np.int32)
  rows = row_map(values, ids)
  for row, value in enumerate(ids):
    np.testing.assert_array_equal(rows == row, values == value)
  np.testing.assert_array_equal(rows == VOID, ~np.isin(values, ids))
  assert (row_map(values, ids[:0]) == VOID).all()


@pytest.mark.parametrize('kind', ['rgb', 'uint16', 'uint8'])
def test_panoptic_records_of_every_encoding(rng, kind):
  ids = {'rgb': [3_000_000, 77, 300], 'uint16': [60000, 77, 300], 'uint8': [250, 77, 3]}
  values = toy.tiles(rng, 40, 50, np.array([*ids[kind], 0]))
  if kind != 'rgb':
    values = values.astype(kind)
  table = [toy.row(ids[kind][0], 2), toy.row(ids[kind][1], 200, area=7.0)]
  record = toy.record(
    toy.photo(rng, 40, 50), segments=toy.png(values), segments_info=records.table(table)
  )
  example = decode(record, PANOPTIC, crowd=False)
  # COCO's categories 2 and 200 are numbers 1 and 132 of the 133.
  assert example.classes.tolist() == [1, 132]
  assert example.areas.tolist() == [1, 7]
  np.testing.assert_array_equal(example.segments == 0, values == ids[kind][0])
  np.testing.assert_array_equal(example.segments == 1, values == ids[kind][1])
  assert (example.segments[values == ids[kind][2]] == VOID).all()


def test_crowds_are_void_in_training_and_kept_for_evaluation():
  record = toy.panoptic_record(3)
  training = decode(record, PANOPTIC, crowd=False)
  evaluation = decode(record, PANOPTIC, crowd=True)
  assert len(training.classes) == len(evaluation.classes) - 1
  assert evaluation.crowd.tolist() == [False] * 5 + [True]
  assert (training.segments[evaluation.segments == 5] == VOID).all()
  # Semantic maps from panoptic ones include crowds [masqclip 9.1].
  semantic = decode(record, find_view('coco/semantic'), crowd=False)
  np.testing.assert_array_equal(semantic.categories(), evaluation.categories())
  assert len(semantic.classes) == 133


@pytest.mark.parametrize(
  ('view', 'dtype', 'values', 'expected'),
  [
    ('ade20k_150/semantic', np.uint8, [0, 1, 150], [-1, 0, 149]),
    ('coco/stuff171', np.uint8, [0, 181, 255], [0, 170, -1]),
    ('pascal_context/459', np.uint16, [0, 1, 459], [-1, 0, 458]),
    ('ade20k_847/semantic', np.uint16, [65535, 2978, 0], [-1, 0, -1]),
    ('voc2012/21', np.uint8, [0, 20, 255], [0, 20, -1]),
  ],
)
def test_semantic_maps_become_class_numbers(rng, view, dtype, values, expected):
  stored = toy.tiles(rng, 24, 32, np.array(values)).astype(dtype)
  record = toy.record(toy.photo(rng, 24, 32), semantic=toy.png(stored))
  example = decode(record, find_view(view), crowd=False)
  for value, number in zip(values, expected, strict=True):
    assert (example.segments[stored == value] == number).all()
  np.testing.assert_array_equal(example.categories(), example.segments)


# Photos.


def test_photos_of_any_mode_become_rgb(rng):
  grey = Image.fromarray(toy.photo(rng, 20, 30)).convert('L')
  for picture in (grey, grey.convert('CMYK')):
    file = io.BytesIO()
    picture.save(file, 'JPEG')
    record = toy.record(file.getvalue(), size=(20, 30))
    example = decode(record, find_view('coco/captions'), crowd=False)
    expected = np.asarray(Image.open(file).convert('RGB'))
    np.testing.assert_array_equal(example.image, expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_turns_photo_and_labels_alike(rng, orientation):
  """A white rectangle stays under its label, its polygon and its bitmap."""
  image = np.zeros((48, 64, 3), np.uint8)
  image[8:24, 8:40] = 255
  values = (image[..., 0] > 0).astype(np.uint8) * 9
  outline = [8, 8, 40, 8, 40.0, 24, 8, 24]
  runs = coco_mask.encode(np.asfortranarray(values))
  rle = {'size': [48, 64], 'counts': runs['counts'].decode()}
  record = toy.record(
    toy.jpeg(image, orientation=orientation),
    size=(48, 64),
    segments=toy.png(values),
    segments_info=records.table([toy.row(9, 1)]),
    instances=toy.instances([outline], rle),
  )
  file = io.BytesIO(record['image'])
  upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
  panoptic = decode(record, PANOPTIC, crowd=False)
  np.testing.assert_array_equal(panoptic.image, upright)
  bright = upright[..., 0] > 127
  np.testing.assert_array_equal(panoptic.segments == 0, bright)
  drawn, bitmap = decode(record, INSTANCES, crowd=False).regions
  np.testing.assert_array_equal(bitmap.bitmap > 0, bright)
  packed = polygons.pack_polygons(drawn.polygons, bright.shape)
  np.testing.assert_array_equal(np.unpackbits(packed, axis=1) > 0, bright)


# Objects.


def test_objects_keep_outlines_and_bitmaps(rng):
  square = [2, 2, 12, 2, 12, 12, 2, 12]
  uncompressed = {'size': [24, 32], 'counts': [24 * 4, 24 * 2, 24 * 26]}
  record = toy.record(
    toy.photo(rng, 24, 32),
    instances=toy.instances(
      [square],
      [[1, 1, 2, 2]],
      uncompressed,
      [[3.5, 3.5, 9.5, 3.5, 9.5, 9.5]],
      uncompressed,
      category_ids=[1, 1, 90, 17, 1],
      crowd=(4,),
    ),
  )
  example = decode(record, INSTANCES, crowd=False)
  # The second has two points only; the last is a crowd.
  assert example.ids.tolist() == [100, 102, 103]
  assert example.classes.tolist() == [0, 79, 15]
  assert example.regions[0].polygons[0].dtype.kind == 'i'
  assert example.regions[2].polygons[0].dtype.kind == 'f'
  assert example.regions[1].bitmap.sum() == 48
  assert len(decode(record, INSTANCES, crowd=True).classes) == 4
  # A cat is one of the novel classes, person and toothbrush are base classes.
  for view, ids in (('coco/base48', [100, 102]), ('coco/novel17', [103])):
    assert decode(record, find_view(view), crowd=False).ids.tolist() == ids


# Damage: one line that names the record and what is wrong.


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'image': b''}, 'cannot identify image'),
    ({'image': b'not a photo'}, 'cannot identify image'),
    ({'segments': b''}, "no 'segments' labels"),
    ({'segments': b'\x89PNG'}, 'not a PNG'),
  ],
)
def test_damaged_records_are_named(change, message):
  record = {**toy.panoptic_record(7), **change}
  with pytest.raises(RecordError, match=message) as error:
    decode(record, PANOPTIC, crowd=False)
  assert '000000000007 (photos/000000000007.jpg)' in str(error.value)
  assert '\n' not in str(error.value)


def test_truncated_photos_and_labels_are_noticed():
  record = toy.panoptic_record(7)
  for field in ('image', 'segments'):
    cut = {**record, field: record[field][: len(record[field]) * 2 // 3]}
    with pytest.raises(RecordError, match='000000000007'):
      decode(cut, PANOPTIC, crowd=False)


def test_labels_of_another_size_are_noticed(rng):
  record = toy.panoptic_record(7, 60, 80)
  other = toy.panoptic_record(7, 80, 60)
  with pytest.raises(RecordError, match='80 x 60 pixels and the photo is 60 x 80'):
    decode({**record, 'segments': other['segments']}, PANOPTIC, crowd=False)
  wrong = toy.instances({'size': [9, 9], 'counts': [81]})
  with pytest.raises(RecordError, match='does not fit'):
    decode({**record, 'instances': wrong}, INSTANCES, crowd=False)


# Packing.


def map_example(rows=6, *, height=16, width=24):
  """Row k covers k + 1 columns."""
  segments = np.full((height, width), VOID, np.int16)
  left = 0
  for row in range(rows):
    segments[:, left : left + row + 1] = row
    left += row + 1
  return Example(
    np.zeros((height, width, 3), np.uint8),
    'x',
    segments,
    np.arange(rows, dtype=np.int32) + 40,
    np.zeros(rows, bool),
    np.arange(rows, dtype=np.int64) + 1000,
    np.arange(rows, dtype=np.float32),
  )


def test_a_table_is_padded_and_the_map_stays():
  example = map_example()
  arrays = Targets(10).arrays(example)
  np.testing.assert_array_equal(arrays['segments'], example.segments)
  assert arrays['class'].tolist() == [40, 41, 42, 43, 44, 45, 0, 0, 0, 0]
  assert arrays['valid'].tolist() == [True] * 6 + [False] * 4
  assert arrays['dropped'] == 0


def test_too_many_segments_keep_the_largest_in_order_and_count_the_rest():
  example = map_example()
  # Of equal size: the first stays.
  swapped = dataclasses.replace(example, segments=5 - example.segments)
  swapped.segments[example.segments == VOID] = VOID
  for case, kept in ((example, [3, 4, 5]), (swapped, [0, 1, 2])):
    arrays = Targets(3).arrays(case)
    assert arrays['segment_id'].tolist() == [1000 + row for row in kept]
    assert arrays['dropped'] == 3
    for new, old in enumerate(kept):
      np.testing.assert_array_equal(arrays['segments'] == new, case.segments == old)
    lost = ~np.isin(case.segments, kept)
    assert (arrays['segments'][lost] == VOID).all()


def test_empty_segments_stay_or_go():
  example = map_example()
  example.segments[np.isin(example.segments, (1, 3))] = VOID
  stay, go = Targets(8).arrays(example), Targets(8, drop_empty=True).arrays(example)
  assert stay['valid'].sum() == 6
  assert go['class'][go['valid']].tolist() == [40, 42, 44, 45]
  assert go['dropped'] == 0
  np.testing.assert_array_equal(go['segments'] == 1, example.segments == 2)


def test_overlapping_objects_become_packed_masks():
  squares = [
    np.array([[x, x], [x + 8, x], [x + 8, x + 8], [x, x + 8]], float) for x in (0, 4)
  ]
  bitmap = np.zeros((16, 24), np.uint8)
  bitmap[10:, 20:] = 1
  example = dataclasses.replace(
    map_example(5),
    segments=None,
    regions=(
      Region((squares[0],)),
      Region(),
      Region(bitmap=bitmap),
      Region(bitmap=bitmap * 0),
      Region((squares[1],)),
    ),
  )
  arrays = Targets(4, masks=True).arrays(example)
  assert arrays['masks'].shape == (4, 16, 3)
  assert arrays['class'].tolist() == [40, 42, 44, 0]
  masks = np.unpackbits(arrays['masks'], axis=-1)
  assert masks.sum(axis=(1, 2)).tolist() == [64, 24, 64, 0]
  assert (masks[0] & masks[2]).sum() == 16
  np.testing.assert_array_equal(masks[1], bitmap)
  few = Targets(2, masks=True).arrays(example)
  assert few['class'].tolist() == [40, 44]
  assert few['dropped'] == 1
  with pytest.raises(ValueError, match='masks=True'):
    Targets(4).arrays(example)


def test_an_image_without_segments():
  empty = map_example(0)
  for targets in (Targets(4), Targets(4, drop_empty=True)):
    arrays = targets.arrays(empty)
    assert not arrays['valid'].any()
    assert (arrays['segments'] == VOID).all()
    assert arrays['segments'].shape == (16, 24)
  arrays = Targets(4, masks=True).arrays(empty)
  assert not arrays['valid'].any()
  assert not arrays['masks'].any()
  assert arrays['masks'].shape == (4, 16, 3)
  assert 'segments' not in arrays


def test_image_ids_survive_the_batch():
  names = ['ADE_val_00000001', '000000000139', 'straße', '']
  assert decode_ids(np.stack([encode_id(name) for name in names])) == names
  with pytest.raises(RecordError, match='64 bytes'):
    encode_id('x' * 65)
