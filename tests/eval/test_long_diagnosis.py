"""A diagnosis that is stopped or killed is the same page, and two processes that share
it have the numbers and the page of one."""

import hashlib
import json
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
from maskclip_jax.eval.runner import evaluate

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


# Ends itself without a chance to save where it is.
KILLED = """
import os, pathlib, signal, sys
import ade_run
from maskclip_jax.eval.diagnosis.diagnose import diagnose

ade_run.data_dir = lambda: pathlib.Path(sys.argv[1])

def progress(done, total):
  if done == 5:
    os.kill(os.getpid(), signal.SIGKILL)

evaluator = ade_run.evaluator(save_every=3)
diagnose(evaluator, ade_run.source(), pathlib.Path(sys.argv[2]), on_progress=progress)
"""
# A pod of two processes with two devices each, on this machine: what it evaluates, and
# the page of what it diagnoses.
POD = """
import json, os, pathlib, sys
data, workdir, address, host = sys.argv[1:]
flags = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count=2'
import jax
jax.distributed.initialize(address, 2, int(host))
import ade_run
from test_long_diagnosis import page
from maskclip_jax.eval.diagnosis.diagnose import diagnose
from maskclip_jax.eval.runner import evaluate

ade_run.data_dir = lambda: pathlib.Path(data)
evaluator = ade_run.evaluator(batch_size=2, devices=2)
found = evaluate(evaluator, ade_run.source())
assert found.examples == ade_run.PHOTOS
assert found.devices.startswith('4 x'), found.devices
print(json.dumps(dict(found.metrics.values)))
print(page(diagnose(evaluator, ade_run.source(), pathlib.Path(workdir))))
"""


def start(script, *arguments):
  path = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
  return subprocess.Popen(
    [sys.executable, '-c', script, str(ade_run.data_dir()), *map(str, arguments)],
    env={**os.environ, 'PYTHONPATH': ':'.join(path), 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_a_diagnosis_that_was_killed_ends_with_the_same_page(expected, tmp_path):
  process = start(KILLED, tmp_path)
  _, err = process.communicate(timeout=300)
  assert process.returncode == -9, err
  assert [path.name for path in tmp_path.iterdir()] == ['diagnosis-0-of-1.npz']
  again = diagnose(ade_run.evaluator(save_every=3), ade_run.source(), tmp_path)
  assert page(again) == expected


@pytest.mark.slow
def test_two_processes_have_the_numbers_and_the_page_of_one(expected, tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  pod = [start(POD, tmp_path, address, host) for host in (0, 1)]
  plain = evaluate(ade_run.evaluator(), ade_run.source())
  for process in pod:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    *_, numbers, found = out.splitlines()
    np.testing.assert_equal(json.loads(numbers), dict(plain.metrics.values))
    assert found == expected


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
