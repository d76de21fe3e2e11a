"""Every shipped configuration runs: `:runlocal`, from the command line, two steps."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from tiny_stages import small_flags

from maskclip_jax.checkpoints import bundle
from maskclip_jax.data.pairs import open_pairs

pytestmark = pytest.mark.slow

_LAYERS = 'encoder_layers', 'decoder_layers'
ROOT = pathlib.Path(__file__).parent.parent.parent


def train(spec: str, workdir, *overrides: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [
      *(sys.executable, '-m', 'maskclip_jax', 'train'),
      *('--config', f'configs/{spec}', '--workdir', str(workdir), *overrides),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize(
  ('spec', 'small'),
  [
    # Their networks are larger than what other tests compile.
    ('maskclip.py:stage=proposals,runlocal', small_flags()),
    ('mask2former.py:runlocal', small_flags()),
    ('maskclip.py:stage=rma,profile=paper,runlocal', []),
    ('miniature.py:stage=clip,runlocal', []),
    ('miniature.py:stage=tune_all,runlocal', []),
    ('segclip.py:runlocal', []),
    ('fcclip.py:runlocal', [f'--config.model.{name}=1' for name in _LAYERS]),
    ('finetune.py:what=linear,runlocal', small_flags('config.model.proposals')),
  ],
)
def test_a_stage(spec, small, tmp_path):
  done = train(spec, tmp_path, *small)
  assert done.returncode == 0, done.stderr
  assert 'step 2/2' in done.stdout
  assert bundle.is_bundle(tmp_path / 'bundle')


def test_the_pipeline_and_its_resumption(tmp_path):
  """Teacher, two students and MasQ-tuning; interrupted before the last stage."""
  spec = 'masqclip.py:stage=pipeline,rounds=2,profile=paper,runlocal'
  # Smaller still than what `:runlocal` takes: four stages compile here.
  small = small_flags('config.stages.masq.model.proposals')
  for stage in ('teacher', 'student_1', 'student_2'):
    small += small_flags(f'config.stages.{stage}.model')
  broken = train(spec, tmp_path, *small, '--config.stages.masq.preset=maskclip_tiny')
  assert broken.returncode == 2
  assert broken.stderr.splitlines()[-1].startswith('maskclip_jax: ')
  assert 'MasQ-tuning trains a masqclip' in broken.stderr
  done = [p.name for p in tmp_path.iterdir() if bundle.is_bundle(p / 'bundle')]
  assert sorted(done) == ['student_1', 'student_2', 'teacher']
  resumed = train(spec, tmp_path, *small)
  assert resumed.returncode == 0, resumed.stderr
  assert resumed.stdout.count('done before') == 3
  # The students started from the stage before them.
  start = json.loads((tmp_path / 'student_2' / 'start.json').read_text())
  (first,) = start
  assert first['source'] == str(tmp_path / 'student_1')
  assert first['fingerprint'] == bundle.load(tmp_path / 'student_1/bundle').fingerprint
  proposals = bundle.load(tmp_path / 'student_2' / 'bundle').parameters
  final = bundle.load(tmp_path / 'masq' / 'bundle').parameters
  path = 'predictor/query_feat/embedding'
  assert (final[f'proposals/{path}'] == proposals[path]).all()


def test_the_pipeline_of_ovseg(tmp_path):
  """Proposals, pairs of their masks, tuning and prompts make one OVSeg; each stage
  changes what it trains, and what is there is not made again."""
  small = [
    f'--config.stages.{stage}.model.proposals.{field}'
    for stage in ('proposals', 'pairs', 'prompts')
    for field in ('swin.depths=(1,1,1,1)', 'decoder_layers=1')
  ]
  spec = 'ovseg.py:stage=pipeline,runlocal'
  done = train(spec, tmp_path, *small)
  assert done.returncode == 0, done.stderr
  (mined,) = (tmp_path / 'mine').glob('pairs-train.array_record-*')
  found = len(open_pairs(mined.parent, 'train'))
  assert f'mine: {found} pairs; report' in done.stdout
  content = mined.read_bytes()
  mined.unlink()
  again = train(spec, tmp_path, *small)
  assert again.returncode == 0, again.stderr
  assert again.stdout.count('done before') == 3
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
