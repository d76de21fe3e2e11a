"""Every shipped configuration runs: `:runlocal`, from the command line, two steps."""

import json
import pathlib

import numpy as np
import pytest
from tiny_stages import quick_draw

from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import bundle
from maskclip_jax.data.pairs import open_pairs
from maskclip_jax.train import starting

pytestmark = pytest.mark.slow

_TWO_BLOCKS = '--config.model.clip.vision_layers=2', '--config.model.clip.text_layers=1'
ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def train(monkeypatch, capsys):
  """Runs the command; its status, and what it wrote to stdout and stderr."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(starting, 'draw', quick_draw)

  def run(spec: str, workdir, *overrides: str) -> tuple[int, str, str]:
    flags = ('--config', f'configs/{spec}', '--workdir', str(workdir), *overrides)
    return main(['train', *flags]), *capsys.readouterr()

  return run


@pytest.mark.parametrize(
  ('spec', 'small'),
  [
    # Some with fewer layers than even the tiny presets have: each compiles a network.
    ('maskclip.py:stage=proposals,runlocal', []),
    ('mask2former.py:runlocal', []),
    (
      'maskclip.py:stage=rma,profile=paper,runlocal',
      _TWO_BLOCKS,
    ),
    ('miniature.py:stage=clip,runlocal', []),
    (
      'miniature.py:stage=tune_all,runlocal',
      [
        '--config.model.proposals.decoder_layers=1',
        '--config.data.canvas=64',
        *_TWO_BLOCKS,
      ],
    ),
    (
      'segclip.py:runlocal',
      [
        *('--config.model.first_blocks=1', '--config.model.centre_blocks=1'),
        *_TWO_BLOCKS,
      ],
    ),
    ('fcclip.py:runlocal', ['--config.model.clip.depths=(1,1,1,1)']),
    ('finetune.py:what=linear,runlocal', []),
  ],
)
def test_a_stage(train, spec, small, tmp_path):
  status, out, err = train(spec, tmp_path, *small)
  assert status == 0, err
  assert 'step 2/2' in out
  assert bundle.is_bundle(tmp_path / 'bundle')


def test_the_pipeline_and_its_resumption(train, tmp_path):
  """Teacher, student and MasQ-tuning; interrupted before the last stage."""
  spec = 'masqclip.py:stage=pipeline,profile=paper,runlocal'
  wrong = '--config.stages.masq.preset=maskclip_tiny'
  status, _, err = train(spec, tmp_path, wrong)
  assert status == 2
  assert err.splitlines()[-1].startswith('maskclip_jax: ')
  assert 'MasQ-tuning trains a masqclip' in err
  done = [p.name for p in tmp_path.iterdir() if bundle.is_bundle(p / 'bundle')]
  assert sorted(done) == ['student_1', 'teacher']
  status, out, err = train(spec, tmp_path)
  assert status == 0, err
  assert out.count('done before') == 2
  # The student started from its teacher.
  start = json.loads((tmp_path / 'student_1' / 'start.json').read_text())
  (first,) = start
  assert first['source'] == str(tmp_path / 'teacher')
  assert first['fingerprint'] == bundle.load(tmp_path / 'teacher/bundle').fingerprint
  proposals = bundle.load(tmp_path / 'student_1' / 'bundle').parameters
  final = bundle.load(tmp_path / 'masq' / 'bundle').parameters
  path = 'predictor/query_feat/embedding'
  assert (final[f'proposals/{path}'] == proposals[path]).all()


def test_the_pipeline_of_ovseg(train, tmp_path):
  """Proposals, pairs of their masks, tuning and prompts make one OVSeg; each stage
  changes what it trains, and what is there is not made again."""
  small = [
    f'--config.stages.{stage}.model.proposals.swin.depths=(1,1,1,1)'
    for stage in ('proposals', 'pairs', 'prompts')
  ]
  spec = 'ovseg.py:stage=pipeline,runlocal'
  status, out, err = train(spec, tmp_path, *small)
  assert status == 0, err
  (mined,) = (tmp_path / 'mine').glob('pairs-train.array_record-*')
  found = len(open_pairs(mined.parent, 'train'))
  assert f'mine: {found} pairs; report' in out
  content = mined.read_bytes()
  mined.unlink()
  status, out, err = train(spec, tmp_path, *small)
  assert status == 0, err
  assert out.count('done before') == 3
  assert mined.read_bytes() == content
  parameters = {
    stage: bundle.load(tmp_path / stage / 'bundle').parameters
    for stage in ('proposals', 'pairs', 'prompts')
  }

  def same(path: str, *stages: str) -> bool:
    first, second = (np.asarray(parameters[stage][path]) for stage in stages)
    return bool((first == second).all())

  query, kernel = 'proposals/predictor/query_embed/embedding', 'clip/visual/proj/kernel'
  token = 'clip/text/token_embedding/embedding'
  assert same(query, 'proposals', 'pairs')
  assert not same(kernel, 'proposals', 'pairs')
  assert same(token, 'proposals', 'pairs')
  assert same(kernel, 'pairs', 'prompts')
  assert 'clip/visual/mask_prompts' not in parameters['pairs']
  assert 'clip/visual/mask_prompts' in parameters['prompts']
