"""Checkpoints of a run: written in the background, whole or not at all.

Only what training changes is kept: the step, the trained parameters and the optimiser's
slots. What is frozen comes from the files the run started from. A checkpoint can be
restored onto another mesh and another number of processes.
"""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Mapping, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from maskclip_jax.mapping.problems import Problems, dims
from maskclip_jax.train.config import CheckpointSettings
from maskclip_jax.train.records.log import evaluations
from maskclip_jax.train.step import TrainState

DIRECTORY = 'checkpoints'
# What is not kept any more goes here first, whole: a kill while it is deleted would
# leave a checkpoint that cannot be restored.
_TRASH = 'deleted'
# A checkpoint in the making stands beside those that are kept.
_SPARE = 1.1


@dataclasses.dataclass(frozen=True)
class _Protected(policies.PreservationPolicy):
  """Keeps the checkpoints of some steps, which may change."""

  steps: Set[int]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    return [checkpoint.step in self.steps for checkpoint in checkpoints]


@jax.jit
def _copied(arrays: Any) -> Any:
  """The same in memory of its own, by one program and not by one for every shape."""
  return jax.tree.map(jnp.copy, arrays)


class Checkpoints:
  """The checkpoints in a run's workdir.

  Args:
    workdir: the run's directory; every process gives the same.
    settings: which are kept.
  """

  def __init__(self, workdir: pathlib.Path, settings: CheckpointSettings):
    self._protected: set[int] = set()
    keep = [policies.LatestN(settings.keep), _Protected(self._protected)]
    if settings.best and not settings.by_evaluation:
      least = settings.mode != 'max'
      worst = math.inf if least else -math.inf
      keep.append(
        policies.BestN(
          # A checkpoint before the first logged number has none.
          get_metric_fn=lambda metrics: metrics.get(settings.best, worst),
          reverse=least,
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    self._settings, self._workdir = settings, pathlib.Path(workdir)
    self.directory = pathlib.Path(workdir).absolute() / DIRECTORY
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(keep),
        step_name_format=ocp.path.step.standard_name_format(
          step_prefix='step', step_format_fixed_length=8
        ),
        # What an interrupted run left half written.
        cleanup_tmp_directories=True,
        todelete_subdir=_TRASH,
      ),
      item_handlers={
        'state': ocp.StandardCheckpointHandler(),
        'info': ocp.JsonCheckpointHandler(),
      },
    )

  def steps(self) -> list[int]:
    """Steps of which there is a whole checkpoint, ascending."""
    self.wait()
    return sorted(self._manager.all_steps())

  def latest(self) -> int | None:
    """The last of them."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """The best of them by the settings' metric; None without a metric."""
    name, steps = self._settings.best, self.steps()
    if self._settings.by_evaluation:
      made = evaluations(self._workdir, max(steps, default=-1))
      metrics = {step: row for step, row in made.items() if step in steps}
    else:
      metrics = {step: self.info(step)['metrics'] for step in steps}
    return self._settings.best_of({s: m[name] for s, m in metrics.items() if name in m})

  def protect(self, step: int | None) -> None:
    """Keeps one checkpoint besides the latest, in the place of that named before."""
    self._protected.clear()
    if step is not None:
      self._protected.add(step)

  def should_stop(self, step: int) -> bool:
    """Whether the cluster wants the run to end; all processes hear it at one step."""
    return self._manager.reached_preemption(step)

  def save(
    self,
    state: TrainState,
    info: Mapping[str, Any],
    metrics: Mapping[str, float],
  ) -> None:
    """Starts writing a checkpoint; waits for the one before.

    Args:
      state: the state of the run.
      info: plain values beside it.
      metrics: what the best is chosen by.

    Raises:
      OSError: the disk has no room, or the last checkpoint could not be written.
    """
    self.wait()
    step, kept = int(state.step), kept_part(state)
    self._check_room(kept, step)
    if jax.default_backend() == 'cpu':
      # The next step writes into this memory, which a CPU's checkpoint would share.
      kept = _copied(kept)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(kept),
        info=ocp.args.JsonSave({**info, 'metrics': dict(metrics)}),
      ),
      metrics=dict(metrics),
      force=True,
    )

  def wait(self) -> None:
    """Waits until everything is on the disk.

    Raises:
      OSError: it could not be written.
    """
    try:
      self._manager.wait_until_finished()
    # What the checkpoint library raises for a disk that is full or gone.
    except (ValueError, RuntimeError, OSError) as error:
      raise OSError(
        f'a checkpoint could not be written to {self.directory}: {error}'
      ) from error
    if jax.process_index() == 0:
      shutil.rmtree(self.directory / _TRASH, ignore_errors=True)

  def restore(self, like: TrainState, step: int | None = None) -> TrainState:
    """The state of a checkpoint, laid out as `like`, with its frozen part.

    Args:
      like: a state of the right structure, with arrays where they are to lie.
      step: which checkpoint; the latest by default.

    Raises:
      ValueError: none of that step, or one of another model.
    """
    if step is None:
      step = self.latest()
    if step is None or step not in self.steps():
      raise ValueError(
        f'{self.directory} has no checkpoint of step {step}: there are {self.steps()}'
      )
    target = jax.tree.map(_as_target, kept_part(like))
    self._check(target, step)
    restored = self._manager.restore(
      step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
    )['state']
    return dataclasses.replace(
      like, step=restored['step'], params=restored['params'], opt=restored['opt']
    )

  def info(self, step: int) -> dict[str, Any]:
    """The plain values beside a checkpoint."""
    self.wait()
    return self._manager.restore(
      step, args=ocp.args.Composite(info=ocp.args.JsonRestore())
    )['info']

  def close(self) -> None:
    """Waits, and ends background threads."""
    self.wait()
    self._manager.close()

  def _check_room(self, kept: Any, step: int) -> None:
    needed = _SPARE * sum(x.nbytes for x in jax.tree.leaves(kept))
    free = shutil.disk_usage(self.directory).free
    if free < needed:
      last = self.latest()
      raise OSError(
        f'no room for the checkpoint of step {step}: it needs {needed / 1e9:.2f} GB '
        f'and {self.directory} has {free / 1e9:.2f} GB; free some and start again, the '
        f'run resumes at step {last or 0}'
      )

  def _check(self, target: Any, step: int) -> None:
    saved = shapes_by_name(self._manager.item_metadata(step)['state'])
    wanted = shapes_by_name(target)
    problems = Problems()
    problems['missing'] = sorted(set(wanted) - set(saved))
    problems['unknown'] = sorted(set(saved) - set(wanted))
    problems['misshapen'] = [
      f'{name} is {dims(saved[name])}, expected {dims(shape)}'
      for name, shape in wanted.items()
      if name in saved and saved[name] != shape
    ]
    problems.raise_if_any(f'{self.directory}: step {step} is of another model')


def kept_part(state: TrainState) -> dict[str, Any]:
  """What a checkpoint holds of a state."""
  return {'step': state.step, 'params': state.params, 'opt': state.opt}


def _as_target(x) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every array, whatever containers they are in."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = (
    ('/'.join(str(_key(k)) for k in keys), leaf)
    for keys, leaf in leaves
    if hasattr(leaf, 'shape')
  )
  return {name: tuple(np.atleast_1d(leaf.shape)) for name, leaf in named}


def _key(key: Any) -> Any:
  return getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))
