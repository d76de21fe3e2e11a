"""Who mines the shards: processes of this machine, or the machines of a Ray cluster."""

import concurrent.futures
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from maskclip_jax.mining.job import MiningJob
from maskclip_jax.mining.shards import ShardMiner
from maskclip_jax.processes import process_pool

Engine = Literal['local', 'ray']
# How a process gets ready, such as by keeping its compiled programs.
Setup = Callable[[], None]


def run(
  job: MiningJob,
  shards: Sequence[int],
  *,
  engine: Engine = 'local',
  workers: int = 1,
  setup: Setup | None = None,
) -> Iterator[dict[str, int]]:
  """Mines shards; the order of the results is that of their ends.

  Args:
    job: the job.
    shards: their numbers.
    engine: 'local', processes of this machine, or 'ray'.
    workers: how many at a time; one local worker is this process.
    setup: called in each process before it mines; must survive pickling.

  Yields:
    A row of what `ShardMiner` returns.

  Raises:
    ImportError: Ray is not installed.
    ValueError: an unknown engine, no workers, a worker that was killed, or what
      `ShardMiner` raises.
  """
  if engine not in ('local', 'ray'):
    raise ValueError(f"engine must be 'local' or 'ray', not {engine!r}")
  if workers < 1:
    raise ValueError(f'workers must be 1 or more, not {workers}')
  if not shards:
    return iter(())
  if engine == 'ray':
    return _on_ray(job, shards, workers, setup)
  if workers == 1:
    return _here(job, shards, setup)
  return _in_processes(job, shards, min(workers, len(shards)), setup)


def _here(
  job: MiningJob, shards: Sequence[int], setup: Setup | None
) -> Iterator[dict[str, int]]:
  if setup is not None:
    setup()
  miner = ShardMiner(job)
  for shard in shards:
    yield from _rows(miner({'shard': np.array([shard])}))


def _rows(batch: Mapping[str, np.ndarray]) -> Iterator[dict[str, int]]:
  for values in zip(*batch.values(), strict=True):
    yield dict(zip(batch, map(int, values), strict=True))


@functools.cache
def _own_miner(job: MiningJob, setup: Setup | None) -> ShardMiner:
  """The miner of this process."""
  if setup is not None:
    setup()
  return ShardMiner(job)


def _mine_one(job: MiningJob, setup: Setup | None, shard: int) -> dict[str, int]:
  (row,) = _rows(_own_miner(job, setup)({'shard': np.array([shard])}))
  return row


def _in_processes(
  job: MiningJob, shards: Sequence[int], workers: int, setup: Setup | None
) -> Iterator[dict[str, int]]:
  with process_pool(workers) as pool:
    futures = [pool.submit(_mine_one, job, setup, shard) for shard in shards]
    try:
      for future in concurrent.futures.as_completed(futures):
        yield future.result()
    except concurrent.futures.BrokenExecutor as error:
      raise ValueError(
        'a process that mines was killed, perhaps for want of memory: run the same '
        'command again, with fewer --workers; finished shards are kept'
      ) from error
    finally:
      for future in futures:
        future.cancel()


class _OnRay:
  """`ShardMiner` as an actor: ready, and with errors of the user in one piece."""

  def __init__(self, job: MiningJob, setup: Setup | None):
    if setup is not None:
      setup()
    self._miner = ShardMiner(job)

  def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return self._miner(batch)


def _on_ray(
  job: MiningJob, shards: Sequence[int], workers: int, setup: Setup | None
) -> Iterator[dict[str, int]]:
  try:
    import ray
    import ray.data
  except ImportError:
    raise ImportError(
      "Ray is not installed: pip install 'maskclip_jax[ray]', or leave out --engine ray"
    ) from None
  if not ray.is_initialized():
    ray.init(log_to_driver=False, logging_level='error')
  # The progress is shown here, and Ray would warn that it shows none.
  logging.getLogger('ray.data').setLevel(logging.ERROR)
  ray.data.DataContext.get_current().enable_progress_bars = False
  options: dict[str, Any] = {}
  if ray.cluster_resources().get('GPU'):
    options['num_gpus'] = 1
  rows = ray.data.from_items(
    [{'shard': int(shard)} for shard in shards], override_num_blocks=len(shards)
  ).map_batches(
    _OnRay,
    fn_constructor_args=(job, setup),
    batch_size=1,
    batch_format='numpy',
    compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards))),
    **options,
  )
  try:
    for row in rows.iter_rows():
      yield {name: int(value) for name, value in row.items()}
  except ray.exceptions.RayTaskError as error:
    cause = error.cause if isinstance(error.cause, ValueError | OSError) else None
    raise cause or ValueError(f'a Ray worker failed: {error}') from error
