"""The loop on the smallest stage: files, resuming, stopping, and what goes wrong."""

import json
import os
import re
import signal

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_stages

from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.restore import load_model
from maskclip_jax.train import loop
from maskclip_jax.train.loop import Diverged, train
from maskclip_jax.train.records import pictures, workdir
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.step import Program
from maskclip_jax.train.task import make_task


def masq(**changes):
  return tiny_stages.stage('masq', **changes)


def rows(directory) -> list[dict]:
  return [json.loads(line) for line in (directory / 'metrics.jsonl').open()]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run from beginning to end."""
  directory = tmp_path_factory.mktemp('runs') / 'whole'
  notes = []
  config = masq(log={'every': 1, 'pictures': 4})
  result = train(
    config, directory, command=['train', '--config', 'a b'], say=notes.append
  )
  return directory, result, '\n'.join(notes)


def test_a_run_ends_with_everything(whole):
  directory, result, notes = whole
  assert (result.step, result.finished) == (4, True)
  assert [row['step'] for row in rows(directory)] == [1, 2, 3, 4]
  assert re.search(r'mesh data 1 x fsdp 1 x model 1', notes)
  assert 'deformable sampling by chunks' in notes
  assert re.search(r'49,664 parameters train, [\d,]+ are frozen', notes)
  assert 'new_q_proj/*/kernel' in notes
  assert {p.name for p in (directory / 'checkpoints').iterdir()} == {
    'step_00000002',
    'step_00000004',
  }
  assert (directory / 'pictures' / 'step_00000004.png').stat().st_size > 100
  assert list((directory / 'events').iterdir())
  assert "'a b'" in (directory / 'command.sh').read_text()
  environment = json.loads((directory / 'environment.json').read_text())
  assert {'jax', 'flax', 'python', 'devices'} <= set(environment)


def test_the_bundle_is_the_trained_model(whole):
  directory, result, _ = whole
  model, preset, opened = load_model(directory / 'bundle')
  assert preset.system == 'masqclip'
  assert not preset.config.proposals.remat
  np.testing.assert_array_equal(
    model.new_q_proj[1].kernel[...], result.state.params['new_q_proj/1/kernel']
  )
  assert opened.text_fingerprint is not None
  assert opened.source['trained']['step'] == 4
  card = (directory / 'bundle' / bundle.CARD).read_text()
  assert '4 of 4 steps' in card


def test_frozen_parameters_do_not_move_by_one_bit(whole):
  directory, result, _ = whole
  flat = bundle.load(directory / 'bundle').parameters
  start = starting_values(make_task(masq()), (), seed=0)
  moved = [path for path in flat if not np.array_equal(flat[path], start[path])]
  assert sorted(moved) == sorted(result.state.params)


@pytest.mark.parametrize(
  'number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_ends_with_the_same_bits(
  number, whole, tmp_path, monkeypatch
):
  """A signal, Ctrl-C too, in the third step: saved, and resumed from there."""
  _, uninterrupted, _ = whole
  real, calls = Program.batch, []

  def batch(program, rows):
    calls.append(rows['image_id'])
    if len(calls) == 3:
      os.kill(os.getpid(), number)
    return real(program, rows)

  monkeypatch.setattr(Program, 'batch', batch)
  before = signal.getsignal(number)
  first = train(masq(), tmp_path, say=lambda _: None)
  assert (first.step, first.finished, first.bundle) == (3, False, None)
  assert first.told_by == number
  assert signal.getsignal(number) is before
  notes = []
  second = train(masq(), tmp_path, say=notes.append)
  assert 'resumed at step 3 of 4' in notes
  assert second.finished
  for path, value in uninterrupted.state.params.items():
    np.testing.assert_array_equal(second.state.params[path], value, err_msg=path)
  assert [row['step'] for row in rows(tmp_path)] == [1, 2, 3, 4]


def test_a_finished_run_is_not_run_again(whole):
  directory, result, _ = whole
  again = train(masq(), directory, say=lambda _: None)
  assert (again.step, again.finished) == (4, True)
  np.testing.assert_array_equal(
    again.state.params['mask_embeddings'], result.state.params['mask_embeddings']
  )


def test_nan_stops_with_step_term_and_images(tmp_path, monkeypatch):
  real = loop.compile_traced

  def compile_traced(*args):
    step = real(*args)

    def broken(state, batch, key):
      state, terms = step(state, batch, key)
      if int(state.step) == 3:
        terms = {**terms, 'loss_ce': jnp.float32(jnp.nan), 'loss': jnp.float32(jnp.nan)}
      return state, terms

    return broken

  monkeypatch.setattr(loop, 'compile_traced', compile_traced)
  with pytest.raises(
    Diverged, match=r'step 3: loss_ce is not finite.*generated-\d'
  ) as e:
    train(masq(), tmp_path, say=lambda _: None)
  assert 'loss,' not in str(e.value)
  # Nothing of the damaged state is kept.
  kept = [p.name for p in (tmp_path / 'checkpoints').iterdir()]
  assert kept == ['step_00000002']


def test_a_second_process_is_refused_and_the_first_untouched(whole, tmp_path):
  directory, *_ = whole
  before = {p: p.stat().st_mtime_ns for p in directory.rglob('*')}
  with workdir.locked(directory):
    with pytest.raises(ValueError, match=rf'process {os.getpid()} on .* trains in'):
      train(masq(), directory)
    assert set(directory.rglob('*')) - set(before) == {directory / '.lock'}
  assert {p: p.stat().st_mtime_ns for p in before if p != directory} == {
    p: time for p, time in before.items() if p != directory
  }
  # Of a directory that was made for the lock alone nothing stays.
  with workdir.locked(tmp_path / 'a/b'):
    assert (tmp_path / 'a/b/.lock').is_file()
  assert not (tmp_path / 'a').exists()


def test_a_start_that_failed_claims_nothing(tmp_path, monkeypatch):
  """Between the claim and the first step anything may happen, a kill too."""

  def killed(*args):
    raise MemoryError

  with monkeypatch.context() as patch:
    patch.setattr(loop, 'compile_traced', killed)
    with pytest.raises(MemoryError):
      train(masq(), tmp_path / 'run')
  workdir.check(tmp_path / 'run', masq(optim={'lr': 1e-3}))
  workdir.claim(tmp_path / 'run', masq(optim={'lr': 1e-3}), ['again'], [])
  recorded = json.loads((tmp_path / 'run/config.json').read_text())
  assert recorded['optim']['lr'] == 1e-3
  (tmp_path / 'run/metrics.jsonl').write_text('{"step": 1}\n')
  with pytest.raises(ValueError, match='another configuration'):
    workdir.check(tmp_path / 'run', masq())


def test_the_best_is_chosen_by_a_number_that_is_logged(tmp_path):
  config = masq(checkpoint={'best': 'los'})
  with pytest.raises(ValueError, match=r"no logged number .*'los': did you mean 'loss"):
    train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_checkpoint_before_the_first_logged_number(tmp_path):
  config = masq(checkpoint={'best': 'loss', 'every': 1, 'keep': 1}, log={'every': 3})
  notes = []
  assert train(config, tmp_path, say=notes.append).finished
  kept = sorted(p.name for p in (tmp_path / 'checkpoints').iterdir())
  assert kept[-1] == 'step_00000004'
  assert re.search(
    r'compiled in \d+ s with at most [\d.]+ GB of memory; a step needs [\d.]+ GB',
    '\n'.join(notes),
  )


def test_a_workdir_of_another_configuration(whole):
  directory, *_ = whole
  with pytest.raises(ValueError, match=r'optim\.lr is 0\.0001 there and 0\.001 here'):
    train(masq(optim={'lr': 1e-3}), directory)
  # What changes no result may differ.
  workdir.check(directory, masq(log={'every': 7}, mesh={'data': 1}, remat=True))


def test_a_directory_of_something_else(tmp_path):
  (tmp_path / 'thesis.tex').write_text('...')
  with pytest.raises(ValueError, match='exists and holds no run'):
    train(masq(), tmp_path)


def test_sources_may_not_change_under_a_run(tmp_path):
  record = [{'source': 'runs/a', 'fingerprint': '1'}]
  workdir.claim(tmp_path, masq(), [], record)
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  workdir.claim(tmp_path, masq(), [], record)
  with pytest.raises(ValueError, match='runs/a has changed since'):
    workdir.claim(tmp_path, masq(), [], [{'source': 'runs/a', 'fingerprint': '2'}])


@pytest.mark.eight_devices
def test_a_batch_that_does_not_divide(tmp_path):
  with pytest.raises(ValueError, match='batch of 2 does not divide over 8 devices'):
    train(masq(mesh={'data': 8}), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_pictures_of_objects_that_overlap():
  """They travel as packed masks; a picture shows the first of them at each pixel."""
  masks = np.zeros((1, 3, 4, 10), bool)
  masks[0, 0, :2, :6] = masks[0, 1, 1:3, 4:] = True
  row = {
    'image': np.zeros((1, 4, 10, 3), np.uint8),
    'masks': np.packbits(masks, axis=-1),
  }
  expected = np.full((4, 10), -1)
  expected[1:3, 4:] = 1
  expected[:2, :6] = 0
  np.testing.assert_array_equal(pictures.true_segments(row), expected)
  segments = np.arange(40).reshape(1, 4, 10)
  np.testing.assert_array_equal(
    pictures.true_segments({**row, 'segments': segments}), segments[0]
  )
