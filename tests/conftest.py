"""Test-wide settings: eight fake CPU devices and full matmul precision."""

import os

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
).strip()

import jax
from absl import flags

jax.config.update('jax_default_matmul_precision', 'highest')
# grain's worker processes refuse to start while absl's flags are unparsed.
flags.FLAGS.mark_as_parsed()
