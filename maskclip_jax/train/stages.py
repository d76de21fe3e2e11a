"""Several stages as one run: each starts from the one before.

Every stage has a directory of its own inside the pipeline's. A stage that has been
exported is done; the one that was interrupted resumes at its last checkpoint. A stage
may also mine the pairs that the next one trains on: it goes on with the files that are
missing.
"""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from maskclip_jax import plain
from maskclip_jax.checkpoints import bundle
from maskclip_jax.mining.job import MiningJob
from maskclip_jax.mining.mine import check_source, mine
from maskclip_jax.train.config import TrainConfig, read
from maskclip_jax.train.evaluation import plan
from maskclip_jax.train.loop import Result, train
from maskclip_jax.train.records import workdir as workdirs

# Stands for the pipeline's directory in the sources of a stage.
WORKDIR = '{workdir}'

Say = Callable[[str], None]


def read_stages(
  values: Mapping[str, Any], workdir: pathlib.Path
) -> dict[str, TrainConfig | MiningJob]:
  """The configurations of all stages.

  Raises:
    ValueError: as for one configuration, with the name of the stage.
  """
  if set(values) != {'order', 'stages'} or set(values['order']) != set(
    values['stages']
  ):
    raise ValueError("a pipeline has 'stages', and 'order' with the name of each")
  stages = {}
  for name in values['order']:
    own, where = _placed(values['stages'][name], str(workdir)), f'config.stages.{name}'
    try:
      if 'out' in own:
        # Pairs have a folder that they go to; runs have a directory.
        stages[name] = plain.read(MiningJob, own, where)
        continue
      stages[name] = read(own)
    except ValueError as error:
      text = str(error)
      if where not in text:
        text = text.replace('config.', f'{where}.')
      raise ValueError(f'stage {name}: {text}') from error
  return stages


def _placed(value: Any, workdir: str) -> Any:
  if isinstance(value, Mapping):
    return {name: _placed(inner, workdir) for name, inner in value.items()}
  if isinstance(value, str):
    return value.replace(WORKDIR, workdir)
  return value


def run_pipeline(
  values: Mapping[str, Any],
  workdir: pathlib.Path | str,
  *,
  command: Sequence[str] = (),
  say: Say = print,
  compiling: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Result | None:
  """Runs the stages that are not done, in order.

  Args:
    values: plain values: `stages`, name -> configuration, and their `order`.
    workdir: the pipeline's directory.
    command: what was typed, for the records.
    say: where notes go.
    compiling: entered while a step is compiled or pairs are mined, when nothing needs
      to be saved.

  Returns:
    How the last training stage that ran ended; None if all were done before.

  Raises:
    FileNotFoundError, ValueError, OSError: see `loop.train` and `mine.mine`.
    ImportError: nouns come from a package that is not installed.
  """
  workdir = pathlib.Path(workdir).absolute()
  stages = read_stages(values, workdir)
  for name, stage in stages.items():
    # Its turn may come after days of training.
    if isinstance(stage, MiningJob):
      check_source(stage)
    else:
      workdirs.check(workdir / name, stage)
      plan(stage)
  result = None
  with workdirs.locked(workdir):
    for name, stage in stages.items():
      directory = workdir / name
      if isinstance(stage, MiningJob):
        with compiling():
          _mine(name, stage, say)
        continue
      if bundle.is_bundle(directory / bundle.OF_RUN):
        say(f'{name}: done before')
        continue
      say(f'{name}: {stage.total_steps} steps')
      result = train(stage, directory, command=command, say=say, compiling=compiling)
      if not result.finished:
        break
      # One process writes the bundle that all start the next stage from.
      multihost_utils.sync_global_devices(name)
  return result


def _mine(name: str, job: MiningJob, say: Say) -> None:
  """Mines what is missing.

  Raises:
    ValueError: processes that do not belong to this run mine the same pairs.
  """
  mined = mine(job, progress=lambda done, of: say(f'{name}: {done:,} of {of:,} photos'))
  now = '' if mined.fresh else ', done before'
  if jax.process_count() > 1:
    # Each took files that no other was busy with.
    multihost_utils.sync_global_devices(name)
    mined = mine(job)
  if mined.elsewhere:
    raise ValueError(
      f'{mined.elsewhere} files of {job.out} are being mined by other processes: start '
      'again when they are done'
    )
  say(f'{name}: {mined.pairs:,} pairs{now}; report: {mined.report}')
