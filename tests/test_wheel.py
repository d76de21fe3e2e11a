"""The wheel alone, away from the checkout: it predicts and it trains."""

import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder that holds nothing but the built package."""
  pytest.importorskip('hatchling')
  folder = tmp_path_factory.mktemp('wheel')
  pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
  offline = ['--no-deps', '--no-index']
  build = ['wheel', str(ROOT), *offline, '--no-build-isolation', '-w', str(folder)]
  subprocess.run([*pip, *build], check=True)
  (wheel,) = folder.glob('maskclip_jax-*.whl')
  target = folder / 'site'
  install = ['install', str(wheel), *offline, '--target', str(target)]
  subprocess.run([*pip, *install], check=True)
  return target


@pytest.fixture
def run(installed, tmp_path):
  """Runs a command of the installed package from an empty directory."""

  def call(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      [sys.executable, '-m', 'maskclip_jax', *words],
      cwd=tmp_path,
      env=os.environ | {'PYTHONPATH': str(installed)},
      capture_output=True,
      text=True,
    )

  return call


def test_it_is_the_wheel_that_runs(installed, tmp_path):
  code = 'import maskclip_jax; print(maskclip_jax.__file__)'
  env = {**os.environ, 'PYTHONPATH': str(installed)}
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env=env,
    capture_output=True,
    text=True,
    check=True,
  )
  assert pathlib.Path(done.stdout.strip()).is_relative_to(installed)


def test_predict(run, installed, tmp_path):
  scene = min((installed / 'maskclip_jax/miniature/scenes').glob('*.jpg'))
  words = ['--vocabulary', 'green star; disk; stuff:sand']
  model = ['--model', 'clip_baseline_miniature', '--no_cache']
  done = run('predict', str(scene), *model, *words, '--out', 'out')
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'out' / f'{scene.stem}.overlay.png').is_file()


def test_train(run, tmp_path):
  done = run('train', '--config', 'masqclip:stage=masq,runlocal', '--workdir', 'run')
  assert done.returncode == 0, done.stderr
  assert 'step 2/2' in done.stdout
  assert (tmp_path / 'run/bundle/model.safetensors').is_file()
