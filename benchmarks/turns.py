"""Programs that are measured in turns, so that what else a machine does meets all."""

import time
from collections.abc import Callable, Mapping

import jax


def in_turns(
  programs: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
  """Seconds of every run of each program, the first among them.

  Args:
    programs: by name.
    repeats: runs of each after the first, which may compile.
  """
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(1 + repeats):
    for name, program in programs.items():
      begin = time.perf_counter()
      jax.block_until_ready(program())
      seconds[name].append(time.perf_counter() - begin)
  return seconds
