"""MaskCLIP and MasQCLIP filled with recorded official weights."""

import dataclasses
import functools
from collections.abc import Mapping

import golden
import jax
import jax.numpy as jnp
import numpy as np
import seeded
from flax import nnx
from mask2former_golden import CONFIG as PROPOSALS

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping.rules import convert, prefixed
from maskclip_jax.nn.clip import CLIP_SIZES, CLIPConfig
from maskclip_jax.systems.clip.checkpoint import OPENAI
from maskclip_jax.systems.maskclip import checkpoint as maskclip_table
from maskclip_jax.systems.maskclip.model import MaskCLIPConfig
from maskclip_jax.systems.masqclip import checkpoint as masqclip_table
from maskclip_jax.systems.masqclip.model import MasQCLIPConfig

# The sizes of the recorded small models.
SMALL = {
  'masqclip': MasQCLIPConfig(PROPOSALS, CLIP_SIZES['vit_tiny']),
  'maskclip': MaskCLIPConfig(
    dataclasses.replace(
      PROPOSALS,
      num_classes=None,
      queries=100,
      encoder_layers=1,
      decoder_layers=1,
      decoder_ffn=64,
    ),
    CLIPConfig(32, 32, 8, 64, 24, 2, 64, 3, 1),
  ),
}
RULES = {'masqclip': masqclip_table.rules(7), 'maskclip': maskclip_table.rules()}


def load(
  system: str,
  config,
  weights: Mapping[str, np.ndarray],
  dtype=jnp.float32,
  *,
  clip: Mapping[str, np.ndarray] | None = None,
) -> nnx.Module:
  """A system from an official state dict, which holds no text tower.

  Args:
    system: 'maskclip' or 'masqclip'.
    config: its sizes.
    weights: the official state dict.
    dtype: compute type.
    clip: OpenAI's state dict, for the text tower; without it that is zero.
  """
  model = params.abstract_model(system, config, dtype=dtype)
  wanted = params.flatten(model)
  text = {p for p in wanted if p.startswith('clip/text/') or p == 'clip/logit_scale'}
  flat = convert(
    weights, RULES[system], {p: leaf for p, leaf in wanted.items() if p not in text}
  )
  if clip is None:
    flat |= {path: jnp.zeros(wanted[path].shape) for path in text}
  else:
    textual = {key: a for key, a in clip.items() if not key.startswith('visual.')}
    rules = prefixed(OPENAI, ours='clip/')
    flat |= convert(textual, rules, {path: wanted[path] for path in text})
  return params.load_into(model, flat)


@functools.cache
def small(system: str, dtype=jnp.float32) -> nnx.Module:
  """The recorded small model of a system."""
  return load(system, SMALL[system], golden.weights(system), dtype)


def run(model: nnx.Module, *arguments, method: str = '__call__'):
  """Calls a module, compiled: small models are slower without than with compiling."""
  graphdef, state = nnx.split(model)
  return _program(graphdef, method)(state, arguments)


@functools.cache
def _program(graphdef: nnx.GraphDef, method: str):
  """Compiled once for models of the same sizes."""
  return jax.jit(lambda s, a: getattr(nnx.merge(graphdef, s), method)(*a))


def full_size(system: str, config) -> tuple[nnx.Module, dict]:
  """A model of published size with seeded weights, and what was recorded of it."""
  record = golden.full_size(system)
  clip = seeded.clip_state_dict('vit_l14_336')
  weights = {}
  for key, entry in record['state_dict'].items():
    plain = key.removeprefix(f'{system}.')
    if plain in clip:
      weights[key] = clip[plain]
    elif key != 'criterion.empty_weight':
      weights[key] = seeded.seeded_array(key, entry['shape'])
  if system == 'masqclip':
    position = weights['masqclip.visual.positional_embedding']
    weights['masqclip.mask_embeddings'] = position[0]
  return load(system, config, weights, clip=clip), record
