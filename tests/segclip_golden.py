"""SegCLIP filled with the recorded official weights."""

import functools
import re

import golden
import jax
import jax.numpy as jnp
import numpy as np
import seeded

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping.rules import convert
from maskclip_jax.nn.clip import CLIP_SIZES, CLIPConfig
from maskclip_jax.nn.group_vit import sine_table
from maskclip_jax.systems.segclip import checkpoint
from maskclip_jax.systems.segclip.model import SegCLIP, SegCLIPConfig

# The sizes of the recorded small model; its vocabulary is cut to 512 tokens.
SMALL = SegCLIPConfig(
  CLIPConfig(32, 64, 16, 128, 12, 2, 64, 2, 1, vocab_size=512), decoder_width=64
)


def load(config: SegCLIPConfig, weights) -> SegCLIP:
  """A SegCLIP from an official state dict."""
  model = params.abstract_model('segclip', config)
  table = checkpoint.rules(config.first_blocks, config.clip.vision_layers)
  return params.load_into(model, convert(weights, table, params.flatten(model)))


@functools.cache
def small() -> SegCLIP:
  """The recorded small model."""
  return load(SMALL, golden.weights('segclip'))


def pixels() -> jax.Array:
  """The three recorded photos, channels last."""
  return jnp.moveaxis(golden.load('segclip')['in/images'], 1, -1)


def clip_key(key: str) -> str:
  """The key that a tensor of CLIP has in OpenAI's files; meaningless for others."""
  key = key.removeprefix('clip.')
  match = re.fullmatch(r'visual\.transformer\.layers([02])\.(\d+)\.(.*)', key)
  if match is None:
    return key
  block = int(match[2]) + (SMALL.first_blocks if match[1] == '2' else 0)
  return f'visual.transformer.resblocks.{block}.{match[3]}'


def full_size() -> tuple[SegCLIP, dict]:
  """A model of the published size with seeded weights, and what was recorded of it."""
  record, clip = golden.full_size('segclip'), seeded.clip_state_dict('vit_b16')
  weights = {}
  for key, row in record['state_dict'].items():
    if key.endswith('decoder_pos_embed'):
      weights[key] = np.asarray(sine_table(14, row['shape'][-1]))
    elif key.endswith('semantic_center'):
      weights[key] = 4 * seeded.seeded_array(key, row['shape'])
    else:
      found = clip.get(clip_key(key))
      weights[key] = seeded.seeded_array(key, row['shape']) if found is None else found
  return load(SegCLIPConfig(CLIP_SIZES['vit_b16']), weights), record
