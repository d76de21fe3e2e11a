"""Swin Transformers in the names of their authors, which detectron2's Mask2Formers and
OVSeg keep [ovseg 1.8].

Our paths are those of `nn.swin.Swin`: `res4/5/attn/query/kernel`.
"""

from maskclip_jax.mapping.layers import conv, dense, norm, packed_attention
from maskclip_jax.mapping.rules import Ignore, Rule, Rules
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


DETECTRON2 = (
  *conv('patch_embed.proj', 'patch_embed/proj'),
  *norm('patch_embed.norm', 'patch_embed/norm'),
  *(
    rule
    for stage in range(4)
    for rule in (
      *_blocks(f'layers.{stage}', f'res{stage + 2}'),
      *_merging(f'layers.{stage}.downsample', f'merge{stage + 2}'),
      *norm(f'norm{stage}', f'norm{stage + 2}'),
    )
  ),
)
