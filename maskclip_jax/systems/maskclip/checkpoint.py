"""MaskCLIP's checkpoints [masqclip 4.5].

They hold the proposal network without a class head, CLIP's image tower and relative
mask attention; CLIP's text tower is not stored. Our paths are those of
`systems.maskclip.model.MaskCLIP`.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import dense, norm
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.mapping.transforms import CONV
from maskclip_jax.systems import parts
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.mask2former import checkpoint as mask2former
from maskclip_jax.systems.maskclip.model import MaskCLIPConfig

SIGNATURE = 'maskclip.visual.proj'

_TRANSFORMER = 'maskclip.visual.transformer.'


def rma_blocks(keys: Iterable[str]) -> tuple[int, ...]:
  """The blocks that have relative mask attention in an official file."""
  pattern = re.compile(
    re.escape(_TRANSFORMER) + r'resblocks\.(\d+)\.attn\.q_prime_norm_added_params\.bias'
  )
  return tuple(sorted(int(m[1]) for key in keys if (m := pattern.fullmatch(key))))


def _relative_mask_attention(index: int, block: int) -> Rules:
  """Two convolutions that stand beside the blocks, two layers inside one."""
  rules = ()
  for conv in ('conv1', 'conv3'):
    rules += (
      Rule(f'{conv}_added_params.{index}.weight', f'rma/{index}/{conv}/kernel', CONV),
      Rule(f'{conv}_added_params.{index}.bias', f'rma/{index}/{conv}/bias'),
    )
  inside = f'resblocks.{block}.attn'
  return (
    *rules,
    *norm(f'{inside}.q_prime_norm_added_params', f'rma/{index}/q_prime_norm'),
    *dense(f'{inside}.k_prime_proj_weight_added_params', f'rma/{index}/k_prime_proj'),
  )


def rules(blocks: Sequence[int] = (5, 11, 17, 23), classes: int = 133) -> Rules:
  """The table.

  Args:
    blocks: the blocks with relative mask attention.
    classes: sizes the criterion's buffer on export.
  """
  attention = (
    rule
    for index, block in enumerate(blocks)
    for rule in _relative_mask_attention(index, block)
  )
  return (
    *prefixed(mask2former.NETWORK, ours='proposals/'),
    *prefixed(clip.VISUAL, 'maskclip.visual.', 'clip/visual/'),
    *prefixed(tuple(attention), _TRANSFORMER),
    # Unmatched queries do not count in MaskCLIP's loss [masqclip 4.7].
    *mask2former.criterion(classes, no_object=0.0),
  )


def sized(config: MaskCLIPConfig, found: KnownSizes) -> MaskCLIPConfig:
  """A MaskCLIP of the sizes found; a config without relative mask attention asks to
  leave it out. A bundle tells how many blocks have it, and not which."""
  blocks = rma_blocks(found.keys)
  if len(config.rma_blocks) == found.layers('rma/{i}/conv1/bias'):
    blocks = blocks or config.rma_blocks
  return dataclasses.replace(
    config,
    **parts.sized_parts(config, found),
    rma_blocks=blocks if config.rma_blocks else (),
  )


FORMAT = Format(
  title='MaskCLIP',
  signatures={'official': (SIGNATURE,)},
  read=lambda layout, keys: rules(rma_blocks(keys)),
  write=lambda config, layout, classes: rules(config.rma_blocks, classes),
  licence='CC BY-NC 4.0 (the authors of MaskCLIP)',
  left_out=clip.TEXT_TOWER,
  includes=('mask2former',),
  wrapper='model',
)
