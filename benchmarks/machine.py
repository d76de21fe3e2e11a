"""What measured numbers depend on, recorded beside them."""

import importlib.metadata
import os
import platform

import jax


def machine() -> dict:
  """What the numbers depend on."""
  cores = len(os.sched_getaffinity(0))
  packages = ('jax', 'jaxlib', 'numpy', 'pycocotools', 'opencv-python-headless')
  return {
    'backend': jax.default_backend(),
    'device': jax.devices()[0].device_kind,
    'processor': _processor(),
    'cores': cores,
    'load': round(os.getloadavg()[0], 1),
    'python': platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
  }


def _processor() -> str:
  """The processor's name where the system tells it, else its architecture."""
  try:
    with open('/proc/cpuinfo') as file:
      names = [line.split(':')[1] for line in file if line.startswith('model name')]
  except FileNotFoundError:
    names = []
  return names[0].strip() if names else platform.machine()
