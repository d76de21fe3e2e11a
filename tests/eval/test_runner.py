"""Whole evaluations on a generated ADE20K: same numbers however they are run."""

import json
import os
import pathlib
import subprocess
import sys

import ade_run
import ade_scenes
import colour_model
import jax
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskclip_jax.batches import by_canvas, read_ahead
from maskclip_jax.data.build import build
from maskclip_jax.eval import partial
from maskclip_jax.eval.evaluator import Evaluator, Options
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.predictor import Variant
from maskclip_jax.eval.protocols import PROTOCOLS
from maskclip_jax.eval.runner import evaluate
from maskclip_jax.text.vocabulary import Vocabulary

HERE = pathlib.Path(__file__).parent


def numbers(evaluation):
  return dict(evaluation.metrics.values)


@pytest.fixture(scope='module')
def plain():
  return evaluate(ade_run.evaluator(), ade_run.source())


def test_the_model_is_right_but_for_the_class_it_mistakes(plain):
  values, names = plain.metrics.values, plain.class_names
  per_class = plain.metrics.per_class
  assert plain.name == 'ade150'
  assert plain.examples == ade_run.PHOTOS
  assert per_class['IoU'][ade_scenes.WALL] > 90
  assert per_class['PQ'][ade_scenes.BED] == 0
  assert per_class['IoU'][ade_scenes.BED] == 0
  assert per_class['IoU'][ade_scenes.PERSON] > 80
  assert names[ade_scenes.BED] == 'bed'
  assert values['PQst'] > 90
  assert 0 < values['AP'] < 100
  assert values['mIoU_gt'] == values['mIoU_gt_or_pred']


@pytest.mark.parametrize(
  ('batch_size', 'devices', 'name'),
  [
    (4, 1, 'ade150'),
    pytest.param(4, 2, 'ade150', marks=pytest.mark.eight_devices),
    pytest.param(8, 8, 'ade150_semantic', marks=pytest.mark.eight_devices),
  ],
)
def test_batch_and_devices_change_no_number(batch_size, devices, name):
  source = ade_run.source(name)
  expected = evaluate(ade_run.evaluator(name), source)
  again = evaluate(ade_run.evaluator(name, devices, batch_size=batch_size), source)
  np.testing.assert_equal(numbers(again), numbers(expected))
  assert again.devices.startswith(f'{devices} x ')


def test_a_run_that_was_stopped_goes_on_where_it_was(plain, tmp_path):
  def stop(done, total):
    assert total == ade_run.PHOTOS
    if done == 4:
      raise KeyboardInterrupt

  evaluator = ade_run.evaluator(batch_size=2)
  with pytest.raises(KeyboardInterrupt):
    evaluate(evaluator, ade_run.source(), tmp_path, on_progress=stop)
  judged = []
  again = evaluate(
    evaluator, ade_run.source(), tmp_path, on_progress=lambda d, n: judged.append(d)
  )
  assert judged == list(range(5, ade_run.PHOTOS + 1))
  np.testing.assert_equal(numbers(again), numbers(plain))
  assert not list(tmp_path.iterdir())


# Ends itself without a chance to save.
KILLED = """
import os, pathlib, signal, sys
import ade_run
from maskclip_jax.eval.runner import evaluate

ade_run.data_dir = lambda: pathlib.Path(sys.argv[1])

def progress(done, total):
  if done == 5:
    os.kill(os.getpid(), signal.SIGKILL)

evaluator = ade_run.evaluator(batch_size=2, save_every=3)
evaluate(evaluator, ade_run.source(), pathlib.Path(sys.argv[2]), on_progress=progress)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_numbers(plain, tmp_path):
  command = [sys.executable, '-c', KILLED, str(ade_run.data_dir()), str(tmp_path)]
  path = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
  env = {**os.environ, 'PYTHONPATH': ':'.join(path), 'JAX_PLATFORMS': 'cpu'}
  assert subprocess.run(command, env=env, check=False).returncode == -9
  assert [path.name for path in tmp_path.iterdir()] == ['state-0-of-1.npz']
  evaluator = ade_run.evaluator(batch_size=2, save_every=3)
  finished = evaluate(evaluator, ade_run.source(), tmp_path)
  np.testing.assert_equal(numbers(finished), numbers(plain))


def test_a_state_of_another_evaluation_is_refused(tmp_path):
  def stop(done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    evaluate(ade_run.evaluator(), ade_run.source(), tmp_path, on_progress=stop)
  other = ade_run.evaluator('ade150_semantic')
  with pytest.raises(ValueError, match=r'another .*protocol'):
    evaluate(other, ade_run.source('ade150_semantic'), tmp_path)
  model = Evaluator(
    colour_model.segmenter(), ade_run.run(), devices=jax.local_devices()[:1]
  )
  with pytest.raises(ValueError, match='another model:'):
    evaluate(model, ade_run.source(), tmp_path)
  with pytest.raises(ValueError, match='another dtype:'):
    evaluate(ade_run.evaluator(), ade_run.source(), tmp_path, dtype='bfloat16')
  path = tmp_path / 'state-0-of-1.npz'
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match='is damaged'):
    evaluate(ade_run.evaluator(), ade_run.source(), tmp_path)


def test_a_state_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'state.npz'
  partial.save(path, {'model': 'a'}, {'x': np.arange(3)})

  def full(*args, **kwargs):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(partial.np, 'savez', full)
  with pytest.raises(OSError, match='No space left'):
    partial.save(path, {'model': 'a'}, {'x': np.arange(9)})
  assert [p.name for p in tmp_path.iterdir()] == ['state.npz']
  assert len(partial.load(path, {'model': 'a'})['x']) == 3
  assert partial.load(tmp_path / 'none.npz', {}) is None


def test_a_limit_is_part_of_the_name():
  evaluator = ade_run.evaluator(limit=2, tasks=('panoptic',))
  found = evaluate(evaluator, ade_run.source(limit=2, tasks=('panoptic',)))
  assert found.name == 'ade150+first 2'
  assert found.examples == 2
  assert 'PQ' in found.metrics.values
  assert 'mIoU_gt' not in found.metrics.values


def test_written_predictions_are_what_was_judged(plain, tmp_path):
  evaluator = ade_run.evaluator(save_predictions=True)
  evaluate(evaluator, ade_run.source(), tmp_path)
  folder = tmp_path / 'predictions'
  example = ade_run.source()[0]
  semantic = np.asarray(Image.open(folder / f'{example.image_id}.semantic.png'))
  assert (semantic == example.truth.semantic).mean() > 0.5
  panoptic = json.loads((folder / 'panoptic.json').read_text())['annotations']
  assert len(panoptic) == ade_run.PHOTOS
  rgb = np.asarray(Image.open(folder / panoptic[0]['file_name'])).astype(int)
  ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
  stated = {row['id']: row['area'] for row in panoptic[0]['segments_info']}
  counts = np.bincount(ids.ravel())
  found = {i: int(counts[i]) for i in np.flatnonzero(counts) if i}
  assert found == stated
  detections = json.loads((folder / 'instances.json').read_text())
  assert {row['image_id'] for row in detections} <= {
    f'ADE_val_{n + 1:08d}' for n in range(ade_run.PHOTOS)
  }
  dataset = COCO()
  dataset.dataset = {
    'images': [{'id': name} for name in {row['image_id'] for row in detections}],
    'categories': [{'id': i} for i in range(150)],
  }
  dataset.createIndex()
  assert len(dataset.loadRes(detections).anns) == len(detections)


@pytest.mark.parametrize(
  'variants',
  [
    (Variant(flip=True),),
    (Variant(), Variant(flip=True)),
    (Variant(0.75), Variant(), Variant(flip=True)),
  ],
)
def test_augmented_maps_agree_with_the_plain_ones(variants):
  # Masks by colour do not care for sides, and little for sizes.
  plain = ade_run.evaluator('ade150_semantic', limit=4)
  source = ade_run.source('ade150_semantic', limit=4)
  expected = numbers(evaluate(plain, source))
  augmented = ade_run.evaluator('ade150_semantic', limit=4, variants=variants)
  found = evaluate(augmented, source)
  assert 'flip' in found.name
  assert ('scales:0.75,1' in found.name) == (len(variants) == 3)
  assert found.metrics.values['mIoU_gt'] == pytest.approx(expected['mIoU_gt'], abs=2.0)


def test_other_words_for_the_same_classes():
  own = Vocabulary.named('ade20k-150')
  run = PROTOCOLS['ade150'].for_system('masqclip')
  few = Vocabulary.parse('cat; dog')
  with pytest.raises(ValueError, match='2 classes and ade150 judges 150'):
    Evaluator(ade_run.segmenter(), run, words=few)
  turned = Vocabulary(own.classes[::-1], 'turned')
  with pytest.raises(ValueError, match='in another order'):
    Evaluator(ade_run.segmenter(), run, words=turned)
  renamed = Vocabulary.parse([f'thing number {i}' for i in range(150)])
  found = Evaluator(ade_run.segmenter(), run, Options(8), renamed)
  assert found.name == 'ade150+words:custom'
  np.testing.assert_array_equal(found.vocabulary.things, own.things)


def test_a_model_without_what_a_protocol_asks_for_is_refused():
  run = PROTOCOLS['ade150'].for_system('ovseg')
  with pytest.raises(ValueError, match=r'seen_weight 0.7, .* combines no scores'):
    Evaluator(ade_run.segmenter(), run, devices=jax.local_devices()[:1])


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    pytest.param(
      *('ade150', {'batch_size': 3, 'devices': 2}, 'cannot be shared by 2 devices'),
      marks=pytest.mark.eight_devices,
    ),
    ('ade150', {'batch_size': 0}, 'batch_size must be at least 1'),
    ('ade150', {'variants': (Variant(flip=True),)}, 'need a semantic task alone'),
    ('ade150_semantic', {'tasks': ('panoptic',)}, 'does not judge panoptic'),
  ],
)
def test_options_that_do_not_fit_are_errors(name, options, message):
  with pytest.raises(ValueError, match=message):
    ade_run.evaluator(name, **options)
  if name == 'ade150_semantic':
    evaluator = ade_run.evaluator(name, save_predictions=True)
    with pytest.raises(ValueError, match='give a workdir'):
      evaluate(evaluator, ade_run.source(name))


def test_a_dataset_without_what_a_task_needs_says_so(tmp_path):
  run = PROTOCOLS['ade847'].for_system('masqclip')
  with pytest.raises(FileNotFoundError, match='ade20k_847 is not built in'):
    ProtocolSource(run, tmp_path)
  raw = ade_scenes.write(tmp_path / 'raw', 2, things=False)
  build('ade20k_150', raw, tmp_path)
  run = PROTOCOLS['ade150'].for_system('masqclip')
  with pytest.raises(ValueError, match='the dataset was built without that part'):
    ProtocolSource(run, tmp_path)


def test_batches_by_canvas_lose_nothing_and_wait_for_few():
  items = [(i, i % 7) for i in range(100)]
  longest, waiting = 0, set()
  batches = []
  for batch in by_canvas(iter(items), lambda item: item[1], 4):
    assert len({canvas for _, canvas in batch}) == 1
    assert 1 <= len(batch) <= 4
    batches += batch
    waiting = {i for i, _ in items if i <= max(i for i, _ in batches)}
    longest = max(longest, len(waiting) - len(batches))
  assert sorted(batches) == items
  assert longest <= 5 * 4


def test_reading_ahead_keeps_the_order_and_raises_what_reading_raises():
  assert list(read_ahead(lambda i: i * i, range(20), 3, 4)) == [
    i * i for i in range(20)
  ]

  def read(index):
    if index == 3:
      raise ValueError('number 3 is damaged')
    return index

  values = read_ahead(read, range(20), 2, 4)
  assert [next(values) for _ in range(3)] == [0, 1, 2]
  with pytest.raises(ValueError, match='number 3'):
    next(values)


def test_what_was_given_before_the_source_failed_is_read():
  def source():
    yield from range(3)
    raise OSError('no more')

  values = read_ahead(lambda i: i, source(), 2, 8)
  assert [next(values) for _ in range(3)] == [0, 1, 2]
  with pytest.raises(OSError, match='no more'):
    next(values)
