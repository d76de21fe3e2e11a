"""SegCLIP's checkpoint, `segclip.bin` [segclip 1.9].

One file holds everything: both towers of CLIP, the image tower's blocks under two names
for its two stages, the group module, and what only training needs. Our paths are those
of `systems.segclip.model.SegCLIP`, with CLIP's own under `clip/` as in every system.
"""

import re
from collections.abc import Iterable

from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.transforms import (
  HEADS_OUT,
  HEADWISE_KERNEL,
  PACKED_BIAS,
  PACKED_KERNEL,
)
from maskclip_jax.systems.clip import checkpoint as clip

_TRANSFORMER = 'clip.visual.transformer.'
_GROUPING = f'{_TRANSFORMER}semantic_layer2'
SIGNATURE = f'{_GROUPING}.semantic_center'


def first_blocks(keys: Iterable[str]) -> int:
  """How many of CLIP's blocks a file has before the groups."""
  pattern = re.compile(re.escape(_TRANSFORMER) + r'layers0\.(\d+)\.ln_1\.weight')
  return sum(1 for key in keys if pattern.fullmatch(key))


def _centre_block(official: str, ours: str) -> Rules:
  return (
    *clip.norm(f'{official}.ln_x', f'{ours}/ln_centres'),
    *clip.norm(f'{official}.ln_k', f'{ours}/ln_tokens'),
    *clip.packed_attention(f'{official}.attn', f'{ours}/cross_attention'),
    *clip.norm(f'{official}.ln_2', f'{ours}/ln_mlp'),
    *clip.mlp(f'{official}.mlp', f'{ours}/mlp'),
  )


def _decoder_block(official: str, ours: str) -> Rules:
  """A block of timm's vision transformer."""
  attention = tuple(f'{ours}/attn/{role}' for role in clip.ROLES)
  return (
    *clip.norm(f'{official}.norm1', f'{ours}/ln_1'),
    Rule(
      f'{official}.attn.qkv.weight',
      tuple(f'{role}/kernel' for role in attention),
      PACKED_KERNEL,
    ),
    Rule(
      f'{official}.attn.qkv.bias',
      tuple(f'{role}/bias' for role in attention),
      PACKED_BIAS,
    ),
    Rule(f'{official}.attn.proj.weight', f'{ours}/attn/out/kernel', HEADS_OUT),
    Rule(f'{official}.attn.proj.bias', f'{ours}/attn/out/bias'),
    *clip.norm(f'{official}.norm2', f'{ours}/ln_2'),
    *clip.dense(f'{official}.mlp.fc1', f'{ours}/mlp/c_fc'),
    *clip.dense(f'{official}.mlp.fc2', f'{ours}/mlp/c_proj'),
  )


def _decoder(official: str, ours: str) -> Rules:
  """A masked autoencoder's decoder."""
  return (
    Rule(f'{official}.mask_token', f'{ours}/mask_token'),
    Rule(f'{official}.decoder_pos_embed', f'{ours}/positions'),
    *clip.dense(f'{official}.decoder_embed', f'{ours}/embed'),
    *_decoder_block(f'{official}.decoder_blocks.{{i}}', f'{ours}/decoder/{{i}}'),
    *clip.norm(f'{official}.decoder_norm', f'{ours}/norm'),
    *clip.dense(f'{official}.decoder_pred', f'{ours}/paint'),
  )


_GROUP_MODULE = (
  Rule('semantic_center', 'centres'),
  *_centre_block('cross_att.{i}', 'blocks/{i}'),
  *clip.norm('cross_ln', 'ln_centres'),
  *clip.norm('norm', 'ln_patches'),
  Rule('k_conv.weight', 'key/kernel', HEADWISE_KERNEL),
  *clip.norm('k_ln', 'ln_key'),
  Rule('v_conv.weight', 'value/kernel', HEADWISE_KERNEL),
  *clip.norm('proj_o.ln', 'ln_groups'),
  *clip.dense('proj_o.mlp.fc1', 'mlp/c_fc'),
  *clip.dense('proj_o.mlp.fc2', 'mlp/c_proj'),
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
    *clip.dense(f'{_TRANSFORMER}reconstruct_layer2.rec_proj_a.a_fc', f'{ours}/spread'),
    *clip.block(f'{_TRANSFORMER}layers_mae2.{{i}}', f'{ours}/blocks/{{i}}'),
    *_decoder('vis_mae_decoder', ours),
    *_TEXT_DECODER,
  )
