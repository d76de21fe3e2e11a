"""Test-wide settings: eight fake CPU devices, full matmul precision, compiled programs
kept in pytest's cache directory."""

import os
import pathlib

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
).strip()

import jax
from absl import flags

jax.config.update('jax_default_matmul_precision', 'highest')
# Most of the time of these tests is XLA's. Programs are keyed by their content, so a
# second run, another worker and a subprocess reuse them.
CACHE = pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'jax'
jax.config.update('jax_compilation_cache_dir', str(CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
# grain's worker processes refuse to start while absl's flags are unparsed.
flags.FLAGS.mark_as_parsed()
