"""Configurations of every stage that compile and run in seconds, and their sources."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from maskclip_jax import zoo
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.random_weights import random_array, random_model
from maskclip_jax.plain import change
from maskclip_jax.train import starting
from maskclip_jax.train.config import TrainConfig, read

POINTS = {'sampling': {'points': 64}}
_SWIN = {'swin': {'depths': [1, 1, 1, 1]}}
_UNPROMPTED = {'proposals': _SWIN, 'clip': {'prompt_depth': 0}}

STAGES: dict[str, dict[str, Any]] = {
  'teacher': {
    'task': 'set_prediction',
    'preset': 'proposals_tiny',
    'settings': {'criterion': POINTS},
  },
  'student': {
    'task': 'distill',
    'preset': 'proposals_tiny',
    'settings': {'criterion': POINTS, 'rule': {'points': 64}},
  },
  'masq': {
    'task': 'query_tuning',
    'preset': 'masqclip_tiny',
    'settings': {'label_size': 64},
  },
  'rma': {
    'task': 'mask_attention',
    'preset': 'maskclip_tiny',
    'model': {'rma_blocks': [0, 1]},
    'settings': {'criterion': POINTS},
  },
  'clip': {
    'task': 'contrastive',
    'preset': 'clip_vit_tiny',
  },
  'segclip': {
    'task': 'segclip',
    'preset': 'segclip_tiny',
    'model': {
      'clip': {'vision_layers': 2, 'text_layers': 1},
      'first_blocks': 1,
      'centre_blocks': 1,
    },
  },
  'ovseg_proposals': {
    'task': 'text_proposals',
    'preset': 'ovseg_tiny',
    'model': _UNPROMPTED,
  },
  'ovseg_pairs': {
    'task': 'crop_tuning',
    'preset': 'ovseg_tiny',
    'model': _UNPROMPTED,
  },
  'ovseg_prompts': {
    'task': 'mask_prompts',
    'preset': 'ovseg_tiny',
    'model': {'proposals': _SWIN},
  },
  'fcclip': {
    'task': 'fcclip',
    'preset': 'fcclip_tiny',
    'model': {'clip': {'depths': [1, 1, 1, 1]}},
    'settings': {'criterion': POINTS},
  },
}
_REGIONS = {'caption_tokens': 16, 'mapper': 'ovseg_clip', 'regions': True}
# What a stage's batches are, where they are not photos with segments.
DATA = {
  'clip': {'caption_tokens': 16, 'mapper': 'ovseg_clip'},
  'segclip': {'caption_tokens': 16, 'superpixel_patch': 16, 'mapper': 'segclip'},
  'ovseg_pairs': _REGIONS,
  'ovseg_prompts': _REGIONS,
}


def values(stage: str, **changes: Any) -> dict[str, Any]:
  """Plain values of a stage; `data` is merged, other fields are replaced."""
  data = {'generated': 8, 'canvas': 64, 'batch_size': 2, 'max_segments': 8}
  base = {
    'total_steps': 4,
    'log': {'every': 1},
    'checkpoint': {'every': 2},
    **STAGES[stage],
    **changes,
  }
  own = DATA.get(stage, {})
  return {**base, 'data': {**data, **own, **changes.get('data', {})}}


def stage(name: str, **changes: Any) -> TrainConfig:
  """A stage's configuration."""
  return read(values(name, **changes))


def random_bundle(
  directory: pathlib.Path, preset_name: str, **model: Any
) -> dict[str, np.ndarray]:
  """Writes a bundle of random weights; `model` changes the preset's sizes."""
  preset = zoo.find_preset(preset_name)
  preset = dataclasses.replace(preset, config=change(preset.config, model, 'model'))
  flat = params.flatten(random_model(preset.system, preset.config, seed=7))
  flat = {path: np.asarray(value) for path, value in flat.items()}
  bundle.save(directory, preset.to_dict(), flat)
  return flat


def quick_draw(
  build: Callable[[Any], Mapping[str, jax.Array]], paths: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
  """Stands in for `maskclip_jax.train.starting.draw`, whose program of all initialisers
  takes longer to compile than a tiny stage's step; `test_starting` has the real one."""
  keys = np.zeros((starting._KEYS, 2), np.uint32)
  shapes = jax.eval_shape(lambda: build(starting._Draws(keys)))
  return {path: random_array(path, shapes[path].shape, seed) for path in paths}
