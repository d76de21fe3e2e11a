"""The toy's official files: its queries, and CLIP's image tower."""

import dataclasses

from maskclip_jax.systems.toy.model import ToyConfig

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.rules import Rule, prefixed
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.systems.clip import checkpoint as clip

RULES = (
  Rule('toy.queries', 'queries'),
  *prefixed(clip.VISUAL, 'toy.visual.', 'clip/visual/'),
)


def sized(config: ToyConfig, found: KnownSizes) -> ToyConfig:
  """A toy of the sizes found."""
  return dataclasses.replace(
    config,
    clip=clip.sized(config.clip, found.below('clip')),
    queries=found.size('queries', 0) or config.queries,
  )


FORMAT = Format(
  title='Toy',
  licence='Apache-2.0',
  signatures={'official': ('toy.queries',)},
  read=lambda layout, keys: RULES,
  write=lambda config, layout, classes: RULES,
  left_out=clip.TEXT_TOWER,
)
