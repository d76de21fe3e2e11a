"""From a configuration to a task."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from maskclip_jax import plain
from maskclip_jax.losses.criterion import Batched, whole_batch
from maskclip_jax.systems.system import with_recomputation
from maskclip_jax.train.config import TrainConfig
from maskclip_jax.train.task import Flat, Task
from maskclip_jax.train.tasks.contrastive import Contrastive
from maskclip_jax.train.tasks.distill import Distill
from maskclip_jax.train.tasks.mask_attention import MaskAttention
from maskclip_jax.train.tasks.query_tuning import QueryTuning
from maskclip_jax.train.tasks.set_prediction import SetPrediction

# By the names of `train.config.TASKS`.
REGISTRY: dict[str, type[Task]] = {
  'set_prediction': SetPrediction,
  'distill': Distill,
  'query_tuning': QueryTuning,
  'mask_attention': MaskAttention,
  'contrastive': Contrastive,
}
# Tasks whose loss compares with class vectors.
READS_TEXT = tuple(name for name, task in REGISTRY.items() if task.reads_text)
# Tasks whose batches are pairs of photo and text.
READS_CAPTIONS = tuple(name for name, task in REGISTRY.items() if task.reads_captions)


def task_config(config: TrainConfig) -> Any:
  """The task's own config: its profile's, with the settings of the run.

  Raises:
    ValueError: an unknown field.
  """
  defaults = REGISTRY[config.task].defaults(config.profile)
  return plain.change(defaults, config.settings, 'config.settings')


def make_task(
  config: TrainConfig, constants: Flat, batched: Batched = whole_batch
) -> Task:
  """The task of a configuration.

  Args:
    config: of the run.
    constants: the text bank by path, for tasks that read text; else none.
    batched: how per-image work is spread over devices.

  Raises:
    ValueError: settings or a preset that do not fit the task.
  """
  preset = config.chosen_preset()
  model = with_recomputation(preset.config, config.remat)
  preset = dataclasses.replace(preset, config=model)
  own, dtype = task_config(config), jnp.dtype(config.dtype)
  return REGISTRY[config.task](preset, own, constants, dtype, batched)


def abstract_constants(config: TrainConfig, columns: int) -> Flat:
  """Shapes of the text bank, for compiling without words."""
  width = config.chosen_preset().config.clip.embed_dim
  flags = jax.ShapeDtypeStruct((columns,), jnp.bool_)
  vectors = jax.ShapeDtypeStruct((columns, width), jnp.float32)
  names = ('valid', 'thing', 'void', 'seen')
  return {
    'text_bank/embeddings': vectors,
    **{f'text_bank/{name}': flags for name in names},
  }
