"""Test-wide settings: full matmul precision, compiled programs kept in pytest's cache
directory, and what tests share."""

import gc
import os
import pathlib

# Most of the time of these tests is XLA's. Programs are keyed by their content, so a
# second run, another worker and a child process, which inherits these, reuse them, as
# do commands that are told of no cache of their own.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'jax'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
os.environ.setdefault('JAX_DEFAULT_MATMUL_PRECISION', 'highest')

import jax
import pytest
from absl import flags

# grain's worker processes refuse to start while absl's flags are unparsed.
flags.FLAGS.mark_as_parsed()


TESTS = pathlib.Path(__file__).parent
# Half a minute or more each, the longest first.
LONGEST = (
  'train/test_devices_proposals.py',
  'train/test_shipped_configs.py',
  'train/test_stages.py',
  'train/test_own_photos.py',
  'systems/test_fcclip.py',
  'test_docs_commands.py',
  'miniature/test_stages_of_training.py',
  'systems/test_mask2former.py',
  'cli/test_predict.py',
  'train/test_moves.py',
  'train/test_devices.py',
  'train/test_kills.py',
  'systems/test_maskclip.py',
  'deploy/test_artefact.py',
  'test_compose.py',
  'eval/test_long_diagnosis.py',
  'train/test_loop.py',
  'mining/test_mining.py',
)


def pytest_collection_modifyitems(items):
  """Begins with the longest files: a process that took one last would end alone."""
  ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
  items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish():
  """Spares Python's collector what has been imported, which stays, and most rounds:
  tracing makes hundreds of thousands of objects and little garbage. A tenth of the
  time."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup(item):
  """Skips what needs more devices than this process has."""
  if item.get_closest_marker('eight_devices') and jax.device_count() < 8:
    pytest.skip(
      'needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8 '
      'python -m pytest -m eight_devices'
    )


@pytest.fixture(scope='module', autouse=True)
def _release_programs():
  """Frees a module's compiled programs, which would add up to gigabytes."""
  yield
  jax.clear_caches()
  gc.collect()
