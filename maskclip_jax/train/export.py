"""From a run to a bundle."""

import pathlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maskclip_jax.io import bundle
from maskclip_jax.io.params import count
from maskclip_jax.train.config import TrainConfig, to_dict
from maskclip_jax.train.starting import Starting
from maskclip_jax.train.state import TrainState
from maskclip_jax.train.task import MODEL, Task, flatten_modules


class _Trained(Mapping[str, np.ndarray]):
  """The parameters of the model: trained ones of a state, others as they started."""

  def __init__(self, paths, trained: Mapping[str, jax.Array], starting: Starting):
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
  config: TrainConfig,
  task: Task,
  state: TrainState,
  starting: Starting,
  mesh: Mesh,
) -> None:
  """Writes the trained model as a bundle; every process takes part.

  Args:
    directory: of the bundle.
    config: of the run.
    task: tells which paths the model has.
    state: trained parameters.
    starting: all others.
    mesh: where the state lies.

  Raises:
    ValueError: it cannot be written.
  """
  everywhere = NamedSharding(mesh, PartitionSpec())
  gather = jax.jit(lambda x: x, out_shardings=everywhere)
  trained = {path: np.asarray(gather(x)) for path, x in state.params.items()}
  if jax.process_index() != 0:
    return
  modules = {MODEL: task.modules()[MODEL]}
  shapes = flatten_modules(modules)
  source = {
    'trained': {'step': int(state.step), 'config': to_dict(config)},
    'started_from': starting.record(),
  }
  bundle.save(
    directory,
    config.chosen_preset().to_dict(),
    _Trained(shapes, trained, starting),
    source=source,
    card=_card(config, int(state.step), starting, count(shapes)),
  )


def _card(config: TrainConfig, step: int, starting: Starting, parameters: int) -> str:
  data = ', '.join(f'{d.view} ({d.split})' for d in config.data.datasets)
  sources = [
    f'- `{row["source"]}`, fingerprint `{row["fingerprint"]}`'
    for row in starting.record()
  ]
  return '\n'.join(
    [
      f'# {config.preset}, trained by maskclip_jax',
      '',
      f'{parameters:,} parameters, all float32. Stage `{config.task}`, profile '
      f'`{config.profile}`, {step:,} of {config.total_steps:,} steps with '
      f'{config.data.batch_size} photos each.',
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
