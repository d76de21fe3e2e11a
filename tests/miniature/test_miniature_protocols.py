"""The protocols of the generated world: all words, and base and novel ones apart."""

import dataclasses
import json
import re

import numpy as np
import pytest

from maskclip_jax.__main__ import main
from maskclip_jax.data.build import build
from maskclip_jax.eval.diagnosis import oracles
from maskclip_jax.eval.diagnosis.overlaps import Regions
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.judge import Judge, Predicted
from maskclip_jax.eval.predictor import ClassColumns
from maskclip_jax.eval.protocols import PROTOCOLS

NAMES = ('miniature', 'miniature_shifted')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('miniature')
  build('miniature', None, folder, sizes={'test': 6, 'shifted': 3})
  return folder


def judged(data_dir, rename=None):
  """The numbers of true regions under their true names, or under others."""
  run = PROTOCOLS['miniature'].for_system('masqclip')
  things = run.vocabulary().things
  judge = Judge(run, things)
  words = ClassColumns(np.ones(116, bool), things, np.zeros(116, bool))
  for example in ProtocolSource(run, data_dir):
    regions = Regions.of(example.truth)
    names = regions.classes if rename is None else rename[regions.classes]
    logits = np.full((len(regions), 116), -50.0, np.float32)
    logits[np.arange(len(regions)), names] = 50
    named = oracles.named_regions(logits, regions, words)
    judge.add(example, Predicted.of(named))
  return judge.result().values


@pytest.mark.parametrize('name', NAMES)
def test_base_and_novel_share_the_classes(name):
  run = PROTOCOLS[name].for_system('masqclip')
  groups = run.groups()
  sizes = {group: len(members) for group, members in groups.items()}
  assert sizes == {
    'base': 80,
    'base_things': 72,
    'novel': 36,
    'things': 108,
    'stuff': 8,
  }
  assert sorted(groups['base'] + groups['novel']) == list(range(116))
  assert set(groups['base_things'] + groups['stuff']) == set(groups['base'])
  assert run.protocol.split == {'miniature': 'test'}.get(name, 'shifted')


def test_true_names_are_perfect_in_every_group(data_dir):
  values = judged(data_dir)
  headline = PROTOCOLS['miniature'].headline
  assert len(headline) == 16
  for name in headline:
    assert values[name] == pytest.approx(100), name


def test_novel_names_that_are_wrong_cost_the_novel_numbers(data_dir):
  run = PROTOCOLS['miniature'].for_system('masqclip')
  groups = run.groups()
  rename = np.arange(116)
  # Every novel thing is taken for one base thing.
  rename[list(groups['novel'])] = groups['base_things'][0]
  values = judged(data_dir, rename)
  for metric in ('PQ', 'mIoU_gt'):
    assert values[f'{metric}[novel]'] == 0, metric
    assert 0 < values[metric] < 100, metric
  # Of a hundred detections per photo, those of score 0 are also counted, as the last.
  for metric in ('AP', 'AP50'):
    assert values[f'{metric}[novel]'] < 50 < values[metric] < 100, metric
  assert values['PQ[stuff]'] == values['PQst'] == pytest.approx(100)
  assert values['PQ[things]'] == values['PQth'] < 100
  assert values['AP[things]'] == values['AP']
  # Objects are things: there is no such number for stuff.
  assert 'AP[stuff]' not in values


def test_a_model_has_all_the_numbers_on_the_command_line(data_dir, tmp_path, capsys):
  arguments = ['eval', '--evals', ','.join(NAMES), '--model', 'masqclip_tiny']
  place = ['--data_dir', str(data_dir), '--out', str(tmp_path), '--limit', '2']
  assert main([*arguments, '--random_weights', '0', '--no_cache', *place]) == 0
  for name in NAMES:
    (path,) = tmp_path.glob(f'{name}+2_of_*/results.json')
    entry = json.loads(path.read_text())
    missing = set(entry['headline']) - set(entry['numbers'])
    assert not missing
    split = PROTOCOLS[name].split
    assert entry['settings']['data']['split'] == split
  assert re.search(r'miniature_shifted\+2 of \d+/PQ\[novel\]', capsys.readouterr().out)


@pytest.mark.slow
def test_a_model_is_the_same_in_the_ledger_whatever_it_computes_in(data_dir, tmp_path):
  arguments = ['eval', '--evals', 'miniature', '--model', 'masqclip_tiny']
  arguments += ['--random_weights', '0', '--no_cache', '--limit', '1', '--quiet']
  arguments += ['--tasks', 'semantic', '--data_dir', str(data_dir)]
  models = []
  for dtype in ('float32', 'bfloat16'):
    out = tmp_path / dtype
    assert main([*arguments, '--dtype', dtype, '--out', str(out)]) == 0
    (path,) = out.glob('*/results.json')
    models.append(json.loads(path.read_text())['model'])
  assert [model['dtype'] for model in models] == ['float32', 'bfloat16']
  assert models[0]['fingerprint'] == models[1]['fingerprint']


def test_tables_of_groups_are_checked():
  protocol = dataclasses.replace(
    PROTOCOLS['miniature'], groups={'few': 'miniature-116:animals'}
  )
  with pytest.raises(ValueError, match='miniature-116:animals'):
    protocol.for_system('masqclip').groups()
