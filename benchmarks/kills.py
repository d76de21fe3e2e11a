"""Kills training at random moments and compares the ends, bit for bit.

    python benchmarks/kills.py [--kills 20] [--terms 5] [--seed 0]

A small run is done once without interruption. Then it is done again and again, each
time killed (SIGKILL) or told to stop (SIGTERM) at a random moment, and started again
until it is over. Every start must find checkpoints that can be restored, and every end
must be the same model. Writes benchmarks/results/kills.json.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent
RESULTS = ROOT / 'results' / 'kills.json'
STEPS = 60
INTERRUPTED = 143


def start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
  """One attempt at the run: tiny MasQ-tuning with a checkpoint every other step."""
  command = [
    *(sys.executable, '-m', 'maskclip_jax', 'train', '--workdir', str(workdir)),
    *('--config', 'configs/masqclip.py:stage=masq,runlocal'),
    f'--config.total_steps={STEPS}',
    '--config.checkpoint.every=2',
    '--config.log.every=5',
  ]
  env = {
    **os.environ,
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  return subprocess.Popen(
    command,
    cwd=ROOT.parent,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process: subprocess.Popen) -> str:
  output, _ = process.communicate(timeout=900)
  if process.returncode:
    raise SystemExit(f'a run ended with {process.returncode}:\n{output}')
  return output


def fingerprint(workdir: pathlib.Path) -> str:
  return json.loads((workdir / 'bundle' / 'config.json').read_text())['fingerprint']


def steps_reached(workdir: pathlib.Path) -> int:
  """The last whole checkpoint when the run was killed."""
  names = [p.name for p in (workdir / 'checkpoints').glob('step_????????')]
  return max((int(name.removeprefix('step_')) for name in names), default=0)


def interrupted(
  workdir: pathlib.Path, cache: pathlib.Path, how: int, after: float
) -> dict:
  """A run that is interrupted once, and then finished."""
  process = start(workdir, cache)
  time.sleep(after)
  running = process.poll() is None
  process.send_signal(how)
  process.communicate()
  reached = steps_reached(workdir)
  partial = [p.name for p in (workdir / 'checkpoints').glob('*tmp*')]
  status = process.returncode
  if how == signal.SIGTERM and status == INTERRUPTED:
    status = 'saved'
  finish(start(workdir, cache))
  return {
    'after_seconds': round(after, 2),
    'running': running,
    'status': status,
    'checkpoint_step': reached,
    'half_written': len(partial),
    'fingerprint': fingerprint(workdir),
  }


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--terms', type=int, default=5)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args()
  rng = random.Random(options.seed)
  rows = []
  with tempfile.TemporaryDirectory() as directory:
    place = pathlib.Path(directory)
    cache = place / 'cache'
    finish(start(place / 'warm', cache))
    begun = time.perf_counter()
    finish(start(place / 'whole', cache))
    seconds = time.perf_counter() - begun
    expected = fingerprint(place / 'whole')
    for number in range(options.kills + options.terms):
      how = signal.SIGKILL if number < options.kills else signal.SIGTERM
      # The first half of a run is start-up, in which there is little to destroy.
      after = rng.uniform(0.35, 1.0) * seconds
      row = interrupted(place / f'run{number}', cache, how, after)
      same = row.pop('fingerprint') == expected
      row = {'signal': how.name, **row, 'same': same}
      rows.append(row)
      print(row, flush=True)
  RESULTS.parent.mkdir(exist_ok=True)
  summary = {'steps': STEPS, 'seconds_uninterrupted': round(seconds, 1), 'runs': rows}
  RESULTS.write_text(json.dumps(summary, indent=1) + '\n')
  same = sum(row['same'] for row in rows)
  print(f'{same} of {len(rows)} ended with the same bits')
  raise SystemExit(same != len(rows))


if __name__ == '__main__':
  main()
