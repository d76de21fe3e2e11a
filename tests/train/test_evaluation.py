"""Evaluation during a run: what is refused, what is kept and exported, resuming."""

import json
import os
import signal

import numpy as np
import pytest
import tiny_stages

from maskclip_jax.checkpoints import bundle
from maskclip_jax.data.build import build
from maskclip_jax.eval.runner import _Work
from maskclip_jax.train import evaluation
from maskclip_jax.train.checkpoint import Checkpoints
from maskclip_jax.train.config import CheckpointSettings
from maskclip_jax.train.evaluation import Evaluations
from maskclip_jax.train.loop import train
from maskclip_jax.train.records import workdir

EVERY_STEP = {'evals': 'miniature', 'every': 1, 'at_start': True}
BEST = 'miniature/PQ'


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  build('miniature', None, folder, sizes={'test': 3})
  return str(folder)


def masq(data_dir, eval, **changes):
  return tiny_stages.stage('masq', data={'data_dir': data_dir}, eval=eval, **changes)


def rows(directory) -> list[dict]:
  return [json.loads(line) for line in (directory / 'metrics.jsonl').open()]


def evaluated(directory) -> dict[int, float]:
  return {row['step']: row[BEST] for row in rows(directory) if BEST in row}


def quiet(text: str) -> None:
  """Says nothing."""


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'eval': {'evals': 'miniatur'}}, "no evaluation is called 'miniatur': did you"),
    ({'eval': {'evals': 'miniature', 'every': 0}}, r'config.eval: every must be at le'),
    ({'checkpoint': {'best': BEST}}, "'miniature/PQ', and nothing is evaluated: name"),
    (
      {'checkpoint': {'best': 'ade150/PQ'}, 'eval': {'evals': 'miniature'}},
      r"no protocol of eval.evals \(checkpoint.best\) is called 'ade150'",
    ),
    (
      {'checkpoint': {'best': 'miniature/PQx'}, 'eval': {'evals': 'miniature'}},
      r"no number of .* is called 'miniature/PQx': did you mean 'miniature/PQ",
    ),
    (
      {
        'checkpoint': {'best': BEST},
        'eval': {'evals': 'miniature', 'tasks': 'semantic'},
      },
      "no number of the evaluations .* 'miniature/PQ'",
    ),
    ({'eval': {'evals': 'miniature', 'patience': 2}}, 'say which in checkpoint.best'),
    ({'eval': {'evals': 'miniature', 'tasks': 'depth'}}, 'does not judge depth'),
    ({'eval': {'evals': 'ade150'}}, 'ade20k_150 is not built'),
  ],
)
def test_what_cannot_be_evaluated_is_told_first(changes, message, data_dir, tmp_path):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    train(masq(data_dir, **{'eval': {}, **changes}), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_proposals_alone_have_no_words_to_be_judged_by(data_dir, tmp_path):
  config = tiny_stages.stage(
    'teacher', data={'data_dir': data_dir}, eval={'evals': 'miniature'}
  )
  with pytest.raises(ValueError, match='knows only object: use an open-vocabulary'):
    train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_the_best_is_not_chosen_on_what_is_trained_on(data_dir, tmp_path):
  data = {
    'generated': 0,
    'datasets': [{'view': 'miniature/base', 'split': 'test'}],
    'data_dir': data_dir,
  }
  config = tiny_stages.stage(
    'masq', data=data, eval={'evals': 'miniature'}, checkpoint={'best': BEST}
  )
  with pytest.raises(ValueError, match="the split 'test' of miniature, which is trai"):
    train(config, tmp_path / 'run')


@pytest.fixture
def scripted(monkeypatch):
  """Evaluations whose numbers are given by step; which steps were evaluated."""
  calls: list[int] = []

  def script(*numbers: float) -> list[int]:
    def found(self, step, state, stop):
      calls.append(step)
      return {'miniature': {'PQ': numbers[step]}}

    monkeypatch.setattr(Evaluations, '_found', found)
    return calls

  return script


def test_the_best_is_kept_and_exported(scripted, data_dir, tmp_path, capsys):
  calls = scripted(10.0, 30.0, 30.0, float('nan'), 20.0)
  config = masq(
    data_dir,
    EVERY_STEP | {'patience': 3},
    checkpoint={'every': 10, 'keep': 1, 'best': BEST},
    total_steps=9,
  )
  notes, run = [], tmp_path / 'run'
  result = train(config, run, say=notes.append)
  assert (result.step, result.finished, result.best) == (4, True, 1)
  assert calls == [0, 1, 2, 3, 4]
  # What is not a number is left out; of equals the first is best.
  assert evaluated(run) == {0: 10.0, 1: 30.0, 2: 30.0, 4: 20.0}
  kept = {path.name for path in (run / 'checkpoints').iterdir()}
  assert kept == {'step_00000001', 'step_00000004'}
  assert 'evaluates on miniature (3 photos) every 1 steps' in notes
  assert 'no gain for 3 evaluations: the run ends at step 4' in notes
  assert 'the best is exported: miniature/PQ 30.00 at step 1' in notes
  line = 'step 2/9  miniature/PQ 30.00  in 0 s  best: miniature/PQ 30.00 at step 1'
  assert line in capsys.readouterr().out.splitlines()
  exported = bundle.load(run / bundle.OF_RUN)
  assert exported.source['trained']['step'] == 1
  card = (run / bundle.OF_RUN / bundle.CARD).read_text()
  assert 'best of the evaluations on the way: miniature/PQ 30.00 at step 1' in card
  # `export --step best` of the run.
  checkpoints = Checkpoints(run, config.checkpoint)
  assert checkpoints.best() == 1
  checkpoints.close()
  # It is over: the same command goes no further.
  again = train(config, run, say=quiet)
  assert (again.step, again.finished, again.best, calls[5:]) == (4, True, 1, [])


@pytest.mark.parametrize(
  ('settings', 'best'),
  [
    ({'best': BEST}, 2),
    ({'best': BEST, 'mode': 'min'}, 1),
    ({'best': 'loss'}, 1),
    ({'best': 'accuracy', 'mode': 'max'}, 2),
  ],
)
def test_best_is_the_largest_of_an_evaluation_and_the_least_loss(settings, best):
  settings = CheckpointSettings(**settings)
  assert settings.best_of({3: 30.0, 2: 30.0, 1: 10.0, 4: 20.0}) == best
  assert settings.best_of({}) is None


def test_evaluations_of_another_kind_need_a_directory_of_their_own(data_dir, tmp_path):
  workdir.claim(tmp_path, masq(data_dir, {}), [], [])
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  with pytest.raises(ValueError, match=r'eval\.evals is "" there and "miniature" here'):
    workdir.check(tmp_path, masq(data_dir, {'evals': 'miniature'}))
  workdir.check(tmp_path, masq(data_dir, {'data_dir': '/elsewhere', 'batch_size': 4}))


@pytest.mark.slow
def test_a_run_stopped_within_an_evaluation_ends_with_the_same_numbers(
  data_dir, tmp_path, monkeypatch
):
  settings = {'evals': 'miniature', 'every': 2, 'save_every': 1}
  config = masq(data_dir, settings, checkpoint={'best': 'miniature/mIoU_gt'})
  train(config, tmp_path / 'whole', say=quiet)
  real, judged = _Work.judge_one, []

  def judge_one(self, item, *args):
    judged.append(item.index)
    if len(judged) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    real(self, item, *args)

  monkeypatch.setattr(_Work, 'judge_one', judge_one)
  first = train(config, tmp_path / 'stopped', say=quiet)
  assert (first.step, first.finished, first.told_by) == (2, False, signal.SIGTERM)
  folder = tmp_path / 'stopped' / evaluation.DIRECTORY
  assert len(list(folder.rglob('state-*.npz'))) == 1
  second = train(config, tmp_path / 'stopped', say=quiet)
  assert second.finished
  # Three photos twice: none was judged again.
  assert len(judged) == 6
  assert not folder.exists()
  timed = ('seconds', 'data_wait', 'images_per', 'memory')
  ends = [
    [
      {k: v for k, v in row.items() if not any(name in k for name in timed)}
      for row in rows(tmp_path / name)
    ]
    for name in ('whole', 'stopped')
  ]
  assert ends[0] == ends[1]
  ends = [
    bundle.load(tmp_path / name / 'bundle').parameters for name in ('whole', 'stopped')
  ]
  for path in ends[0]:
    np.testing.assert_array_equal(ends[0][path], ends[1][path], err_msg=path)
