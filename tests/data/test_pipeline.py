"""Streams: the same batches bit for bit, whatever the hosts, workers and resumes."""

import dataclasses
import logging
import pathlib

import numpy as np
import pytest
import toy_records as toy
from absl import flags

from maskclip_jax.data.examples import RecordError, decode, decode_ids
from maskclip_jax.data.grouping import grouped_order, portraits
from maskclip_jax.data.pipeline import (
  DataConfig,
  DatasetConfig,
  train_stream,
)
from maskclip_jax.data.transforms import mappers
from maskclip_jax.data.transforms.geometric import apply
from maskclip_jax.data.views import find_view
from maskclip_jax.text import tokenizer

COCO = DatasetConfig('coco/panoptic')
CONFIG = DataConfig((COCO,), batch_size=4, max_segments=8, seed=3)
MAPPER = mappers.LargeScaleJitter((64, 64))


def read(config, count, *, records=10, source=None, mapper=MAPPER, **options):
  """The first batches of a training stream over toy records."""
  source = source or toy.Records(records)
  with train_stream(config, sources=[source], mapper=mapper, **options) as stream:
    return [next(stream) for _ in range(count)]


def assert_equal(ours, expected):
  assert ours.keys() == expected.keys()
  for key, value in expected.items():
    assert ours[key].dtype == value.dtype, key
    np.testing.assert_array_equal(ours[key], value, err_msg=key)


def join(parts):
  return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@pytest.fixture(scope='module')
def reference():
  """Seven batches of four: nearly three epochs of ten records."""
  return read(CONFIG, 7)


# Contents.


def test_a_batch_is_arrays_of_fixed_shape(reference):
  shapes = {
    'image': ((4, 64, 64, 3), np.uint8),
    'image_hw': ((4, 2), np.int32),
    'image_id': ((4, 64), np.uint8),
    'source': ((4,), np.int32),
    'replaced': ((4,), np.bool_),
    'segments': ((4, 64, 64), np.int16),
    'class': ((4, 8), np.int32),
    'valid': ((4, 8), np.bool_),
    'crowd': ((4, 8), np.bool_),
    'segment_id': ((4, 8), np.int64),
    'area': ((4, 8), np.float32),
    'dropped': ((4,), np.int32),
  }
  for batch in reference:
    assert {k: (v.shape, v.dtype.type) for k, v in batch.items()} == shapes
    assert batch['segments'].max() < 8
    assert batch['valid'].sum() == 4 * 5
    assert not batch['crowd'].any()


def test_every_record_comes_once_an_epoch_and_each_time_anew(reference):
  names = [name for batch in reference for name in decode_ids(batch['image_id'])]
  epochs = names[:10], names[10:20]
  assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(set(names))
  assert epochs[0] != epochs[1]
  images = join(reference)['image'][:20]
  first, second = (
    images[names[start : start + 10].index(names[0]) + start] for start in (0, 10)
  )
  assert (first != second).any()


def test_what_is_read_is_what_the_mapper_makes():
  mapper = mappers.FlipAndSquash((64, 64), flip=1.0)
  batch = read(CONFIG, 1, mapper=mapper)[0]
  for row, name in enumerate(decode_ids(batch['image_id'])):
    record = toy.Records(10)[int(name)]
    example = decode(record, find_view('coco/panoptic'), crowd=False)
    expected = apply(example, mapper.operations(example.size, flip=True))
    np.testing.assert_array_equal(batch['image'][row], expected.image)
    np.testing.assert_array_equal(batch['segments'][row], expected.segments)
    np.testing.assert_array_equal(batch['segment_id'][row][:5], example.ids)
    np.testing.assert_array_equal(batch['class'][row][:5], example.classes)


def test_the_seed_decides(reference):
  other = read(dataclasses.replace(CONFIG, seed=4), 1)[0]
  assert (other['image'] != reference[0]['image']).any()


# The same batches, bit for bit.


@pytest.mark.parametrize('step', range(1, 7))
def test_a_resumed_stream_continues_where_it_was(reference, step):
  for ours, expected in zip(
    read(CONFIG, 7 - step, step=step), reference[step:], strict=True
  ):
    assert_equal(ours, expected)


@pytest.mark.parametrize('step', [0, 3])
@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_share_the_rows_of_a_batch_in_order(reference, hosts, step):
  parts = [read(CONFIG, 3, step=step, host=host, hosts=hosts) for host in range(hosts)]
  for number, expected in enumerate(reference[step : step + 3]):
    assert_equal(join([part[number] for part in parts]), expected)


@pytest.mark.parametrize('threads', [0, 1, 5])
def test_threads_change_nothing(reference, threads):
  config = dataclasses.replace(CONFIG, threads=threads)
  for ours, expected in zip(read(config, 4), reference, strict=False):
    assert_equal(ours, expected)


@pytest.mark.slow
def test_worker_processes_change_nothing(reference):
  config = dataclasses.replace(CONFIG, workers=2)
  batches = read(config, 4, step=3, host=1, hosts=2)
  for ours, expected in zip(batches, reference[3:], strict=False):
    assert_equal(ours, {key: value[2:] for key, value in expected.items()})


def test_workers_without_parsed_flags_are_refused_in_one_line():
  flags.FLAGS.unparse_flags()
  try:
    with pytest.raises(RuntimeError, match='absl'):
      read(dataclasses.replace(CONFIG, workers=1), 1)
  finally:
    flags.FLAGS.mark_as_parsed()


def test_a_closed_stream_is_empty():
  stream = train_stream(CONFIG, sources=[toy.Records(10)], mapper=MAPPER)
  next(stream)
  stream.close()
  stream.close()
  assert list(stream) == []


def resident_megabytes():
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return int(next(li for li in lines if li.startswith('VmRSS')).split()[1]) / 1024


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/status').exists(), reason='needs Linux'
)
def test_memory_stays_flat():
  records = [toy.Records(10)[index] for index in range(10)]
  mapper = mappers.LargeScaleJitter((128, 128))
  config = dataclasses.replace(CONFIG, threads=0)
  with train_stream(config, sources=[records], mapper=mapper) as stream:
    for _ in range(50):
      next(stream)
    before = resident_megabytes()
    for _ in range(200):
      next(stream)
  # Keeping one photo of each of the 800 examples would take 38 MB.
  assert resident_megabytes() - before < 20


# Mixtures.


def test_mixtures_keep_their_shares_and_resume():
  datasets = (
    dataclasses.replace(COCO, weight=3.0),
    dataclasses.replace(COCO, weight=1.0),
  )
  config = dataclasses.replace(CONFIG, datasets=datasets, batch_size=8)
  sources = [toy.Records(10), toy.Records(10)]
  with train_stream(config, sources=sources, mapper=MAPPER) as stream:
    batches = [next(stream) for _ in range(5)]
  drawn = np.concatenate([batch['source'] for batch in batches])
  assert (drawn == 1).sum() == 10
  with train_stream(config, 3, sources=sources, mapper=MAPPER) as stream:
    assert_equal(next(stream), batches[3])
  # The two parts hold the same records, and must not be shuffled alike.
  joined = join(batches)
  names = np.array(decode_ids(joined['image_id']))
  assert names[drawn == 0][:10].tolist() != names[drawn == 1].tolist()


# Orientation.


def test_groups_share_an_orientation_and_resume(reference):
  config = dataclasses.replace(CONFIG, same_orientation=2)
  batches = read(config, 6)
  source = toy.Records(10)
  portrait = portraits(source)
  assert portrait.tolist() == [i % 3 > 0 for i in range(10)]
  for batch in batches:
    kinds = portrait[[int(name) for name in decode_ids(batch['image_id'])]]
    assert (kinds[::2] == kinds[1::2]).all()
  assert_equal(read(config, 1, step=4)[0], batches[4])
  halves = [read(config, 1, step=2, host=host, hosts=2)[0] for host in (0, 1)]
  assert_equal(join(halves), batches[2])
  with pytest.raises(ValueError, match='do not divide'):
    train_stream(dataclasses.replace(config, same_orientation=3), sources=[source])


def test_a_grouped_epoch_is_a_permutation_but_for_the_left_over():
  portrait = np.arange(101) % 3 == 0
  for epoch in range(5):
    order = grouped_order(portrait, 4, 0, epoch)
    assert len(order) == len(set(order.tolist())) == 64 + 32
    groups = portrait[order].reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
  assert (grouped_order(portrait, 4, 0, 0) != grouped_order(portrait, 4, 0, 1)).any()


def test_orientations_are_taken_from_the_sizes_if_the_source_knows_them():
  class Sized:
    sizes = np.array([[3, 4], [4, 3], [5, 5]])

    def __len__(self):
      return 3

  assert portraits(Sized()).tolist() == [False, True, True]


# Damage.


def test_a_damaged_record_stops_the_run_by_name():
  with pytest.raises(RecordError, match=r"000000000006.*on_error='skip'"):
    read(CONFIG, 3, source=toy.Records(10, damaged=(6,)))


def test_a_damaged_record_is_replaced_by_the_next_and_marked(reference, caplog):
  config = dataclasses.replace(CONFIG, on_error='skip')
  source = toy.Records(10, damaged=(6, 7))
  with caplog.at_level(logging.WARNING):
    batches = read(config, 7, source=source)
  assert {'000000000006', '000000000007'} == {
    name
    for name in ('000000000006', '000000000007', '000000000008')
    if f'record {name}' in caplog.text
  }
  for ours, expected in zip(batches, reference, strict=True):
    bad = np.isin(decode_ids(expected['image_id']), ['000000000006', '000000000007'])
    np.testing.assert_array_equal(ours['replaced'], bad)
    assert set(np.array(decode_ids(ours['image_id']))[bad]) <= {'000000000008'}
    for key in ours:
      np.testing.assert_array_equal(ours[key][~bad], expected[key][~bad])
  assert_equal(read(config, 1, source=source, step=5)[0], batches[5])


def test_damage_everywhere_is_no_accident():
  config = dataclasses.replace(CONFIG, on_error='skip')
  with pytest.raises(RecordError, match='3 records in a row'):
    read(config, 1, source=toy.Records(3, damaged=(0, 1, 2)))


class Unreadable(toy.Records):
  def __getitem__(self, index):
    raise RuntimeError('CRC mismatch')


def test_a_record_that_cannot_even_be_fetched_is_named_by_its_number():
  with pytest.raises(RecordError, match=r'coco/panoptic: record number \d: CRC'):
    read(CONFIG, 1, source=Unreadable(5))


# Configurations that cannot work.


@pytest.mark.parametrize(
  ('change', 'options', 'message'),
  [
    ({'batch_size': 3}, {'hosts': 2}, 'cannot be shared by 2 hosts'),
    ({}, {'host': 2, 'hosts': 2}, 'cannot be shared'),
    ({}, {'sources': [toy.Records(0)]}, 'has no examples'),
  ],
)
def test_streams_that_cannot_be_are_refused(change, options, message):
  options = {'sources': [toy.Records(4)], **options}
  with pytest.raises(ValueError, match=message):
    train_stream(dataclasses.replace(CONFIG, **change), **options)


@pytest.mark.parametrize(
  'change',
  [
    {'datasets': ()},
    {'on_error': 'ignore'},
    {'datasets': (COCO, COCO), 'same_orientation': 2},
  ],
)
def test_configurations_that_cannot_be_are_refused(change):
  with pytest.raises(ValueError, match=r'dataset|on_error'):
    dataclasses.replace(CONFIG, **change)


# Captions and objects.


def test_captions_become_tokens_of_one_of_them():
  config = dataclasses.replace(
    CONFIG, datasets=(DatasetConfig('coco/captions'),), caption_tokens=6
  )
  batches = join(read(config, 8, mapper=mappers.named('segclip')))
  assert 'segments' not in batches
  assert batches['image'].shape == (32, 224, 224, 3)
  first, second = set(), set()
  for tokens, name in zip(
    batches['tokens'], decode_ids(batches['image_id']), strict=True
  ):
    captions = (f'photo {int(name)}', f'number {int(name)} again')
    expected = tokenizer.tokenize(captions, 6).tolist()
    assert tokens.tolist() in expected
    (first if tokens.tolist() == expected[0] else second).add(name)
  assert first
  assert second


@dataclasses.dataclass
class Objects:
  """Two overlapping squares in each photo."""

  def __len__(self):
    return 4

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    squares = [[[x, x, x + 30, x, x + 30, x + 30, x, x + 30]] for x in (5, 15)]
    return toy.record(
      toy.photo(rng, 60, 60), str(index), instances=toy.instances(*squares)
    )


def test_overlapping_objects_travel_as_packed_masks():
  config = dataclasses.replace(
    CONFIG,
    datasets=(DatasetConfig('coco/instances80'),),
    max_segments=3,
    overlapping=True,
  )
  batch = read(config, 1, source=Objects(), mapper=mappers.FlipAndSquash((60, 60)))[0]
  assert batch['masks'].shape == (4, 3, 60, 8)
  masks = np.unpackbits(batch['masks'], axis=-1)
  assert masks.sum(axis=(2, 3)).tolist() == [[900, 900, 0]] * 4
  assert (masks[:, 0] & masks[:, 1]).sum(axis=(1, 2)).tolist() == [400] * 4
