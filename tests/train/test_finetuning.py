"""Fine-tuning: what is tuned of which model, from where, and for how long."""

import numpy as np
import pytest
from tiny_stages import random_bundle

from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle
from maskclip_jax.data.build import build
from maskclip_jax.train import config_files
from maskclip_jax.train.config import read
from maskclip_jax.train.loop import train
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.task import MODEL, Layout, make_task

VIEW = 'data=miniature/base'


@pytest.fixture(scope='module')
def bundles(tmp_path_factory):
  """Models of random weights, by system."""
  root = tmp_path_factory.mktemp('bundles')
  for system in ('clip_baseline', 'masqclip', 'maskclip', 'mask2former'):
    random_bundle(root / system, f'{system}_tiny')
  return root


def finetune(bundles, system: str, what: str, more: str = 'photos=50'):
  spec = f'finetune:{VIEW},from={bundles / system},what={what},{more}'
  return read(config_files.load(spec))


@pytest.mark.parametrize(
  ('system', 'what', 'trained'),
  [
    ('masqclip', 'masq', {'new_q_proj', 'mask_embeddings'}),
    ('clip_baseline', 'masq', {'new_q_proj', 'mask_embeddings'}),
    ('maskclip', 'rma', {'rma'}),
    ('masqclip', 'rma', {'rma'}),
    ('maskclip', 'proposals', {'proposals'}),
    ('mask2former', 'proposals', {'backbone', 'pixel_decoder', 'predictor'}),
    ('clip_baseline', 'linear', {'clip'}),
    ('maskclip', 'linear', {'clip'}),
  ],
)
def test_what_learns_and_where_it_starts(system, what, trained, bundles):
  config = finetune(bundles, system, what)
  task = make_task(config)
  layout = Layout.of(task)
  assert {path.partition('/')[0] for path in layout.trained} == trained
  given = bundle.load(bundles / system).parameters
  start = starting_values(task, tuple(config.start.values()), config.seed)
  new = {path for path in start if path in layout.shapes and path not in given}
  for path in set(layout.shapes) - new:
    if 'class_embed' not in path:
      np.testing.assert_array_equal(start[path], given[path], err_msg=path)
  if (system, what) == ('clip_baseline', 'masq'):
    # Queries that are not there are CLIP's own.
    own = 'clip/visual/transformer/resblocks/1/attn/query/kernel'
    np.testing.assert_array_equal(start['new_q_proj/1/kernel'], given[own])
  if system == 'mask2former':
    assert config.chosen_preset.vocabulary == 'object'
    assert start['predictor/class_embed/bias'].shape == (2,)
  if what == 'linear':
    assert layout.trained == ('clip/visual/proj/kernel',)


def test_length_and_evaluation_follow_the_photos(bundles, tmp_path):
  short = finetune(bundles, 'masqclip', 'masq', 'photos=10')
  assert (short.total_steps, short.eval.every) == (100, 10)
  long = finetune(bundles, 'masqclip', 'masq', 'photos=400,epochs=10')
  assert (long.total_steps, long.checkpoint.every) == (500, 50)
  assert finetune(bundles, 'masqclip', 'masq', 'photos=99999').total_steps == 5_000
  assert long.eval.evals == 'miniature'
  assert (long.eval.at_start, long.eval.patience) == (True, 4)
  assert long.checkpoint.best == 'miniature/PQ'
  without = finetune(bundles, 'masqclip', 'masq', 'photos=10,evals=none')
  assert not without.eval.evals
  build('miniature', None, tmp_path, sizes={'train': 3})
  counted = finetune(bundles, 'masqclip', 'masq', f'data_dir={tmp_path},epochs=800')
  assert counted.total_steps == 300
  assert short.data.canvas == 96


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ('finetune', 'data is missing'),
    (f'finetune:{VIEW}', 'from is missing'),
    (f'finetune:{VIEW},from=CLIP,what=all', 'what must be one of masq, rma, prop'),
    (f'finetune:{VIEW},from=nowhere', "no model 'nowhere'"),
    ('finetune:data=mine/panoptic,from=MODEL,data_dir=DATA', 'mine/panoptic'),
    (f'finetune:{VIEW},from=MODEL,data_dir=DATA', 'miniature is not built in DATA'),
    (f'finetune:{VIEW},from=MODEL,photos=5,what=masq', 'have no object score'),
    (f'finetune:{VIEW},from=OTHER,photos=5,what=masq', 'is a mask2former, and what='),
  ],
)
def test_what_cannot_be_tuned_is_told(spec, message, bundles, tmp_path, capsys):
  names = {'MODEL': 'maskclip', 'OTHER': 'mask2former'}
  for name, system in names.items():
    spec = spec.replace(name, str(bundles / system))
  run = tmp_path / 'run'
  assert main(['train', '--config', spec, '--workdir', str(run)]) == 2
  assert message in capsys.readouterr().err.splitlines()[-1]
  assert not run.exists()


def test_words_without_a_void_class_learn_from_labelled_masks_alone(bundles):
  config = finetune(bundles, 'clip_baseline', 'linear', 'photos=5,evals=none')
  task = make_task(config)
  start = starting_values(task, tuple(config.start.values()), 0)
  assert not np.asarray(task.text(start.constants).void).any()
  assert set(task.modules()) == {MODEL}


@pytest.mark.slow
def test_a_tuned_model_changed_where_it_learned(bundles, tmp_path):
  build('miniature', None, tmp_path / 'data', sizes={'train': 6, 'test': 2})
  spec = (
    f'finetune:{VIEW},from={bundles / "clip_baseline"},what=proposals,'
    f'data_dir={tmp_path / "data"}'
  )
  few = ('total_steps=2', 'eval.every=2', 'data.batch_size=2', 'data.canvas=64')
  fast = [f'--config.{change}' for change in few]
  result = train(read(config_files.load(spec, fast)), tmp_path / 'run')
  assert result.finished
  assert result.best is not None
  before = bundle.load(bundles / 'clip_baseline').parameters
  after = bundle.load(tmp_path / 'run' / 'bundle').parameters
  assert set(before) == set(after)
  moved = {path for path in before if not np.array_equal(before[path], after[path])}
  assert all(path.startswith('proposals/') for path in moved)
