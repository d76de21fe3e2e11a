"""SigLIPs in transformers' names, and in those of timm's trunk and open_clip's text.

Our paths are those of `nn.siglip.SigLIP`.
"""

import dataclasses
import math
from collections.abc import Mapping

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import conv, dense, norm, packed_attention
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes, resized
from maskclip_jax.mapping.transforms import (
  CONV,
  HEADS_BIAS,
  HEADS_KERNEL,
  HEADS_OUT,
  ONE_BEFORE,
  PACKED_BIAS,
  PACKED_KERNEL,
  PATCHES,
  TWO_BEFORE,
  Shape,
)
from maskclip_jax.nn.siglip import SigLIPConfig
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.siglip.beside import beside

# More words than SigLIP's own tokenizer has are Gemma's, which pads with another token.
_LARGE_VOCABULARY = 100_000

_VISION = 'visual/transformer/resblocks'


def _mlp(official: str, ours: str) -> Rules:
  return (
    *dense(f'{official}.fc1', f'{ours}/c_fc'),
    *dense(f'{official}.fc2', f'{ours}/c_proj'),
  )


_EMBEDDINGS = 'vision_model.embeddings'
_PATCHES = f'{_EMBEDDINGS}.patch_embedding.weight'
_POSITIONS = f'{_EMBEDDINGS}.position_embedding.weight'

_BOTH = (
  Rule(f'{_EMBEDDINGS}.patch_embedding.bias', 'visual/conv1/bias'),
  *clip.hugging_face_blocks('vision_model.encoder.layers', _VISION),
  *norm('vision_model.post_layernorm', 'visual/ln_post'),
  Rule('vision_model.head.probe', 'visual/pool/probe', TWO_BEFORE),
  *packed_attention('vision_model.head.attention', 'visual/pool/attn'),
  *norm('vision_model.head.layernorm', 'visual/pool/norm'),
  *_mlp('vision_model.head.mlp', 'visual/pool/mlp'),
  Rule(
    'text_model.embeddings.token_embedding.weight', 'text/token_embedding/embedding'
  ),
  Rule('text_model.embeddings.position_embedding.weight', 'text/positional_embedding'),
  *clip.hugging_face_blocks('text_model.encoder.layers', 'text/transformer/resblocks'),
  *norm('text_model.final_layer_norm', 'text/ln_final'),
  *dense('text_model.head', 'text/text_projection'),
  Rule('logit_scale', 'logit_scale', ONE_BEFORE),
  Rule('logit_bias', 'logit_bias', ONE_BEFORE),
  *(
    Ignore(f'{tower}_model.embeddings.position_ids', 'the integers from 0')
    for tower in ('vision', 'text')
  ),
)
HUGGING_FACE = (
  Rule(_PATCHES, 'visual/conv1/kernel', CONV),
  Rule(_POSITIONS, 'visual/positional_embedding'),
  *_BOTH,
)
# Patches come in a row, and their positions from a table that is resized.
NAFLEX = (
  Rule(_PATCHES, 'visual/conv1/kernel', PATCHES),
  Rule(_POSITIONS, 'visual/position_table'),
  *_BOTH,
)


def _timm_block(official: str, ours: str) -> Rules:
  return (
    *norm(f'{official}.norm1', f'{ours}/ln_1'),
    *packed_attention(f'{official}.attn', f'{ours}/attn', packed='qkv.', out='proj'),
    *norm(f'{official}.norm2', f'{ours}/ln_2'),
    *_mlp(f'{official}.mlp', f'{ours}/mlp'),
  )


_POOL = (
  Rule('latent', 'probe', TWO_BEFORE),
  Rule('q.weight', 'attn/query/kernel', HEADS_KERNEL),
  Rule('q.bias', 'attn/query/bias', HEADS_BIAS),
  Rule('kv.weight', ('attn/key/kernel', 'attn/value/kernel'), PACKED_KERNEL),
  Rule('kv.bias', ('attn/key/bias', 'attn/value/bias'), PACKED_BIAS),
  Rule('proj.weight', 'attn/out/kernel', HEADS_OUT),
  Rule('proj.bias', 'attn/out/bias'),
  *norm('norm', 'norm'),
  *_mlp('mlp', 'mlp'),
)

OPEN_CLIP = (
  *conv('visual.trunk.patch_embed.proj', 'visual/conv1'),
  Rule('visual.trunk.pos_embed', 'visual/positional_embedding', ONE_BEFORE),
  *_timm_block('visual.trunk.blocks.{i}', f'{_VISION}/{{i}}'),
  *norm('visual.trunk.norm', 'visual/ln_post'),
  *prefixed(_POOL, 'visual.trunk.attn_pool.', 'visual/pool/'),
  *(
    rule
    for rule in prefixed(clip.TEXT, 'text.', 'text/')
    if rule.pattern != 'text.text_projection'
  ),
  *dense('text.text_projection', 'text/text_projection'),
  clip.SCALE,
  Rule('logit_bias', 'logit_bias'),
)

LAYOUTS: dict[str, Rules] = {'hugging_face': HUGGING_FACE, 'open_clip': OPEN_CLIP}


def _read(layout: str, shapes: Mapping[str, Shape]) -> Rules:
  """The table of a file; those of NaFlex have the same keys as others."""
  return NAFLEX if len(shapes.get(_PATCHES, ())) == 2 else LAYOUTS[layout]


def _write(config: SigLIPConfig, layout: str, classes: int) -> Rules:
  """The table of a layout for a config.

  Raises:
    ValueError: the layout has no place for photos of any shape.
  """
  if not config.any_size:
    return LAYOUTS[layout]
  if layout != 'hugging_face':
    raise ValueError(
      f'the layout {layout} has no place for a SigLIP 2 for photos of any shape '
      '(NaFlex): choose hugging_face'
    )
  return NAFLEX


def sized(config: SigLIPConfig, found: KnownSizes) -> SigLIPConfig:
  """A SigLIP of the sizes found, and with what the file beside its weights tells.

  Raises:
    ValueError: see `systems.clip.checkpoint.fitted`; or the config is that of a network
      for photos of any shape, and the weights are not.
  """
  table = found.size('visual/position_table', 0)
  places = table or found.size('visual/positional_embedding', 0)
  if places and not table:
    if 'position_grid' in found.clip:
      raise ValueError(
        'the config beside the weights says siglip2, for photos of any shape, and they '
        'are for squares of one size: put the config there that belongs to them, or '
        'none'
      )
    config = dataclasses.replace(config, position_grid=None)
  words = found.size('text/token_embedding/embedding', 0)
  sizes = {
    'embed_dim': found.size('text/text_projection/kernel', 1),
    'patch_size': found.size('visual/conv1/kernel', 0),
    'image_size': _side(config, found, places),
    'position_grid': table and math.isqrt(table),
    'vision_width': found.size('visual/pool/probe', 0),
    'vision_layers': found.layers(f'{_VISION}/{{i}}/ln_1/scale'),
    'vision_heads': found.size(f'{_VISION}/0/attn/query/kernel', 1),
    'vision_mlp_width': found.size(f'{_VISION}/0/mlp/c_fc/kernel', 1),
  }
  fitted = clip.fitted(
    config, sizes | clip.text_sizes(found), found.clip, vocabulary=math.inf
  )
  pad = None if words is None else int(words < _LARGE_VOCABULARY)
  return resized(fitted, pad_token=pad)


def _side(config: SigLIPConfig, found: KnownSizes, places: int | None) -> int | None:
  """The side of the photos, in pixels, of a file with positions of so many places."""
  patch = found.size('visual/conv1/kernel', 0)
  if not patch or not places:
    return None
  side = patch * math.isqrt(places)
  if 'visual/position_table' in found.shapes:
    # Photos of any size: the weights do not tell what was chosen.
    chosen = config.position_grid == math.isqrt(places) and config.patch_size == patch
    return config.image_size if chosen else side
  told = found.clip.get('image_size', 0)
  if side <= told < side + patch:
    # Photos of 384 have 27 patches of 14 along a side, and a rest.
    return told
  if side // patch == config.image_size // patch == config.grid:
    return config.image_size
  return side


FORMAT = Format(
  title='SigLIP',
  signatures={
    'hugging_face': ('vision_model.head.probe',),
    'open_clip': ('visual.trunk.attn_pool.latent',),
  },
  read=_read,
  write=_write,
  licence="Apache-2.0 by the model cards of Google's weights",
  includes=('clip',),
  beside=beside,
)
