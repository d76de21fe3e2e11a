"""What a training run is made of, as frozen dataclasses, and how to read them.

A configuration file returns plain values (`configs/*.py`); `read` turns them into a
`TrainConfig` and names every field that is unknown or of a wrong type.
"""

import dataclasses
import functools
import pathlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Literal

from maskclip_jax import plain, zoo
from maskclip_jax.checkpoints import bundle, restore
from maskclip_jax.data.pipeline import DataConfig
from maskclip_jax.names import unknown
from maskclip_jax.systems.system import Preset
from maskclip_jax.train import tasks
from maskclip_jax.train.mesh import MeshConfig
from maskclip_jax.train.optim import OptimConfig


def task_names() -> tuple[str, ...]:
  """The names of all tasks, those of the files in `train/tasks/`."""
  return tuple(sorted(module.name for module in pkgutil.iter_modules(tasks.__path__)))


@dataclasses.dataclass(frozen=True)
class StartFrom:
  """Where some of the starting values come from.

  Attributes:
    source: a bundle, the workdir of a finished run, or ImageNet weights for the
      backbone, a file or the folder of a repository.
    source_prefix: the part of it that is taken, 'proposals'; everything by default.
    target_prefix: the part of this model that it becomes, 'clip'; all of it by default.
      A helper is a part too: 'teacher'.
    keep_random: regular expressions over paths of this model that keep their random
      start, although the source may have them (a class head of another size).
    hint: says what the source should be, for whoever has to give it.
  """

  source: str = ''
  source_prefix: str = plain.renamed('take', '')
  target_prefix: str = plain.renamed('at', '')
  keep_random: tuple[str, ...] = plain.renamed('leave', ())
  hint: str = plain.renamed('what', '')


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
  """When checkpoints are written and which are kept.

  Attributes:
    every: steps; one is written at the end too, and when the run is told to stop.
    keep: latest ones that stay.
    best: a number whose best checkpoint stays as well; '' for none. One of the
      evaluations ('ade150/PQ') also decides which step the run exports; a logged one
      ('loss') does not.
    mode: whether its least or its largest value is best; 'auto' is the largest of an
      evaluation's numbers and the least of logged ones.
  """

  every: int = 1000
  keep: int = 2
  best: str = ''
  mode: Literal['auto', 'min', 'max'] = 'auto'

  def __post_init__(self):
    plain.at_least(self, 1, 'every', 'keep')

  @property
  def by_evaluation(self) -> bool:
    """Whether the best is chosen by a number of the evaluations."""
    return '/' in self.best

  def best_of(self, values: Mapping[int, float]) -> int | None:
    """The step with the best value, the first of equal ones; None of no values."""
    largest = self.mode == 'max' or (self.mode == 'auto' and self.by_evaluation)
    pick = max if largest else min
    return pick(sorted(values), key=values.get, default=None)


@dataclasses.dataclass(frozen=True)
class EvalSettings:
  """Evaluation during the run (`evaluation.py`).

  Attributes:
    evals: protocols, 'ade150,pc59'; '' for no evaluation.
    every: steps between evaluations; there is one at the end, too.
    at_start: the starting values are evaluated as well, and may be the best.
    images: photos of each protocol, the first ones; 0 for all.
    tasks: some of those that the protocols judge, 'panoptic,semantic'; '' for all.
    patience: the run ends after so many evaluations without a better
      `checkpoint.best`; 0 for the whole run.
    data_dir: where the protocols' datasets lie; that of the training data by default.
    batch_size: photos per call of the network, over the devices of a process; 0 for one
      a device.
    save_every: photos between two savings of an evaluation's state.
  """

  evals: str = ''
  every: int = 1000
  at_start: bool = False
  images: int = 0
  tasks: str = ''
  patience: int = 0
  data_dir: str | None = None
  batch_size: int = 0
  save_every: int = 50

  def __post_init__(self):
    plain.at_least(self, 1, 'every', 'save_every')
    plain.at_least(self, 0, 'images', 'patience', 'batch_size')


@dataclasses.dataclass(frozen=True)
class LogSettings:
  """What is to be seen of a run.

  Attributes:
    every: steps between lines.
    pictures: steps between pictures of predicted masks; 0 for none.
    profile_at: step at which a profiler trace begins; -1 for none.
    profile_steps: how long it is.
  """

  every: int = 20
  pictures: int = 1000
  profile_at: int = -1
  profile_steps: int = 3

  def __post_init__(self):
    plain.at_least(self, 1, 'every', 'profile_steps')
    plain.at_least(self, 0, 'pictures')
    plain.at_least(self, -1, 'profile_at')


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """One stage of training.

  Attributes:
    task: one of `task_names()`.
    profile: 'released' or 'paper', where paper and released code differ.
    settings: fields of the task's own config that differ from the profile.
    preset: name of the model (`zoo.presets()`), or a bundle that is like it.
    model: fields of the preset's config that differ.
    vocabulary: words of the classes of the training data, in their order, for tasks
      that read text; by default those of the data.
    data: what to train on.
    start: where the starting values come from, each under a name of your choice.
    total_steps: length of the run; schedules are fractions of it.
    optim: the optimiser.
    mesh: how devices share the work.
    checkpoint: what is kept.
    eval: what is evaluated on the way.
    log: what is shown.
    dtype: compute type; parameters and losses are float32.
    remat: recompute blocks of the proposal network in the backward pass.
    seed: the seed of starting values and of sampled points.
  """

  task: str
  preset: str
  total_steps: int
  data: DataConfig
  profile: Literal['released', 'paper'] = 'released'
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  vocabulary: str = ''
  start: Mapping[str, StartFrom] = dataclasses.field(default_factory=dict)
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
  checkpoint: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
  eval: EvalSettings = dataclasses.field(default_factory=EvalSettings)
  log: LogSettings = dataclasses.field(default_factory=LogSettings)
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  remat: bool = False
  seed: int = 0

  def __post_init__(self):
    if self.task not in task_names():
      raise unknown('task', self.task, task_names())
    plain.at_least(self, 1, 'total_steps')
    plain.at_least(self, 0, 'seed')
    if self.data.batch_size % self.optim.accumulate:
      raise ValueError(
        f'a batch of {self.data.batch_size} does not divide into '
        f'{self.optim.accumulate} parts (optim.accumulate)'
      )
    if self.checkpoint.by_evaluation and not self.eval.evals:
      raise ValueError(
        f'checkpoint.best is {self.checkpoint.best!r}, and nothing is evaluated: name '
        'the protocols in eval.evals'
      )
    if self.eval.patience and not self.checkpoint.by_evaluation:
      raise ValueError(
        'eval.patience waits for a better number of the evaluations: say which in '
        "checkpoint.best, 'ade150/PQ'"
      )
    _ = self.chosen_preset  # Names a wrong field of the model when it is read.
    for name, start in self.start.items():
      if not start.source:
        raise ValueError(
          f'start.{name}.source is empty: set --config.start.{name}.source to '
          f'{start.hint or "a bundle"}'
        )

  @functools.cached_property
  def tokenizer(self) -> pathlib.Path | None:
    """The tokenizer's file of the bundle that the model is like, if it has one."""
    if not pathlib.Path(self.preset).is_dir():
      return None
    return bundle.load(restore.find_bundle(self.preset)).tokenizer

  @functools.cached_property
  def chosen_preset(self) -> Preset:
    """The preset with the config's changes.

    Raises:
      FileNotFoundError, ValueError: no such preset, bundle or field.
    """
    if pathlib.Path(self.preset).is_dir():
      _, preset = restore.open_bundle(restore.find_bundle(self.preset))
    else:
      preset = zoo.find_preset(self.preset)
    return dataclasses.replace(
      preset, config=plain.change(preset.config, self.model, 'config.model')
    )


def read(values: Mapping[str, Any]) -> TrainConfig:
  """The configuration of plain values.

  Raises:
    ValueError: an unknown or missing field, or a wrong type, by its full name.
  """
  return plain.read(TrainConfig, values, 'config')
