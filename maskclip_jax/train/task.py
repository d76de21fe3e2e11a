"""What a task is, and how its parameters divide into trained and frozen ones.

A task owns a model, frozen helpers (a teacher), constants (text vectors) and a loss,
and says by regular expressions which parameters train. Everything else of training is
the same for all tasks.

To write a task, put a file in `train/tasks/` with

1. a config, a frozen dataclass with at least a field `trainable`;
2. a frozen dataclass that derives from `Task`, says which `system` it trains, and has
   `defaults` (the config of a profile) and `loss`. A frozen helper is one more module
   (`modules`, and `derive` if trained parameters start from it; `tasks/distill.py`); a
   task whose loss compares with class vectors derives from `words.TextTask`
   (`tasks/query_tuning.py`);
3. `TASK`, which is that class. The name of the file is the name of the task.

`config.settings` of a run changes fields of the task's config. The loss must be a mean
over the photos of a batch that does not depend on how they are laid over devices; work
that gathers or loops by photo runs inside `self.batched`.
"""

import abc
import dataclasses
import importlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from maskclip_jax import plain
from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.params import abstract_model
from maskclip_jax.losses.criterion import Batched, whole_batch
from maskclip_jax.nn.layers import prune
from maskclip_jax.systems.contract import Images, Outputs, TextBank
from maskclip_jax.systems.system import Preset, with_recomputation
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.train import tasks
from maskclip_jax.train.config import TrainConfig

Flat = Mapping[str, Array]
Modules = Mapping[str, nnx.Module]
Batch = Mapping[str, Array]
Terms = Mapping[str, Float[Array, '']]
Shapes = Mapping[str, jax.ShapeDtypeStruct]
# The loss of a batch, and what is worth logging, scalars by name.
LossAndTerms = tuple[Float[Array, ''], Terms]

MODEL = 'model'
# Rows of the table of trained parameters before it is folded.
_LONGEST_TABLE = 12


class ModuleFactory(Protocol):
  """Builds a module of a system and its config."""

  def __call__(self, system: str, config: Any, *, dtype: Any) -> nnx.Module: ...


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
  """One stage of training; the module's docstring says how to write one.

  Attributes:
    preset: the model that is trained and exported.
    config: the task's own settings.
    words: words of the classes of the training data, for a task that reads text.
    dtype: compute type.
    batched: how per-image work is spread over devices.
    in_parts: how a network works a batch off, in parts to need less memory.

  Raises:
    ValueError: the preset is none that this task trains.
  """

  title: ClassVar[str]
  # One, or several that it trains alike.
  system: ClassVar[str | tuple[str, ...]]
  # Batches are pairs of photo and text, not photos with segments.
  reads_captions: ClassVar[bool] = False
  # The photos of these pairs are masked regions (`data.pairs`).
  reads_regions: ClassVar[bool] = False
  # Parts of the model that training never reads (CLIP's text tower): they take no
  # memory and are copied into the exported bundle.
  unused: ClassVar[tuple[str, ...]] = ()

  preset: Preset
  config: Any
  words: Vocabulary | None = None
  dtype: jnp.dtype = jnp.float32
  batched: Batched = whole_batch
  in_parts: Batched = whole_batch

  def __post_init__(self):
    systems = (self.system,) if isinstance(self.system, str) else self.system
    if self.preset.system not in systems:
      raise ValueError(
        f'{self.title} trains a {" or ".join(systems)}, not a {self.preset.system}: '
        'choose another preset'
      )

  @classmethod
  @abc.abstractmethod
  def defaults(cls, profile: str) -> Any:
    """The task's config in a profile, 'released' or 'paper'."""

  @classmethod
  def check_data(cls, config: TrainConfig, preset: Preset) -> Vocabulary | None:
    """Fails early where the data of a run does not fit the model.

    Returns:
      The words of its classes, if the task reads text.

    Raises:
      ValueError: with what to change.
    """
    cls.check_kind(config)
    head = getattr(preset.config, 'num_classes', None)
    classes = len(config.data.class_names())
    if head not in (None, 1, classes):
      raise ValueError(
        f'the model tells {head} classes and the training data has {classes}: set '
        f'--config.model.num_classes={classes}'
      )
    cls.exported(config)

  @classmethod
  def exported(cls, config: TrainConfig) -> Preset:
    """The preset of the trained model: the run's, and what training decided."""
    return config.chosen_preset

  @classmethod
  def check_kind(cls, config: TrainConfig) -> None:
    """Fails where segments are given and pairs are needed, or the other way round."""
    if cls.reads_captions != (config.data.caption_tokens > 0):
      needed = 'more than 0' if cls.reads_captions else '0'
      raise ValueError(f'config.data.caption_tokens must be {needed} for {config.task}')
    if cls.reads_regions != config.data.regions:
      raise ValueError(
        f'config.data.regions must be {str(cls.reads_regions).lower()} for '
        f'{config.task}'
      )

  @property
  def trainable(self) -> tuple[str, ...]:
    """Regular expressions over the parameter paths of the model."""
    return self.config.trainable

  def modules(self, make: ModuleFactory = abstract_model) -> dict[str, nnx.Module]:
    """The whole model, called `model`, and frozen helpers."""
    return {MODEL: make(self.preset.system, self.preset.config, dtype=self.dtype)}

  def derive(self, values: Flat, path: str) -> Array | None:
    """The starting value of a path that no file gives, if it follows from others."""
    return None

  def constants(self) -> Shapes:
    """What the loss reads that is neither a parameter nor part of a batch, by path."""
    return {}

  def constant_values(self, values: Flat) -> Flat:
    """The constants, which may follow from the starting values of the parameters."""
    return {}

  def text(self, constants: Flat) -> TextBank | None:
    """The class vectors among the constants; None for a task that reads no text."""
    return None

  def found(self, model: nnx.Module, images: Images, text: TextBank | None) -> Outputs:
    """What a model finds in photos, for the pictures of a run."""
    return model(images, text)

  def constrained(self, trained: Flat) -> Flat:
    """The trained parameters after an update, moved to where they may be."""
    return trained

  @abc.abstractmethod
  def loss(
    self, modules: Modules, constants: Flat, batch: Batch, key: Array
  ) -> LossAndTerms:
    """The loss of a batch.

    Args:
      modules: with parameters.
      constants: the constants of this task, among other arrays.
      batch: from `data.pipeline`.
      key: all randomness of this step.
    """


def find_task(name: str) -> type[Task]:
  """The task of a name: `TASK` of the module of that name in `train/tasks/`."""
  return importlib.import_module(f'{tasks.__name__}.{name}').TASK


def make_task(
  config: TrainConfig, batched: Batched = whole_batch, in_parts: Batched = whole_batch
) -> Task:
  """The task of a configuration.

  Args:
    config: the run's configuration.
    batched: how per-image work is spread over devices.
    in_parts: how a network works a batch off.

  Raises:
    ValueError: settings, a preset or data that do not fit the task.
  """
  cls, preset = find_task(config.task), config.chosen_preset
  model = with_recomputation(preset.config, config.remat)
  preset = dataclasses.replace(preset, config=model)
  own = plain.change(cls.defaults(config.profile), config.settings, 'config.settings')
  task = cls(
    preset, own, dtype=jnp.dtype(config.dtype), batched=batched, in_parts=in_parts
  )
  return dataclasses.replace(task, words=cls.check_data(config, preset))


def images_of(batch: Batch) -> Images:
  """The photos of a training batch; crops fill their canvas, so nothing is masked."""
  return Images(batch['image'], batch['image_hw'], batch.get('padded_hw'))


def rows_per_photo(rows: Bool[Array, 'b n']) -> Float[Array, '']:
  """How many rows of a table are set, on average; for the log."""
  return rows.sum(-1, dtype=jnp.float32).mean()


def flatten_modules(modules: Mapping[str, nnx.Module]) -> dict[str, Any]:
  """Path -> value of every variable; a helper's paths start with its name."""
  flat: dict[str, Any] = {}
  for name, module in modules.items():
    for path, leaf in params.flatten(module).items():
      path = _join(name, path)
      if path in flat:
        raise ValueError(f'the model and a helper both have a parameter {path}')
      flat[path] = leaf
  return flat


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which paths a task has, and which of them train.

  A path of the model is the model's own; a helper's paths start with its name.

  Attributes:
    shapes: path -> shape and type of every parameter.
    trained: paths that train, in the order of `shapes`.
    constants: path -> shape and type of what else the loss reads.
  """

  shapes: Shapes
  trained: tuple[str, ...]
  constants: Shapes
  _parts: Mapping[str, tuple[nnx.GraphDef, nnx.State]]

  @classmethod
  def of(cls, task: Task) -> 'Layout':
    """The layout of a task.

    Raises:
      ValueError: an expression of `trainable` matches no parameter, or two modules
        have the same path.
    """
    modules = task.modules()
    prune(modules[MODEL], task.unused)
    shapes = flatten_modules(modules)
    parts = {name: nnx.split(module) for name, module in modules.items()}
    # Frozen statistics are variables, but no parameters.
    own = [
      params.path_name(path)
      for path, leaf in nnx.to_flat_state(parts[MODEL][1])
      if isinstance(leaf, nnx.Param)
    ]
    trained = tuple(params.select(own, *task.trainable))
    return cls(shapes, trained, task.constants(), parts)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Paths that do not train."""
    trained = set(self.trained)
    return tuple(path for path in self.shapes if path not in trained)

  def merge(self, flat: Flat) -> dict[str, nnx.Module]:
    """The modules with their arrays taken from `flat`."""
    return {
      name: nnx.merge(
        graphdef,
        params.unflatten(
          {path: flat[_join(name, path)] for path in params.flatten(state)}, state
        ),
      )
      for name, (graphdef, state) in self._parts.items()
    }

  def table(self) -> str:
    """The trained parameters with their counts: layers folded, or parts if many."""
    groups: dict[str, list[int]] = {}
    for path in self.trained:
      name = re.sub(r'(^|/)\d+(?=/|$)', r'\1*', path)
      groups.setdefault(name, []).append(params.count({path: self.shapes[path]}))
    if len(groups) > _LONGEST_TABLE:
      parts: dict[str, list[int]] = {}
      for name, sizes in groups.items():
        parts.setdefault(f'{name.partition("/")[0]}/**', []).extend(sizes)
      groups = parts
    width = max(len(name) for name in groups)
    lines = [
      f'  {name:<{width}}  {len(sizes):>4} arrays  {sum(sizes):>12,}'
      for name, sizes in groups.items()
    ]
    trained = params.count({p: self.shapes[p] for p in self.trained})
    frozen = params.count(self.shapes) - trained
    return '\n'.join([f'{trained:,} parameters train, {frozen:,} are frozen:', *lines])


def _join(module: str, path: str) -> str:
  return path if module == MODEL else f'{module}/{path}'
