"""SegCLIP's checkpoint, `segclip.bin` [segclip 1.9].

One file holds everything: both towers of CLIP, the image tower's blocks under two names
for its two stages, the group module, and what only training needs. Our paths are those
of `systems.segclip.model.SegCLIP`, with CLIP's own under `clip/` as in every system.
"""

import dataclasses
from collections.abc import Collection

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import dense, norm, packed_attention
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes, resized
from maskclip_jax.mapping.transforms import HEADWISE_KERNEL
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.segclip.model import SegCLIPConfig

_TRANSFORMER = 'clip.visual.transformer.'
_GROUPING = f'{_TRANSFORMER}semantic_layer2'
SIGNATURE = f'{_GROUPING}.semantic_center'


def stages(keys: Collection[str]) -> tuple[int, int]:
  """How many of CLIP's blocks a file has before the groups, and how many in all."""
  first, last = (
    sum(f'{_TRANSFORMER}{stage}.{i}.ln_1.weight' in keys for i in range(len(keys)))
    for stage in ('layers0', 'layers2')
  )
  return first, first + last


def _centre_block(official: str, ours: str) -> Rules:
  return (
    *norm(f'{official}.ln_x', f'{ours}/ln_centres'),
    *norm(f'{official}.ln_k', f'{ours}/ln_tokens'),
    *packed_attention(f'{official}.attn', f'{ours}/cross_attention'),
    *norm(f'{official}.ln_2', f'{ours}/ln_mlp'),
    *clip.mlp(f'{official}.mlp', f'{ours}/mlp'),
  )


def _decoder_block(official: str, ours: str, **attention: str) -> Rules:
  return (
    *norm(f'{official}.norm1', f'{ours}/ln_1'),
    *packed_attention(f'{official}.attn', f'{ours}/attn', **attention),
    *norm(f'{official}.norm2', f'{ours}/ln_2'),
    *dense(f'{official}.mlp.fc1', f'{ours}/mlp/c_fc'),
    *dense(f'{official}.mlp.fc2', f'{ours}/mlp/c_proj'),
  )


def _decoder(official: str, ours: str, **attention: str) -> Rules:
  """A masked autoencoder's decoder; `attention` as for `packed_attention`."""
  blocks = f'{official}.decoder_blocks.{{i}}', f'{ours}/decoder/{{i}}'
  return (
    Rule(f'{official}.mask_token', f'{ours}/mask_token'),
    Rule(f'{official}.decoder_pos_embed', f'{ours}/positions'),
    *dense(f'{official}.decoder_embed', f'{ours}/embed'),
    *_decoder_block(*blocks, **attention),
    *norm(f'{official}.decoder_norm', f'{ours}/norm'),
    *dense(f'{official}.decoder_pred', f'{ours}/paint'),
  )


_GROUP_MODULE = (
  Rule('semantic_center', 'centres'),
  *_centre_block('cross_att.{i}', 'blocks/{i}'),
  *norm('cross_ln', 'ln_centres'),
  *norm('norm', 'ln_patches'),
  Rule('k_conv.weight', 'key/kernel', HEADWISE_KERNEL),
  *norm('k_ln', 'ln_key'),
  Rule('v_conv.weight', 'value/kernel', HEADWISE_KERNEL),
  *norm('proj_o.ln', 'ln_groups'),
  *dense('proj_o.mlp.fc1', 'mlp/c_fc'),
  *dense('proj_o.mlp.fc2', 'mlp/c_proj'),
)

# The published training does without; files of the other switch hold it.
_TEXT_DECODER = tuple(
  Ignore(rule.pattern, 'paints hidden words; not part of the published model')
  for rule in _decoder('seq_mae_decoder', '')
)


def _two_stages(first: int, blocks: int) -> Rules:
  """CLIP's blocks, those after the groups under another name."""
  rules = ()
  for i in range(blocks):
    theirs = f'layers0.{i}' if i < first else f'layers2.{i - first}'
    rules += clip.block(theirs, f'resblocks/{i}')
  return rules


def rules(first: int = 10, blocks: int = 12) -> Rules:
  """The table.

  Args:
    first: CLIP's blocks before the groups.
    blocks: all of them.
  """
  ours = 'reconstruction'
  return (
    *prefixed(clip.VISUAL_ENDS, 'clip.visual.', 'clip/visual/'),
    *prefixed(_two_stages(first, blocks), _TRANSFORMER, 'clip/visual/transformer/'),
    *prefixed(clip.TEXT, 'clip.', 'clip/text/'),
    *prefixed((clip.SCALE,), 'clip.', 'clip/'),
    *prefixed(_GROUP_MODULE, f'{_GROUPING}.', 'grouping/'),
    *dense(f'{_TRANSFORMER}reconstruct_layer2.rec_proj_a.a_fc', f'{ours}/spread'),
    *clip.block(f'{_TRANSFORMER}layers_mae2.{{i}}', f'{ours}/blocks/{{i}}'),
    *_decoder('vis_mae_decoder', ours, packed='qkv.', out='proj'),
    *_TEXT_DECODER,
  )


def sized(config: SegCLIPConfig, found: KnownSizes) -> SegCLIPConfig:
  """A SegCLIP of the sizes found."""
  ours = 'reconstruction'
  return resized(
    dataclasses.replace(
      config,
      clip=clip.sized(config.clip, found.below('clip')),
      first_blocks=stages(found.keys)[0] or config.first_blocks,
    ),
    centres=found.size('grouping/centres', 0),
    centre_blocks=found.layers('grouping/blocks/{i}/ln_mlp/scale'),
    spread_blocks=found.layers(f'{ours}/blocks/{{i}}/ln_1/scale'),
    decoder_width=found.size(f'{ours}/norm/scale', 0),
    decoder_depth=found.layers(f'{ours}/decoder/{{i}}/ln_1/scale'),
  )


FORMAT = Format(
  title='SegCLIP',
  signatures={'official': (SIGNATURE,)},
  read=lambda layout, keys: rules(*stages(keys)),
  write=lambda config, layout, classes: rules(
    config.first_blocks, config.clip.vision_layers
  ),
  licence='none stated by the authors of SegCLIP; MIT (OpenAI CLIP) for what they used',
)
