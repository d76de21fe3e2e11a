"""A pod on this machine: two processes with four fake devices each."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
_PREAMBLE = """
import sys
from absl import flags
import jax
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_default_matmul_precision', 'highest')
from maskclip_jax.train.mesh import start_processes
*arguments, address, number = sys.argv[1:]
start_processes(address, 2, int(number), heartbeat_seconds=20)
flags.FLAGS.mark_as_parsed()
"""


def run_both(program: str, *arguments: str) -> list[str]:
  """Runs a program in both processes; what each printed.

  Args:
    program: Python, run once the processes have found each other; it finds `arguments`
      and the modules of tests/ and tests/train.
    arguments: of the program.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  tests = ROOT / 'tests'
  env = {
    **os.environ,
    'PYTHONPATH': os.pathsep.join(map(str, (ROOT, tests, tests / 'train'))),
    # Of two counts the last one holds.
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} '
    '--xla_force_host_platform_device_count=4',
  }
  command = [sys.executable, '-c', _PREAMBLE + program, *arguments, address]
  processes = [
    subprocess.Popen(
      [*command, str(number)],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for number in (0, 1)
  ]
  output = [process.communicate(timeout=600)[0] for process in processes]
  assert [p.returncode for p in processes] == [0, 0], '\n'.join(output)
  return output
