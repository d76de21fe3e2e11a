"""Swin Transformers in the names of their authors, which detectron2's Mask2Formers and
OVSeg keep [ovseg 1.8], and sizes of such files.

Our paths are those of `nn.swin.Swin`: `res4/5/attn/query/kernel`.
"""

import math
from collections.abc import Callable
from typing import Any

from maskclip_jax.mapping import classifier
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import (
  conv,
  dense,
  norm,
  packed_attention,
  separate_attention,
)
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.mapping.transforms import LINEAR


def _blocks(official: str, ours: str) -> Rules:
  """The blocks of one stage."""
  official, ours = f'{official}.blocks.{{b}}', f'{ours}/{{b}}'
  table = 'relative_position_bias_table'
  return (
    *norm(f'{official}.norm1', f'{ours}/norm1'),
    *packed_attention(f'{official}.attn', f'{ours}/attn', packed='qkv.', out='proj'),
    Rule(f'{official}.attn.{table}', f'{ours}/attn/{table}'),
    Ignore(f'{official}.attn.relative_position_index', 'a constant of the window'),
    *norm(f'{official}.norm2', f'{ours}/norm2'),
    *dense(f'{official}.mlp.fc1', f'{ours}/mlp/fc1'),
    *dense(f'{official}.mlp.fc2', f'{ours}/mlp/fc2'),
  )


def _merging(official: str, ours: str) -> Rules:
  """What leads from one stage to the next."""
  return (
    *norm(f'{official}.norm', f'{ours}/norm'),
    Rule(f'{official}.reduction.weight', f'{ours}/reduction/kernel', LINEAR),
  )


_NETWORK = (
  *conv('patch_embed.proj', 'patch_embed/proj'),
  *norm('patch_embed.norm', 'patch_embed/norm'),
  *(
    rule
    for stage in range(4)
    for rule in (
      *_blocks(f'layers.{stage}', f'res{stage + 2}'),
      *_merging(f'layers.{stage}.downsample', f'merge{stage + 2}'),
    )
  ),
)

DETECTRON2 = (
  *_NETWORK,
  *(rule for stage in range(4) for rule in norm(f'norm{stage}', f'norm{stage + 2}')),
)

# ImageNet's weights: the norm of every stage is not among them.
CLASSIFIER = (
  *_NETWORK,
  *(
    Ignore(f'layers.{stage}.blocks.{{b}}.attn_mask', 'a constant of the window')
    for stage in range(4)
  ),
  *(
    Ignore(f'{part}.{name}', 'the ImageNet classifier')
    for part in ('norm', 'head')
    for name in ('weight', 'bias')
  ),
)


def _hugging_face_blocks(official: str, ours: str) -> Rules:
  official, ours = f'{official}.blocks.{{b}}', f'{ours}/{{b}}'
  attention, table = f'{official}.attention.self', 'relative_position_bias_table'
  return (
    *norm(f'{official}.layernorm_before', f'{ours}/norm1'),
    *separate_attention(
      f'{official}.attention',
      f'{ours}/attn',
      names=('self.query', 'self.key', 'self.value'),
      out='output.dense',
    ),
    Rule(f'{attention}.{table}', f'{ours}/attn/{table}'),
    Ignore(f'{attention}.relative_position_index', 'a constant of the window'),
    *norm(f'{official}.layernorm_after', f'{ours}/norm2'),
    *dense(f'{official}.intermediate.dense', f'{ours}/mlp/fc1'),
    *dense(f'{official}.output.dense', f'{ours}/mlp/fc2'),
  )


def _in_memory_blocks(official: str, ours: str) -> Rules:
  official, ours = f'{official}.blocks.{{b}}', f'{ours}/{{b}}'
  attention, table = f'{official}.attention', 'relative_position_bias_table'
  return (
    *norm(f'{official}.layernorm_before', f'{ours}/norm1'),
    *separate_attention(attention, f'{ours}/attn', out='o_proj'),
    Rule(f'{attention}.relative_position_bias.{table}', f'{ours}/attn/{table}'),
    *norm(f'{official}.layernorm_after', f'{ours}/norm2'),
    *dense(f'{official}.mlp.fc1', f'{ours}/mlp/fc1'),
    *dense(f'{official}.mlp.fc2', f'{ours}/mlp/fc2'),
  )


# transformers' backbones, without the norms of the stages.
def _hugging_face(blocks: Callable[[str, str], Rules]) -> Rules:
  return (
    *conv('embeddings.patch_embeddings.projection', 'patch_embed/proj'),
    *norm('embeddings.norm', 'patch_embed/norm'),
    *(
      rule
      for stage in range(4)
      for rule in (
        *blocks(f'encoder.layers.{stage}', f'res{stage + 2}'),
        *_merging(f'encoder.layers.{stage}.downsample', f'merge{stage + 2}'),
      )
    ),
  )


_HUGGING_FACE = _hugging_face(_hugging_face_blocks)
_UNUSED_NORM = 'a norm that the backbone does not use'

_STAGE_NORMS = (
  *(
    rule
    for stage in range(4)
    for rule in norm(f'hidden_states_norms.stage{stage + 1}', f'norm{stage + 2}')
  ),
  *(Ignore(f'swin.layernorm.{name}', _UNUSED_NORM) for name in ('weight', 'bias')),
)
# transformers' `SwinBackbone` as the library saves it, and its own state dict, which
# since version 5 has other names.
HUGGING_FACE = (*_HUGGING_FACE, *_STAGE_NORMS)
HUGGING_FACE_IN_MEMORY = (
  *prefixed(_hugging_face(_in_memory_blocks), 'swin.'),
  *_STAGE_NORMS,
)

# transformers' `MaskFormerSwinBackbone`.
HUGGING_FACE_MASKFORMER = (
  *prefixed(_HUGGING_FACE, 'model.'),
  *(
    rule
    for stage in range(4)
    for rule in norm(f'hidden_states_norms.{stage}', f'norm{stage + 2}')
  ),
  *(Ignore(f'model.layernorm.{name}', _UNUSED_NORM) for name in ('weight', 'bias')),
)

# `SwinForImageClassification`.
HUGGING_FACE_CLASSIFIER = (
  *prefixed(_HUGGING_FACE, 'swin.'),
  *(
    Ignore(f'{part}.{name}', 'the ImageNet classifier')
    for part in ('swin.layernorm', 'classifier')
    for name in ('weight', 'bias')
  ),
)

# Weights of a backbone alone, by paths below `backbone/`.
FORMAT = Format(
  title='Swin',
  signatures={
    'official': ('layers.0.blocks.0.attn.relative_position_bias_table',),
    'hugging_face': ('swin.embeddings.patch_embeddings.projection.weight',),
  },
  read=lambda layout, keys: prefixed(
    HUGGING_FACE_CLASSIFIER if layout == 'hugging_face' else CLASSIFIER,
    ours='backbone/',
  ),
  wrapper='model',
  beside=classifier.beside,
)


def sizes(found: KnownSizes) -> dict[str, Any]:
  """The fields of a `SwinConfig`; empty where there is no Swin.

  What missing tensors would tell is 1, so that reading the file names them.
  """
  width = found.size('patch_embed/proj/kernel', -1)
  if width is None:
    return {}
  levels = (2, 3, 4, 5)
  tables = [f'res{n}/0/attn/relative_position_bias_table' for n in levels]
  offsets = max(found.size(table, 0) or 1 for table in tables)
  return {
    'width': width,
    'depths': tuple(found.layers(f'res{n}/{{i}}/norm1/scale') or 1 for n in levels),
    'heads': tuple(found.size(table, 1) or 1 for table in tables),
    'window': (math.isqrt(offsets) + 1) // 2,
  }
