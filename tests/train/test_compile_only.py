"""Compiling ahead of time: what the report says, and when it is a failure."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import tiny_stages

from maskclip_jax.__main__ import main
from maskclip_jax.checkpoints import params
from maskclip_jax.train import compile_only
from maskclip_jax.train.task import Layout, make_task

ROOT = pathlib.Path(__file__).parent.parent.parent
MASQ = f'{ROOT}/configs/masqclip.py:stage=masq,runlocal'


@pytest.mark.eight_devices
def test_a_report():
  mesh = {'data': 2, 'fsdp': 4, 'model': 1, 'min_size': 64}
  values = tiny_stages.values('masq', mesh=mesh, data={'batch_size': 8})
  report = compile_only.compile_step(values, jax.devices())
  assert (report.stage, report.batch) == ('query_tuning', 8)
  assert report.mesh == {'data': 2, 'fsdp': 4, 'model': 1}
  # Float32 parameters, nearly all of them divided by four; the batch is small.
  task = make_task(tiny_stages.stage('masq'))
  whole = 4 * params.count(Layout.of(task).shapes)
  assert whole / 4 < report.arguments < whole / 2
  assert report.temporaries > 0
  assert report.flops > 1e6
  # Parameters are gathered, gradients are summed.
  assert report.collectives['all-gather'][0] > 0
  assert report.collectives['all-reduce'][0] > 0
  assert report.fits
  assert json.loads(report.to_json())['memory'] == report.memory
  text = str(report)
  assert 'batch 8 on 8 x cpu, mesh data 2 x fsdp 4 x model 1' in text
  assert 'memory per chip' in text
  assert 'deformable sampling by chunks' in text


def test_a_step_that_does_not_fit(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(compile_only, 'HBM', {'cpu': 1e-4})
  flags = ['--compile_only', '--json', str(tmp_path / 'report.json')]
  assert main(['train', '--config', MASQ, *flags]) == 2
  assert 'GiB (DOES NOT FIT)' in capsys.readouterr().out
  assert json.loads((tmp_path / 'report.json').read_text())['fits'] is False


def test_collectives_are_counted():
  program = """
  %a = f32[8,4]{1,0} all-gather(f32[2,4]{1,0} %p), dimensions={0}
  %b = (bf16[2,3]{1,0}, f32[]) all-reduce-start(bf16[2,3]{1,0} %q, f32[] %r)
  %c = (bf16[2,3]{1,0}, f32[]) all-reduce-done(%b)
  %d = f32[8,4]{1,0} all-gather(f32[2,4]{1,0} %e), dimensions={0}
  """
  assert compile_only.collectives(program) == {
    'all-gather': (2, 2 * 8 * 4 * 4),
    'all-reduce': (1, 2 * 3 * 2 + 4),
  }


def test_a_pipeline_is_refused(capsys):
  config = f'{ROOT}/configs/masqclip.py:stage=pipeline,runlocal'
  assert main(['train', '--config', config, '--compile_only']) == 2
  assert 'takes one stage, not a pipeline' in capsys.readouterr().err


def for_slice(topology: str) -> subprocess.CompletedProcess:
  """Compiles a tiny step for a slice, as a user does."""
  env = {name: v for name, v in os.environ.items() if name != 'XLA_FLAGS'}
  command = [sys.executable, '-m', 'maskclip_jax', 'train', '--compile_only']
  flags = ['--config', MASQ, '--topology', topology, '--config.data.batch_size=4']
  return subprocess.run(
    [*command, *flags], cwd=ROOT, env=env, capture_output=True, text=True
  )


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs the compiler of TPUs, libtpu',
)
def test_a_slice_that_is_not_there():
  done = for_slice('v5e:2x2')
  assert done.returncode == 0, done.stderr
  assert 'batch 4 on 4 x TPU v5 lite' in done.stdout
  assert 'of 16 GiB (fits)' in done.stdout
  assert 'deformable sampling by pallas' in done.stdout


@pytest.mark.slow
def test_no_such_slice():
  done = for_slice('v5e:2xx')
  assert done.returncode == 2
  assert "cannot compile for 'v5e:2xx'" in done.stderr.splitlines()[-1]
