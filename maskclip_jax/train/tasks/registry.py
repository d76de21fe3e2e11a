"""From a configuration to a task."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from maskclip_jax.ops.criterion import Batched, whole_batch
from maskclip_jax.ops.distill import PSEUDO_MASK_RULES
from maskclip_jax.train.config import TrainConfig, change
from maskclip_jax.train.task import Flat, Task
from maskclip_jax.train.tasks import query_tuning
from maskclip_jax.train.tasks.distill import Distill, DistillConfig
from maskclip_jax.train.tasks.mask_attention import MaskAttention, MaskAttentionConfig
from maskclip_jax.train.tasks.query_tuning import QueryTuning
from maskclip_jax.train.tasks.set_prediction import SetPrediction, SetPredictionConfig
from maskclip_jax.zoo import Preset

# Tasks whose loss compares with class vectors.
READS_TEXT = ('query_tuning', 'mask_attention')
_TASKS = {
  'set_prediction': SetPrediction,
  'distill': Distill,
  'query_tuning': QueryTuning,
  'mask_attention': MaskAttention,
}


def task_config(config: TrainConfig) -> Any:
  """The task's own config: its profile's, with the settings of the run.

  Raises:
    ValueError: an unknown field.
  """
  match config.task:
    case 'set_prediction':
      base = SetPredictionConfig()
    case 'distill':
      base = DistillConfig(rule=PSEUDO_MASK_RULES[config.profile])
    case 'query_tuning':
      base = query_tuning.profile(config.profile)
    case 'mask_attention':
      base = MaskAttentionConfig(intermediate_masks=config.profile == 'paper')
  return change(base, config.settings, 'config.settings')


def make_task(
  config: TrainConfig, constants: Flat, batched: Batched = whole_batch
) -> Task:
  """The task of a configuration.

  Args:
    config: of the run.
    constants: the text bank by path, for tasks that read text.
    batched: how per-image work is spread over devices.

  Raises:
    ValueError: settings or a preset that do not fit the task.
  """
  preset = with_recomputation(config.chosen_preset(), config.remat)
  own, dtype = task_config(config), jnp.dtype(config.dtype)
  kwargs = {'dtype': dtype, 'batched': batched}
  if config.task in READS_TEXT:
    kwargs['constants'] = constants
  return _TASKS[config.task](preset, own, **kwargs)


def with_recomputation(preset: Preset, remat: bool) -> Preset:
  """The preset, with or without recomputation in its proposal network."""
  model = preset.config
  if hasattr(model, 'proposals'):
    proposals = dataclasses.replace(model.proposals, remat=remat)
    return dataclasses.replace(
      preset, config=dataclasses.replace(model, proposals=proposals)
    )
  return dataclasses.replace(preset, config=dataclasses.replace(model, remat=remat))


def abstract_constants(config: TrainConfig, columns: int) -> Flat:
  """Shapes of the text bank, for compiling without words."""
  width = config.chosen_preset().config.clip.embed_dim
  flags = jax.ShapeDtypeStruct((columns,), jnp.bool_)
  vectors = jax.ShapeDtypeStruct((columns, width), jnp.float32)
  names = ('valid', 'thing', 'void')
  return {
    'text_bank/embeddings': vectors,
    **{f'text_bank/{name}': flags for name in names},
  }
