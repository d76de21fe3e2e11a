"""CLIP in four layouts: OpenAI's (and open_clip's), open_clip's with a separate text
module, Hugging Face's, and Scenic's flat tree.

Our paths are those of `nn.clip.CLIP`. Source: [masqclip 1.6].
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import (
  ROLES,
  dense,
  norm,
  packed_attention,
  separate_attention,
)
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.mapping.transforms import CONV, IDENTITY, LINEAR
from maskclip_jax.nn.clip import CLIPConfig
from maskclip_jax.systems.clip.beside import CLIP_VOCABULARY, beside

C = TypeVar('C')


def mlp(official: str, ours: str) -> Rules:
  """The two layers of OpenAI's MLP."""
  return (
    *dense(f'{official}.c_fc', f'{ours}/c_fc'),
    *dense(f'{official}.c_proj', f'{ours}/c_proj'),
  )


def block(official: str, ours: str) -> Rules:
  """One of OpenAI's residual attention blocks."""
  return (
    *norm(f'{official}.ln_1', f'{ours}/ln_1'),
    *packed_attention(f'{official}.attn', f'{ours}/attn'),
    *norm(f'{official}.ln_2', f'{ours}/ln_2'),
    *mlp(f'{official}.mlp', f'{ours}/mlp'),
  )


def hugging_face_blocks(official: str, ours: str) -> Rules:
  return (
    *norm(f'{official}.{{i}}.layer_norm1', f'{ours}/{{i}}/ln_1'),
    *separate_attention(f'{official}.{{i}}.self_attn', f'{ours}/{{i}}/attn'),
    *norm(f'{official}.{{i}}.layer_norm2', f'{ours}/{{i}}/ln_2'),
    *dense(f'{official}.{{i}}.mlp.fc1', f'{ours}/{{i}}/mlp/c_fc'),
    *dense(f'{official}.{{i}}.mlp.fc2', f'{ours}/{{i}}/mlp/c_proj'),
  )


# The image tower below 'visual.' here and 'visual/' with us; the systems reuse it.
# `proj` is stored as (width, embed): the one matrix that needs no transpose.
VISUAL_ENDS = (
  Rule('class_embedding', 'class_embedding'),
  Rule('positional_embedding', 'positional_embedding'),
  Rule('conv1.weight', 'conv1/kernel', CONV),
  *norm('ln_pre', 'ln_pre'),
  *norm('ln_post', 'ln_post'),
  Rule('proj', 'proj/kernel', IDENTITY),
)
_BLOCKS = block('transformer.resblocks.{i}', 'transformer/resblocks/{i}')
VISUAL = (*VISUAL_ENDS, *_BLOCKS)

TEXT = (
  Rule('token_embedding.weight', 'token_embedding/embedding'),
  Rule('positional_embedding', 'positional_embedding'),
  *_BLOCKS,
  *norm('ln_final', 'ln_final'),
  Rule('text_projection', 'text_projection/kernel', IDENTITY),
)

SCALE = Rule('logit_scale', 'logit_scale')
SIZES = tuple(
  Ignore(name, "a size kept beside the weights in OpenAI's archives")
  for name in ('input_resolution', 'context_length', 'vocab_size')
)

OPENAI = (
  *prefixed(VISUAL, 'visual.', 'visual/'),
  # Of a mask-adapted CLIP [ovseg 3.1].
  Rule('visual.mask_embedding', 'visual/mask_prompts'),
  *prefixed(TEXT, ours='text/'),
  SCALE,
  *SIZES,
)

OPEN_CLIP_CUSTOM = (
  *prefixed(VISUAL, 'visual.', 'visual/'),
  *prefixed(TEXT, 'text.', 'text/'),
  SCALE,
)

HUGGING_FACE = (
  Rule('vision_model.embeddings.class_embedding', 'visual/class_embedding'),
  Rule(
    'vision_model.embeddings.position_embedding.weight', 'visual/positional_embedding'
  ),
  Rule('vision_model.embeddings.patch_embedding.weight', 'visual/conv1/kernel', CONV),
  # The misspelling is the library's own.
  *norm('vision_model.pre_layrnorm', 'visual/ln_pre'),
  *hugging_face_blocks('vision_model.encoder.layers', 'visual/transformer/resblocks'),
  *norm('vision_model.post_layernorm', 'visual/ln_post'),
  Rule('visual_projection.weight', 'visual/proj/kernel', LINEAR),
  Rule(
    'text_model.embeddings.token_embedding.weight', 'text/token_embedding/embedding'
  ),
  Rule('text_model.embeddings.position_embedding.weight', 'text/positional_embedding'),
  *hugging_face_blocks('text_model.encoder.layers', 'text/transformer/resblocks'),
  *norm('text_model.final_layer_norm', 'text/ln_final'),
  Rule('text_projection.weight', 'text/text_projection/kernel', LINEAR),
  SCALE,
  Ignore('vision_model.embeddings.position_ids', 'the integers from 0'),
  Ignore('text_model.embeddings.position_ids', 'the integers from 0'),
)


def _scenic(theirs: str, ours: str) -> Rule:
  return Rule(f'params/{theirs}', ours, aliases=(theirs,))


def _scenic_blocks(tower: str) -> Rules:
  theirs = f'{tower}/transformer/resblocks.{{i}}'
  ours = f'{tower}/transformer/resblocks/{{i}}'
  leaves = [f'{n}/{leaf}' for n in ('ln_1', 'ln_2') for leaf in ('scale', 'bias')]
  for name in (*(f'attn/{r}' for r in (*ROLES, 'out')), 'mlp/c_fc', 'mlp/c_proj'):
    leaves += [f'{name}/kernel', f'{name}/bias']
  return tuple(_scenic(f'{theirs}/{leaf}', f'{ours}/{leaf}') for leaf in leaves)


# Scenic keeps arrays exactly as we do; only the block index is spelled with a dot. The
# outer 'params' is there when all variables were saved, not only the parameters.
SCENIC = (
  *_scenic_blocks('visual'),
  *_scenic_blocks('text'),
  *(
    _scenic(path, path)
    for path in (
      'visual/class_embedding',
      'visual/positional_embedding',
      'visual/conv1/kernel',
      'visual/ln_pre/scale',
      'visual/ln_pre/bias',
      'visual/ln_post/scale',
      'visual/ln_post/bias',
      'visual/proj/kernel',
      'text/token_embedding/embedding',
      'text/positional_embedding',
      'text/ln_final/scale',
      'text/ln_final/bias',
      'text/text_projection/kernel',
      'logit_scale',
    )
  ),
)

LAYOUTS: dict[str, Rules] = {
  'openai': OPENAI,
  'open_clip_custom': OPEN_CLIP_CUSTOM,
  'hugging_face': HUGGING_FACE,
  'scenic': SCENIC,
}
# A file of mask prompts alone, to put into a CLIP [ovseg 3.1].
_MASK_PROMPTS = (
  Rule('visual.mask_embedding', 'visual/mask_prompts', aliases=('mask_embedding',)),
)
_TABLES = LAYOUTS | {'mask_prompts': _MASK_PROMPTS}

# Fields of a CLIP's config that no weights tell.
WITHOUT_SHAPE = (
  'activation',
  'vision_activation',
  'text_activation',
  'cleaning',
  'norm_eps',
  'vision_norm_eps',
  'text_norm_eps',
  'pixel_mean',
  'pixel_std',
)
# Heads of the published image towers that are not 64 channels wide, by width.
_WIDE_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16, 1792: 16}
_HEAD_WIDTH = 64

# What the official files of the systems leave out of their CLIP.
TEXT_TOWER = ('clip/text/', 'clip/logit_scale')


def text_rules(keys: Collection[str]) -> Rules:
  """The text tower's, which open_clip also keeps in a module of its own: 'text.'."""
  own = 'text.token_embedding.weight' in keys
  return prefixed(TEXT, 'text.' if own else '', 'text/')


def sized(config: CLIPConfig, found: KnownSizes) -> CLIPConfig:
  """A CLIP of the sizes found, and with what the file beside its weights tells.

  Raises:
    ValueError: see `fitted`.
  """
  block = 'visual/transformer/resblocks/0'
  patch = found.size('visual/conv1/kernel', 0)
  tokens = found.size('visual/positional_embedding', 0)
  sizes = {
    'embed_dim': found.size('visual/proj/kernel', 1),
    'patch_size': patch,
    'image_size': patch and tokens and patch * math.isqrt(tokens - 1),
    'vision_width': found.size('visual/class_embedding', 0),
    'vision_layers': found.layers('visual/transformer/resblocks/{i}/ln_1/scale'),
    'vision_heads': found.size(f'{block}/attn/query/kernel', 1),
    'vision_mlp_width': found.size(f'{block}/mlp/c_fc/kernel', 1),
    # No prompts is a size too: 0 is what the file says, not what it leaves open.
    'prompt_depth': found.size('visual/mask_prompts', 0) or 0,
  }
  return fitted(config, sizes | text_sizes(found), found.clip)


def text_sizes(found: KnownSizes) -> dict[str, int | None]:
  """What shapes tell of a text tower, by field of the config; None for nothing."""
  block = 'text/transformer/resblocks/0'
  return {
    'text_width': found.size('text/token_embedding/embedding', 1),
    'text_layers': found.layers('text/transformer/resblocks/{i}/ln_1/scale'),
    'text_heads': found.size(f'{block}/attn/query/kernel', 1),
    'text_mlp_width': found.size(f'{block}/mlp/c_fc/kernel', 1),
    'context_length': found.size('text/positional_embedding', 0),
    'vocab_size': found.size('text/token_embedding/embedding', 0),
  }


def fitted(
  config: C,
  sizes: Mapping[str, int | None],
  told: Mapping[str, Any],
  *,
  vocabulary: float = CLIP_VOCABULARY,
) -> C:
  """The config of a CLIP by its weights and by the file beside them.

  Args:
    config: has what neither tells.
    sizes: what the shapes of the weights tell, by field; None where they do not.
    told: what the file beside them tells, by field.
    vocabulary: most words that its tokenizer may have.

  Raises:
    ValueError: the two do not agree, or the words are those of another tokenizer.
  """
  for name, size in told.items():
    if sizes.get(name) not in (None, size):
      raise ValueError(
        f'the config beside the weights says {name} {size}, and they have '
        f'{sizes[name]}: put the config there that belongs to them, or none'
      )
  if (sizes['vocab_size'] or 0) > vocabulary:
    raise ValueError(
      f'its token table has {sizes["vocab_size"]} rows and the tokenizer of CLIP '
      f'{CLIP_VOCABULARY} words: a CLIP of another tokenizer is not supported'
    )
  chosen = {name: size for name, size in sizes.items() if size is not None}
  chosen |= {name: told[name] for name in WITHOUT_SHAPE if name in told}
  for tower in ('vision', 'text'):
    width, heads, mlp = (f'{tower}_{name}' for name in ('width', 'heads', 'mlp_width'))
    if width not in chosen:
      continue
    if heads not in chosen:
      base = getattr(config, width), getattr(config, heads)
      chosen[heads] = told.get(heads) or _heads(tower, chosen[width], *base)
    if chosen.get(mlp) == 4 * chosen[width]:
      chosen[mlp] = None
  return dataclasses.replace(config, **chosen)


def _heads(tower: str, width: int, base_width: int, base_heads: int) -> int:
  """The preset's heads where its width is the file's, else those of published CLIPs."""
  if width == base_width:
    return base_heads
  if tower == 'vision' and width in _WIDE_HEADS:
    return _WIDE_HEADS[width]
  return max(1, width // _HEAD_WIDTH)


FORMAT = Format(
  title='CLIP',
  signatures={
    'openai': ('token_embedding.weight',),
    'open_clip_custom': ('text.token_embedding.weight',),
    'hugging_face': ('text_model.embeddings.token_embedding.weight',),
    'scenic': (
      'params/text/token_embedding/embedding',
      'text/transformer/resblocks.0/ln_1/scale',
    ),
    # Whole files may hold prompts too: they come first.
    'mask_prompts': ('visual.mask_embedding', 'mask_embedding'),
  },
  read=lambda layout, keys: _TABLES[layout],
  write=lambda config, layout, classes: _TABLES[layout],
  only={'mask_prompts': ('visual/mask_prompts',)},
  licence="MIT (OpenAI's CLIP; other trainings of CLIP have terms of their own)",
  beside=beside,
)
