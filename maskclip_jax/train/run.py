"""Everything a run needs before its first step, assembled from its configuration."""

import dataclasses

import jax
import optax
from jax.sharding import Mesh

from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.train import feed
from maskclip_jax.train import mesh as meshes
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.optim import make_optimizer
from maskclip_jax.train.starting import Starting, starting_values
from maskclip_jax.train.step import (
  Step,
  TrainState,
  abstract_state,
  make_step,
  new_state,
)
from maskclip_jax.train.task import Flat, Layout, Task
from maskclip_jax.train.tasks import text_constants
from maskclip_jax.train.tasks.registry import READS_CAPTIONS, READS_TEXT, make_task
from maskclip_jax.train.words import make_text_bank, training_words


@dataclasses.dataclass(frozen=True)
class Program:
  """A task laid out over a mesh, without any value.

  Attributes:
    config: of the run.
    mesh: the devices.
    task: the loss.
    layout: which paths train.
    tx: the optimiser.
    placed: the sharding of every array of the state.
    step: the compiled step, once it has run.
  """

  config: TrainConfig
  mesh: Mesh
  task: Task
  layout: Layout
  tx: optax.GradientTransformation
  placed: TrainState
  step: Step


def make_program(config: TrainConfig, mesh: Mesh, constants: Flat) -> Program:
  """Lays a configuration out over a mesh.

  Args:
    config: of the run.
    mesh: the devices.
    constants: the text bank by path (or shapes), for tasks that read text.

  Raises:
    ValueError: parts of the configuration that do not fit each other.
  """
  meshes.check_batch(mesh, config.data.batch_size, config.optim.accumulate)
  task = make_task(config, constants, meshes.batched(mesh))
  layout = Layout.of(task)
  tx = make_optimizer(config.optim, layout.trained, config.total_steps)
  placed = meshes.shardings(abstract_state(layout, constants, tx), mesh, config.mesh)
  step = make_step(task, layout, tx, mesh, placed, accumulate=config.optim.accumulate)
  return Program(config, mesh, task, layout, tx, placed, step)


def read_start(config: TrainConfig) -> tuple[Starting, Flat]:
  """Starting values of a run, and the constants that follow from them.

  Raises:
    FileNotFoundError, ValueError: see `starting.starting_values`; or no vocabulary.
  """
  task = make_task(config, {})
  Layout.of(task)  # Names a wrong expression before files are read.
  words = check_data(config)
  starting = starting_values(task, tuple(config.start.values()), config.seed)
  if words is None:
    return starting, {}
  bank = make_text_bank(words, task.preset, starting)
  return starting, text_constants.to_constants(bank)


def check_data(config: TrainConfig) -> Vocabulary | None:
  """The words of the training data's classes, for a task that reads text.

  Raises:
    ValueError: words, a class head or photos that do not fit the data; or segments
      where pairs of photo and text are needed, and the other way round.
  """
  reads_captions = config.task in READS_CAPTIONS
  if reads_captions != (config.data.caption_tokens > 0):
    needed = 'more than 0' if reads_captions else '0'
    raise ValueError(f'config.data.caption_tokens must be {needed} for {config.task}')
  if reads_captions:
    _check_pairs(config)
    return None
  preset, classes = config.chosen_preset(), feed.class_count(config.data)
  if config.task in READS_TEXT:
    named = config.vocabulary or feed.own_vocabulary(config.data)
    return training_words(named, classes, preset)
  head = preset.config.num_classes
  if head not in (None, 1, classes):
    raise ValueError(
      f'the model tells {head} classes and the training data has {classes}: set '
      'config.model.num_classes'
    )
  return None


def _check_pairs(config: TrainConfig) -> None:
  data, clip = config.data, config.chosen_preset().config
  if data.canvas > clip.image_size or data.canvas % clip.patch_size:
    raise ValueError(
      f'config.data.canvas is {data.canvas} and this CLIP sees {clip.image_size} '
      f'pixels in patches of {clip.patch_size}: choose as much or less, whole patches'
    )
  if data.caption_tokens > clip.context_length:
    raise ValueError(
      f'config.data.caption_tokens is {data.caption_tokens} and this CLIP reads at '
      f'most {clip.context_length}'
    )


def start_state(program: Program, starting: Starting) -> TrainState:
  """The state before the first step."""
  return new_state(
    program.layout, starting, program.task.constants, program.tx, program.placed
  )


def run_key(config: TrainConfig) -> jax.Array:
  """The key all randomness of the losses comes from."""
  return jax.random.key(config.seed)
