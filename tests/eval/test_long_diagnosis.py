"""A diagnosis that is stopped, killed, or shared by two processes is the same page."""

import hashlib
import os
import pathlib
import socket
import subprocess
import sys

import ade_run
import numpy as np
import pytest

from maskclip_jax.eval.diagnosis import findings
from maskclip_jax.eval.diagnosis.diagnose import diagnose, extremes
from maskclip_jax.eval.diagnosis.report import report

HERE = pathlib.Path(__file__).parent


def page(diagnosis) -> str:
  """The whole page, pictures included, as a short text."""
  return hashlib.sha256(report(diagnosis).encode()).hexdigest()


@pytest.fixture(scope='module')
def expected():
  return page(diagnose(ade_run.evaluator(), ade_run.source()))


def test_a_diagnosis_that_was_stopped_goes_on_where_it_was(expected, tmp_path):
  def stop(done, total):
    assert total == ade_run.PHOTOS
    if done == 4:
      raise KeyboardInterrupt

  evaluator, source = ade_run.evaluator(save_every=3), ade_run.source()
  with pytest.raises(KeyboardInterrupt):
    diagnose(evaluator, source, tmp_path, on_progress=stop)
  assert [path.name for path in tmp_path.iterdir()] == ['diagnosis-0-of-1.npz']
  with pytest.raises(ValueError, match='another dtype:'):
    diagnose(evaluator, source, tmp_path, dtype='bfloat16')
  judged = []
  again = diagnose(
    evaluator, source, tmp_path, on_progress=lambda done, _: judged.append(done)
  )
  assert judged == list(range(5, ade_run.PHOTOS + 1))
  assert page(again) == expected
  assert not list(tmp_path.iterdir())


# Ends itself without a chance to save where it is told to; the page of the others.
SCRIPT = """
import os, pathlib, signal, sys
data, workdir, stop, hosts, host, address = sys.argv[1:]
import jax
if int(hosts) > 1:
  jax.distributed.initialize(address, int(hosts), int(host))
import ade_run
from test_long_diagnosis import page
from maskclip_jax.eval.diagnosis.diagnose import diagnose

ade_run.data_dir = lambda: pathlib.Path(data)

def progress(done, total):
  if done == int(stop):
    os.kill(os.getpid(), signal.SIGKILL)

evaluator = ade_run.evaluator(save_every=3)
found = diagnose(
  evaluator, ade_run.source(), pathlib.Path(workdir), on_progress=progress
)
print(page(found))
"""


def start(workdir, stop=-1, hosts=1, host=0, address='none'):
  arguments = [ade_run.data_dir(), workdir, stop, hosts, host, address]
  path = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
  return subprocess.Popen(
    [sys.executable, '-c', SCRIPT, *map(str, arguments)],
    env={**os.environ, 'PYTHONPATH': ':'.join(path), 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_a_diagnosis_that_was_killed_ends_with_the_same_page(expected, tmp_path):
  process = start(tmp_path, stop=5)
  process.communicate(timeout=300)
  assert process.returncode == -9
  assert [path.name for path in tmp_path.iterdir()] == ['diagnosis-0-of-1.npz']
  process = start(tmp_path)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  assert out.split()[-1] == expected


@pytest.mark.slow
def test_two_processes_have_the_page_of_one(expected, tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  pod = [start(tmp_path, hosts=2, host=host, address=address) for host in (0, 1)]
  for process in pod:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.split()[-1] == expected


def test_best_and_worst_are_different_examples():
  quality = np.array([50.0, np.nan, 10.0, 90.0, 10.0, 90.0])
  assert extremes(quality, 2) == ([3, 5], [2, 4])
  assert extremes(quality, 4) == ([3, 5, 0, 2], [4])
  assert extremes(np.full(3, np.nan), 4) == ([], [])


def test_findings_add_up_in_any_order():
  rng = np.random.default_rng(0)

  def photo(seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 5, 6)
    regions = findings.Regions(np.zeros((1, 1), int), classes, rng.integers(1, 9999, 6))
    iou = rng.random((8, 6)).astype(np.float32)
    return regions, iou, rng.integers(0, 5, 8), rng.random(8).astype(np.float32)

  def accumulated(seeds):
    parts = findings.Fates(), findings.Calibration(), findings.NameConfusion()
    for regions, iou, labels, scores in map(photo, seeds):
      parts[0].add(regions, iou, labels)
      parts[1].add(regions, iou, labels, scores)
      parts[2].add(regions, iou, labels)
    return parts

  order = rng.permutation(40)
  whole, merged = accumulated(range(40)), accumulated(order[:13])
  for one, rest in zip(merged, accumulated(order[13:]), strict=True):
    one.merge(rest.state())
  for one, other in zip(whole, merged, strict=True):
    for name, array in one.state().items():
      np.testing.assert_array_equal(other.state()[name], array)
  assert merged[2].wrong() == whole[2].wrong()
  assert merged[1].error() == whole[1].error()
