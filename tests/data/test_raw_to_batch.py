"""From the owners' files to batches: every view of every dataset, on generated data."""

import numpy as np
import pytest
import raw_ade20k
import raw_coco
import raw_pascal

from maskclip_jax.data.build import build
from maskclip_jax.data.examples import VOID
from maskclip_jax.data.pipeline import (
  DataConfig,
  DatasetConfig,
  train_stream,
)
from maskclip_jax.data.sources import open_source
from maskclip_jax.data.transforms import mappers
from maskclip_jax.data.views import find_view, view_names
from maskclip_jax.eval.examples import read_example

WRITERS = {
  'ade20k_150': raw_ade20k.write_150,
  'ade20k_847': raw_ade20k.write_847,
  'coco': raw_coco.write_coco,
  'pascal_context': raw_pascal.write_context,
  'voc2012': raw_pascal.write_voc,
}
LABELLED = [
  view
  for dataset in WRITERS
  for view in view_names(dataset)
  if find_view(view).kind != 'caption'
]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """All datasets, built from generated files."""
  root = tmp_path_factory.mktemp('datasets')
  for name, write in WRITERS.items():
    build(name, write(root / 'raw' / name), root / 'built')
  return str(root / 'built')


@pytest.mark.parametrize('view', LABELLED)
def test_every_view_trains(view, data_dir):
  config = DataConfig(
    (DatasetConfig(view, 'train', data_dir=data_dir),),
    batch_size=4,
    max_segments=12,
    overlapping=find_view(view).kind == 'instance',
  )
  mapper = mappers.LargeScaleJitter((64, 64), scale=(0.9, 1.1))
  with train_stream(config, mapper=mapper) as stream:
    batches = [next(stream) for _ in range(2)]
  classes = len(find_view(view).class_names())
  assert sum(batch['valid'].sum() for batch in batches) > 0
  for batch in batches:
    assert batch['image'].shape == (4, 64, 64, 3)
    assert not batch['dropped'].any()
    assert batch['class'].max() < classes
    if 'masks' in batch:
      areas = np.unpackbits(batch['masks'], axis=-1).sum(axis=(2, 3))
      assert ((areas > 0) <= batch['valid']).all()
    else:
      for segments, valid in zip(batch['segments'], batch['valid'], strict=True):
        present = np.unique(segments[segments != VOID])
        assert valid[present].all()


@pytest.mark.parametrize('view', LABELLED)
def test_every_view_is_evaluated_at_the_original_size(view, data_dir):
  kind, classes = find_view(view).kind, len(find_view(view).class_names())
  judged = 0
  for record in open_source(view, 'val', data_dir):
    example = read_example(record, {kind: find_view(view)})
    size = example.photo.shape[:2]
    assert example.image_id == record['image_id']
    # Some photos lie on their side until their EXIF orientation is applied.
    assert sorted(size) == sorted((record['height'], record['width']))
    truth = getattr(example.truth, kind)
    if kind == 'semantic':
      assert truth.shape == size
      assert VOID <= truth.min() <= truth.max() < classes
      judged += (truth != VOID).sum()
    else:
      assert ((truth.classes >= 0) & (truth.classes < classes)).all()
      judged += len(truth.classes)
  assert judged


@pytest.mark.parametrize('view', view_names('coco')[-2:])
def test_captions_train(view, data_dir):
  config = DataConfig(
    (DatasetConfig(view, 'train', data_dir=data_dir),),
    mapper='segclip',
    canvas=224,
    batch_size=2,
    caption_tokens=16,
  )
  with train_stream(config) as stream:
    batch = next(stream)
  assert batch['image'].shape == (2, 224, 224, 3)
  assert (batch['tokens'][:, :2] > 0).all()


def test_photos_are_grouped_by_the_index_without_reading_them(data_dir):
  config = DataConfig(
    (DatasetConfig('coco/panoptic', 'train'),),
    data_dir,
    canvas=32,
    batch_size=2,
    same_orientation=2,
  )
  with train_stream(config) as stream:
    assert next(stream)['image'].shape == (2, 32, 32, 3)
