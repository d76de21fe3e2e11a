"""EVA02-CLIPs in the names of timm's trunk and open_clip's text tower.

Our paths are those of `nn.eva.EvaCLIP`.
"""

import math
from collections.abc import Collection

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import conv, dense, norm
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes, resized
from maskclip_jax.mapping.transforms import (
  HEADS_BIAS,
  HEADS_KERNEL,
  HEADS_OUT,
  ONE_BEFORE,
  TWO_BEFORE,
)
from maskclip_jax.nn.eva import EvaCLIPConfig
from maskclip_jax.systems.clip import beside
from maskclip_jax.systems.clip import checkpoint as clip


def _block(official: str, ours: str) -> Rules:
  attention, ours_attention = f'{official}.attn', f'{ours}/attn'
  return (
    *norm(f'{official}.norm1', f'{ours}/ln_1'),
    *(
      Rule(
        f'{attention}.{role[0]}_proj.weight',
        f'{ours_attention}/{role}/kernel',
        HEADS_KERNEL,
      )
      for role in ('query', 'key', 'value')
    ),
    *(
      Rule(
        f'{attention}.{role[0]}_proj.bias', f'{ours_attention}/{role}/bias', HEADS_BIAS
      )
      for role in ('query', 'value')
    ),
    *norm(f'{attention}.norm', f'{ours_attention}/norm'),
    Rule(f'{attention}.proj.weight', f'{ours_attention}/out/kernel', HEADS_OUT),
    Rule(f'{attention}.proj.bias', f'{ours_attention}/out/bias'),
    *norm(f'{official}.norm2', f'{ours}/ln_2'),
    *dense(f'{official}.mlp.fc1_g', f'{ours}/mlp/gate'),
    *dense(f'{official}.mlp.fc1_x', f'{ours}/mlp/up'),
    *norm(f'{official}.mlp.norm', f'{ours}/mlp/norm'),
    *dense(f'{official}.mlp.fc2', f'{ours}/mlp/down'),
  )


_TOWER = (
  Rule('cls_token', 'class_embedding', TWO_BEFORE),
  Rule('pos_embed', 'positional_embedding', ONE_BEFORE),
  *conv('patch_embed.proj', 'conv1'),
  *_block('blocks.{i}', 'transformer/resblocks/{i}'),
  *norm('norm', 'ln_post'),
  *dense('head', 'proj'),
)


def rules(keys: Collection[str] = ('text.token_embedding.weight',)) -> Rules:
  """The table of a file with some keys; the text tower mostly is below 'text.'."""
  tower = prefixed(_TOWER, 'visual.trunk.', 'visual/')
  return (*tower, *clip.text_rules(keys), clip.SCALE)


RULES = rules()


def sized(config: EvaCLIPConfig, found: KnownSizes) -> EvaCLIPConfig:
  """A CLIP of the sizes found, and with what the file beside its weights tells.

  Raises:
    ValueError: see `systems.clip.checkpoint.fitted`.
  """
  block = 'visual/transformer/resblocks/0'
  patch = found.size('visual/conv1/kernel', 0)
  tokens = found.size('visual/positional_embedding', 0)
  hidden = found.size(f'{block}/mlp/gate/kernel', 1)
  sizes = {
    'embed_dim': found.size('visual/proj/kernel', 1),
    'patch_size': patch,
    'image_size': patch and tokens and patch * math.isqrt(tokens - 1),
    'vision_width': found.size('visual/class_embedding', 0),
    'vision_layers': found.layers('visual/transformer/resblocks/{i}/ln_1/scale'),
    'vision_heads': found.size(f'{block}/attn/query/kernel', 1),
  }
  fitted = clip.fitted(config, sizes | clip.text_sizes(found), found.clip)
  return resized(fitted, vision_mlp_width=hidden)


FORMAT = Format(
  title='EVA02-CLIP',
  signatures={'open_clip': ('visual.trunk.blocks.0.mlp.fc1_g.weight',)},
  read=lambda layout, keys: rules(keys),
  write=lambda config, layout, classes: RULES,
  licence="MIT by the model cards of BAAI's weights",
  includes=('clip',),
  beside=beside.timm_beside,
)
