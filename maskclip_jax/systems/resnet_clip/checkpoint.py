"""OpenAI's CLIPs with a ResNet, in OpenAI's names and open_clip's [fcclip 2.5].

Our paths are those of `nn.clip_resnet.ResNetCLIP`.
"""

import math
from collections.abc import Collection

from maskclip_jax.mapping import resnet
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import separate_attention
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.nn.clip_resnet import STAGES, ResNetCLIPConfig
from maskclip_jax.systems.clip import beside
from maskclip_jax.systems.clip import checkpoint as clip

_TOWER = (
  *prefixed(resnet.CLIP_TRUNK, ours='trunk/'),
  Rule('attnpool.positional_embedding', 'head/positional_embedding'),
  *separate_attention('attnpool', 'head', out='c_proj'),
)


def rules(keys: Collection[str] = ()) -> Rules:
  """The table of a file with some keys; the text tower mostly has no prefix."""
  tower = prefixed(_TOWER, 'visual.', 'visual/')
  return (*tower, *clip.text_rules(keys), clip.SCALE, *clip.SIZES)


RULES = rules()


def sized(config: ResNetCLIPConfig, found: KnownSizes) -> ResNetCLIPConfig:
  """A CLIP of the sizes found, and with what the file beside its weights tells.

  Raises:
    ValueError: see `systems.clip.checkpoint.fitted`.
  """
  blocks = [found.layers(f'visual/trunk/{s}/{{i}}/conv1/kernel') for s in STAGES]
  width = found.size('visual/trunk/stem/conv3/kernel', 3)
  places = found.size('visual/head/positional_embedding', 0)
  told = found.clip.get('vision_heads')
  sizes = {
    'embed_dim': found.size('visual/head/out/bias', 0),
    'image_size': places and 32 * math.isqrt(places - 1),
    'blocks': tuple(blocks) if all(blocks) else None,
    'stem_width': width,
    # A bundle keeps the heads apart; the published have 64 channels each.
    'vision_heads': found.size('visual/head/query/kernel', 1)
    or told
    or (width and width // 2),
  }
  return clip.fitted(config, sizes | clip.text_sizes(found), found.clip)


FORMAT = Format(
  title='ResNet-CLIP',
  signatures={'open_clip': ('visual.layer1.0.conv1.weight',)},
  read=lambda layout, keys: rules(keys),
  write=lambda config, layout, classes: RULES,
  licence="MIT (OpenAI's CLIP; other trainings of CLIP have terms of their own)",
  includes=('clip',),
  beside=beside.resnet_beside,
)
