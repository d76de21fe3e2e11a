"""Several stages as one run: each starts from the one before.

Every stage has a directory of its own inside the pipeline's. A stage that has been
exported is done; the one that was interrupted resumes at its last checkpoint.
"""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maskclip_jax.checkpoints import bundle
from maskclip_jax.train.config import TrainConfig, read
from maskclip_jax.train.loop import Result, train
from maskclip_jax.train.records import workdir as workdirs

# Stands for the pipeline's directory in the sources of a stage.
WORKDIR = '{workdir}'


def read_stages(
  values: Mapping[str, Any], workdir: pathlib.Path
) -> dict[str, TrainConfig]:
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
    try:
      stages[name] = read(_placed(values['stages'][name], str(workdir)))
    except ValueError as error:
      text = str(error).replace('config.', f'config.stages.{name}.')
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
  say: Callable[[str], None] = print,
  compiling: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Result | None:
  """Runs the stages that are not done, in order.

  Args:
    values: plain values: `stages`, name -> configuration, and their `order`.
    workdir: the pipeline's directory.
    command: what was typed, for the records.
    say: where notes go.
    compiling: entered while a step is compiled, when nothing needs to be saved.

  Returns:
    How the last stage that ran ended; None if all were done before.

  Raises:
    FileNotFoundError, ValueError, OSError: see `loop.train`.
  """
  workdir = pathlib.Path(workdir).absolute()
  stages = read_stages(values, workdir)
  for name, config in stages.items():
    workdirs.check(workdir / name, config)
  result = None
  with workdirs.locked(workdir):
    for name, config in stages.items():
      directory = workdir / name
      if bundle.is_bundle(directory / bundle.OF_RUN):
        say(f'{name}: done before')
        continue
      say(f'{name}: {config.total_steps} steps')
      result = train(config, directory, command=command, say=say, compiling=compiling)
      if not result.finished:
        break
  return result
