"""Kills training at random moments and compares the ends, bit for bit.

    python benchmarks/kills.py [--kills 20] [--terms 5] [--seed 0]

A small run is done once without interruption. Then it is done again and again, each
time killed (SIGKILL) or told to stop (SIGTERM) once at a random moment, and started
again until it is over. Moments are spread over the steps of the run, start-up among
them, and not over seconds, so a busy machine does not move them. Every checkpoint that
is found after an interruption must be restored, and every end must be the same model.
Writes benchmarks/results/kills.json.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parent
RESULTS = ROOT / 'results' / 'kills.json'
STEPS = 40
INTERRUPTED = 143
OVER = 'over before'
# Tiny MasQ-tuning with a checkpoint every other step: half the time one is written.
CONFIG = 'masqclip:stage=masq,runlocal'
CHANGES = (
  f'--config.total_steps={STEPS}',
  '--config.checkpoint.every=2',
  '--config.log.every=1',
)
COMMAND = (sys.executable, '-u', '-m', 'maskclip_jax', 'train')


def start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
  """One attempt at the run, in a process of its own."""
  env = {
    **os.environ,
    # One CPU: only there are two runs the same to the bit. The last count holds.
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} '
    '--xla_force_host_platform_device_count=1',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }
  return subprocess.Popen(
    [*COMMAND, '--workdir', str(workdir), '--config', CONFIG, *CHANGES],
    cwd=ROOT.parent,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process: subprocess.Popen) -> str:
  """Waits for the end of a run that nothing disturbs; what it said."""
  output, _ = process.communicate(timeout=900)
  if process.returncode:
    raise SystemExit(f'a run ended with {process.returncode}:\n{output}')
  return output


def fingerprint(workdir: pathlib.Path) -> str:
  """The hash of the parameters of a finished run."""
  return json.loads((workdir / 'bundle' / 'config.json').read_text())['fingerprint']


def step_seconds(workdir: pathlib.Path) -> float:
  """How long a step took in the middle of a finished run."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').open()]
  return sorted(row['seconds_per_step'] for row in rows)[len(rows) // 2]


def interrupt(process: subprocess.Popen, how: int, moment: float, step: float) -> str:
  """Sends a signal at a moment of a run and waits for the end.

  Args:
    process: the run.
    how: the signal.
    moment: in steps; below 1, a share of what comes before the first step.
    step: seconds of a step.

  Returns:
    What the run had said.
  """
  said = []
  # Reading the data and compiling take about as long as sixty steps.
  pause = 60 * step * moment if moment < 1 else step * (moment % 1)
  awaited = ' on cpu, mesh' if moment < 1 else f'step {int(moment)}/{STEPS}'
  for line in process.stdout:
    said.append(line)
    if awaited in line:
      break
  time.sleep(pause)
  process.send_signal(how)
  output, _ = process.communicate()
  return ''.join([*said, output])


class Restorer:
  """Restores every checkpoint that a run has left."""

  def __init__(self):
    import jax
    import numpy as np

    from maskclip_jax.train import config_files
    from maskclip_jax.train.config import read
    from maskclip_jax.train.mesh import make_mesh
    from maskclip_jax.train.step import make_program

    config = read(config_files.load(CONFIG, CHANGES))
    program = make_program(config, make_mesh(config.mesh, jax.devices()[:1]))
    arrays = {**program.layout.shapes, **program.layout.constants}
    # What is restored has shapes and places from here, and no values.
    zeros = {path: np.zeros(x.shape, x.dtype) for path, x in arrays.items()}
    self._config, self._like = config, program.start(zeros)

  def __call__(self, workdir: pathlib.Path) -> list[int]:
    """The steps that were restored; fails where one cannot be."""
    from maskclip_jax.train.checkpoint import DIRECTORY, Checkpoints

    if not (workdir / DIRECTORY).exists():
      return []
    with tempfile.TemporaryDirectory() as directory:
      # A copy: looking at checkpoints removes what is half written.
      shutil.copytree(workdir / DIRECTORY, pathlib.Path(directory) / DIRECTORY)
      checkpoints = Checkpoints(pathlib.Path(directory), self._config.checkpoint)
      steps = checkpoints.steps()
      for step in steps:
        if int(checkpoints.restore(self._like, step).step) != step:
          raise SystemExit(f'{workdir}: the checkpoint of step {step} has another step')
      checkpoints.close()
    return steps


def disturbed(
  workdir: pathlib.Path,
  cache: pathlib.Path,
  plan: Sequence[tuple[int, float]],
  step: float,
  restore: Restorer,
) -> list[dict]:
  """A run that is interrupted by signals at moments, and then finished.

  Returns:
    What was found after every interruption.
  """
  rows = []
  for how, moment in plan:
    process = start(workdir, cache)
    said = interrupt(process, how, moment, step)
    status = process.returncode
    if status not in (-how, INTERRUPTED, 0):
      raise SystemExit(f'interrupted at {moment}, a run ended with {status}:\n{said}')
    half = [p.name for p in (workdir / 'checkpoints').glob('*tmp*')]
    rows.append(
      {
        'signal': signal.Signals(how).name,
        'moment': round(moment, 2),
        'status': {INTERRUPTED: 'saved', 0: OVER}.get(status, 'killed'),
        'half_written': len(half),
        'restored': restore(workdir),
      }
    )
  finish(start(workdir, cache))
  return rows


def summary(rows: Sequence[dict], step: float) -> dict:
  """What is recorded."""
  return {
    'command': ' '.join(['python benchmarks/kills.py', *sys.argv[1:]]),
    'steps': STEPS,
    'step_seconds': round(step, 3),
    'runs': len(rows),
    'while_writing': sum(row['half_written'] > 0 for row in rows),
    'restored': sum(len(row['restored']) for row in rows),
    'same_bits': sum(row['same'] for row in rows),
    'each': list(rows),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--terms', type=int, default=5)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  rng = random.Random(options.seed)
  signals = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
  rows = []
  with tempfile.TemporaryDirectory() as directory:
    place = pathlib.Path(directory)
    cache, restore = place / 'cache', Restorer()
    finish(start(place / 'whole', cache))
    expected, step = fingerprint(place / 'whole'), step_seconds(place / 'whole')
    for number, how in enumerate(signals):
      workdir = place / f'run{number}'
      row = {'status': OVER}
      # A run that was over before the signal came shows nothing.
      while row['status'] == OVER:
        shutil.rmtree(workdir, ignore_errors=True)
        plan = [(how, rng.uniform(0, STEPS))]
        (row,) = disturbed(workdir, cache, plan, step, restore)
      rows.append({**row, 'same': fingerprint(workdir) == expected})
      print(rows[-1], flush=True)
      shutil.rmtree(workdir)
      RESULTS.write_text(json.dumps(summary(rows, step), indent=1) + '\n')
  same = sum(row['same'] for row in rows)
  print(f'{same} of {len(rows)} ended with the same bits')
  raise SystemExit(same != len(rows))


if __name__ == '__main__':
  main()
