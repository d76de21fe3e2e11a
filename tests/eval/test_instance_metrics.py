"""COCO AP against detectron2's recorded numbers, and over groups, parts and ties."""

import json

import golden
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskclip_jax.eval.metrics.instance import Detections, InstanceMetrics, TrueObjects

# The same quotients in double precision.
EXACT = 1e-9
CLASSES = ('person', 'dog', 'grass', 'sky', 'dining table')


def encode(mask):
  return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def recorded():
  g = golden.load('evaluators')
  dataset = json.loads(str(g['coco/in/dataset_json']))
  index = {int(c): i for i, c in enumerate(g['coco/in/category_ids'])}
  for i, image in enumerate(dataset['images']):
    rows = [a for a in dataset['annotations'] if a['image_id'] == image['id']]
    truth = TrueObjects(
      [a['segmentation'] for a in rows],
      np.array([index[a['category_id']] for a in rows], int),
      np.array([a['iscrowd'] for a in rows], bool),
      np.array([a['area'] for a in rows], float),
    )
    packed = g[f'coco/in/img{i}/pred_masks_packed']
    masks = golden.unpack(packed, image['width'])
    predicted = Detections(
      [encode(mask) for mask in masks],
      g[f'coco/in/img{i}/pred_classes'],
      g[f'coco/in/img{i}/pred_scores'],
    )
    yield str(image['id']), predicted, truth


def accumulate(images, classes=5, **kwargs):
  metrics = InstanceMetrics(classes, **kwargs)
  for image in images:
    metrics.add(*image)
  return metrics


def test_equals_detectron2():
  g = golden.load('evaluators')
  result = accumulate(recorded()).result()
  for name in ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'):
    official = g[f'metrics/coco/segm_fast/segm/{name}']
    assert result.values[name] == pytest.approx(float(official), abs=EXACT), name
  for i, name in enumerate(CLASSES):
    official = g[f'metrics/coco/segm_fast/segm/AP-{name}']
    assert result.per_class['AP'][i] == pytest.approx(float(official), abs=EXACT), name


def test_merged_parts_are_the_whole_in_any_order():
  # Scores have ties between images: their order is that of the image numbers.
  images = list(recorded())
  whole = accumulate(images).result()
  for parts in ([images[3:], images[:3]], [images[::-1]], [[x] for x in images[::2]]):
    metrics = InstanceMetrics(5)
    for part in parts:
      metrics.merge(accumulate(part).state())
    if sum(map(len, parts)) == len(images):
      assert metrics.result().values == whole.values
    else:
      assert metrics.result().values != whole.values


def test_image_numbers_are_sorted_as_numbers():
  image = np.ones((4, 4), bool)
  right = [encode(image)], np.array([0]), np.array([0.5])
  nothing = TrueObjects([], np.zeros(0, int), np.zeros(0, bool), np.zeros(0))
  truth = TrueObjects(
    [encode(image)], np.array([0]), np.array([False]), np.array([16.0])
  )
  # Equal scores: the hit of image 9 comes before the error of image 10.
  metrics = InstanceMetrics(1)
  metrics.add('10', Detections(*right), nothing)
  metrics.add('9', Detections(*right), truth)
  assert metrics.result().values['AP'] == pytest.approx(100)


def test_groups_average_the_precision_of_their_classes():
  groups = {'base': (0, 1, 2), 'novel': (3, 4), 'all': tuple(range(5))}
  values = accumulate(recorded(), groups=groups).result().values
  per_class = accumulate(recorded()).result().per_class
  assert values['AP50[all]'] == pytest.approx(values['AP50'], abs=EXACT)
  for group, members in groups.items():
    for name in ('AP', 'AP50', 'AP75'):
      expected = per_class[name][list(members)].mean()
      assert values[f'{name}[{group}]'] == pytest.approx(expected, abs=EXACT)


def test_a_class_without_a_true_object_does_not_count():
  values = accumulate(recorded(), classes=7).result()
  assert values.values['AP'] == pytest.approx(
    accumulate(recorded()).result().values['AP'], abs=EXACT
  )
  assert np.isnan(values.per_class['AP'][5:]).all()


def test_crowds_are_not_judged():
  square = np.zeros((8, 8), bool)
  square[:4, :4] = True
  crowd = TrueObjects(
    [encode(square), encode(~square)],
    np.array([0, 0]),
    np.array([False, True]),
    np.array([16.0, 48.0]),
  )
  inside = ~square & (np.arange(8) < 6)
  found = Detections(
    [encode(inside), encode(square)], np.array([0, 0]), np.array([0.9, 0.5])
  )
  metrics = InstanceMetrics(1)
  metrics.add('1', found, crowd)
  assert metrics.result().values['AP'] == pytest.approx(100)


def test_no_prediction_no_truth_and_no_image():
  nothing = TrueObjects([], np.zeros(0, int), np.zeros(0, bool), np.zeros(0))
  silent = Detections([], np.zeros(0, int), np.zeros(0))
  metrics = InstanceMetrics(2)
  assert all(np.isnan(v) for v in metrics.result().values.values())
  metrics.add('a', silent, nothing)
  assert np.isnan(metrics.result().values['AP'])
  mask = encode(np.ones((40, 40)))
  truth = TrueObjects([mask], np.array([1]), np.array([False]), np.array([1600.0]))
  metrics.add('b', silent, truth)
  values = metrics.result().values
  assert values['AP'] == 0
  assert values['APm'] == 0
  assert np.isnan(values['APs'])
  restored = InstanceMetrics(2)
  restored.merge(metrics.state())
  np.testing.assert_equal(restored.result().values, values)


def test_what_does_not_fit_is_an_error():
  image = next(recorded())
  metrics = accumulate([image])
  with pytest.raises(ValueError, match='image 10 was already evaluated'):
    metrics.add(*image)
  with pytest.raises(ValueError, match='image 10 was evaluated twice'):
    metrics.merge(accumulate([image]).state())
  with pytest.raises(ValueError, match='of 5 classes, not 4'):
    InstanceMetrics(4).merge(metrics.state())
  with pytest.raises(ValueError, match='outside 0 to 1'):
    accumulate([image], classes=2)
  with pytest.raises(ValueError, match='unequal lengths'):
    Detections([], np.zeros(1, int), np.zeros(0))
  with pytest.raises(ValueError, match='NaN'):
    Detections([None], np.zeros(1, int), np.full(1, np.nan))
