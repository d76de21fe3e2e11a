"""A run that is killed, and told to stop once resumed, ends with the bits of one that
was not; `benchmarks/kills.py` does it 25 times at random moments."""

import importlib.util
import pathlib
import signal

import pytest

pytestmark = pytest.mark.slow

PATH = pathlib.Path(__file__).parent.parent.parent / 'benchmarks' / 'kills.py'


@pytest.fixture(scope='module')
def kills():
  spec = importlib.util.spec_from_file_location('kills', PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.STEPS = 20
  steps = f'--config.total_steps={module.STEPS}'
  module.CHANGES += (steps,)
  return module


def test_a_kill_and_a_stop(kills, tmp_path):
  cache = tmp_path / 'cache'
  kills.finish(kills.start(tmp_path / 'whole', cache))
  step = kills.step_seconds(tmp_path / 'whole')
  # The second is later than what the first had saved.
  plan = [(signal.SIGKILL, 8.3), (signal.SIGTERM, 12.5)]
  workdir = tmp_path / 'disturbed'
  rows = kills.disturbed(workdir, cache, plan, step, kills.Restorer())
  assert [row['status'] for row in rows] == ['killed', 'saved']
  # The loop is at most a step ahead of what it has said, and a checkpoint behind.
  assert rows[0]['restored'][-1] >= 4
  assert rows[1]['restored'][-1] >= 12
  assert kills.fingerprint(workdir) == kills.fingerprint(tmp_path / 'whole')
