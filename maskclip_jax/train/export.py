"""From a run to a bundle."""

import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from maskclip_jax import jax_settings, plain
from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.params import count
from maskclip_jax.train.checkpoint import Checkpoints
from maskclip_jax.train.config import TrainConfig, read
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.records.workdir import CONFIG
from maskclip_jax.train.starting import StartingValues, starting_values
from maskclip_jax.train.step import Program, TrainState, make_program
from maskclip_jax.train.task import MODEL, flatten_modules


class _Trained(Mapping[str, np.ndarray]):
  """The parameters of the model: trained ones of a state, others as they started."""

  def __init__(self, paths, trained: Mapping[str, jax.Array], starting: StartingValues):
    self._paths, self._trained, self._starting = list(paths), trained, starting

  def __getitem__(self, path: str) -> np.ndarray:
    if path in self._trained:
      return np.asarray(self._trained[path])
    return self._starting[path]

  def __iter__(self) -> Iterator[str]:
    return iter(self._paths)

  def __len__(self) -> int:
    return len(self._paths)


def save_bundle(
  directory: pathlib.Path,
  program: Program,
  state: TrainState,
  starting: StartingValues,
  best: str = '',
) -> None:
  """Writes the trained model as a bundle; every process takes part.

  Args:
    directory: the directory of the bundle.
    program: the program of the run: says which paths the model has.
    state: trained parameters.
    starting: all others.
    best: the number that this state was chosen by, for people; '' if it was not.

  Raises:
    ValueError, OSError: it cannot be written.
  """
  config, task = program.config, program.task
  everywhere = NamedSharding(program.mesh, PartitionSpec())
  gather = jax.jit(lambda x: x, out_shardings=everywhere)
  # What other processes hold is fetched from them, one array after another.
  trained = {
    path: np.asarray(x if x.is_fully_addressable else gather(x))
    for path, x in state.params.items()
  }
  if jax.process_index() != 0:
    return
  modules = {MODEL: task.modules()[MODEL]}
  shapes = flatten_modules(modules)
  source = {
    'trained': {'step': int(state.step), 'config': plain.to_dict(config)},
    'started_from': starting.record(),
  }
  bundle.save(
    directory,
    task.exported(config).to_dict(),
    _Trained(shapes, trained, starting),
    source=source,
    card=_card(config, int(state.step), starting, count(shapes), best),
    tokenizer=config.tokenizer,
  )


@jax_settings.own()
def export_checkpoint(
  workdir: str | pathlib.Path, to: str | pathlib.Path, step: str | None = None
) -> str:
  """Makes a bundle of a checkpoint of a run; the run need not be over.

  Args:
    workdir: the run's directory.
    to: the bundle's directory.
    step: a number, or 'best'; the latest by default.

  Returns:
    What was done, in one line.

  Raises:
    FileNotFoundError, ValueError: no run, no such checkpoint, or no place for it.
  """
  workdir, to = pathlib.Path(workdir), pathlib.Path(to)
  if not (workdir / CONFIG).is_file():
    raise FileNotFoundError(
      f'{workdir} is not a directory of a run: it has no {CONFIG}'
    )
  if step not in (None, 'best') and not step.isdigit():
    raise ValueError(f"--step is a number or 'best', not {step!r}")
  bundle.check_target(to)
  config = read(plain.read_json(workdir / CONFIG))
  mesh = make_mesh(MeshConfig(data=1), jax.local_devices()[:1])
  program = make_program(config, mesh)
  starting = starting_values(program.task, tuple(config.start.values()), config.seed)
  checkpoints = Checkpoints(workdir, config.checkpoint)
  try:
    chosen = checkpoints.best() if step == 'best' else step
    if step == 'best' and chosen is None:
      raise ValueError(
        f'the run in {workdir} keeps no best: set config.checkpoint.best'
      )
    state = program.start(starting)
    state = checkpoints.restore(state, None if chosen is None else int(chosen))
  finally:
    checkpoints.close()
  save_bundle(to, program, state, starting)
  return f'{to}: {config.preset} after {int(state.step)} of {config.total_steps} steps'


def _card(
  config: TrainConfig,
  step: int,
  starting: StartingValues,
  parameters: int,
  best: str,
) -> str:
  data = ', '.join(f'{d.view} ({d.split})' for d in config.data.datasets)
  sources = [
    f'- `{row["source"]}`, fingerprint `{row["fingerprint"]}`'
    for row in starting.record()
  ]
  return '\n'.join(
    [
      f'# {pathlib.PurePath(config.preset).name}, trained by maskclip_jax',
      '',
      f'{parameters:,} parameters, all float32. Stage `{config.task}`, profile '
      f'`{config.profile}`, {step:,} of {config.total_steps:,} steps with '
      f'{config.data.batch_size} photos each.',
      *([f'The best of the evaluations on the way: {best}.'] if best else []),
      '',
      f'Training data: {data or f"{config.data.generated} generated pictures"}.',
      '',
      '## Where it started from',
      '',
      *(sources or ['Random values.']),
      '',
      '## Licence of the weights',
      '',
      'They inherit the terms of what they started from and of the training data.',
      '',
    ]
  )
