"""EVA02-CLIPs in the names of open_clip, of EVA-CLIP's own code, and in MaskCLIP++'s
files, which have learned to read masks.

Our paths are those of `nn.eva.EvaCLIP`.
"""

import math
from collections.abc import Collection, Mapping

from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import conv, dense, norm
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
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

# Names of the parts of a block in timm, and in EVA-CLIP's own code.
_TIMM = {
  'q_bias': 'attn.q_proj.bias',
  'v_bias': 'attn.v_proj.bias',
  'attn_norm': 'attn.norm',
  'gate': 'mlp.fc1_g',
  'up': 'mlp.fc1_x',
  'mlp_norm': 'mlp.norm',
  'down': 'mlp.fc2',
}
_EVA = {
  'q_bias': 'attn.q_bias',
  'v_bias': 'attn.v_bias',
  'attn_norm': 'attn.inner_attn_ln',
  'gate': 'mlp.w1',
  'up': 'mlp.w2',
  'mlp_norm': 'mlp.ffn_ln',
  'down': 'mlp.w3',
}


def _block(official: str, ours: str, names: Mapping[str, str]) -> Rules:
  attention = f'{ours}/attn'
  return (
    *norm(f'{official}.norm1', f'{ours}/ln_1'),
    *(
      Rule(
        f'{official}.attn.{role[0]}_proj.weight',
        f'{attention}/{role}/kernel',
        HEADS_KERNEL,
      )
      for role in ('query', 'key', 'value')
    ),
    *(
      Rule(
        f'{official}.{names[f"{role[0]}_bias"]}', f'{attention}/{role}/bias', HEADS_BIAS
      )
      for role in ('query', 'value')
    ),
    *norm(f'{official}.{names["attn_norm"]}', f'{attention}/norm'),
    Rule(f'{official}.attn.proj.weight', f'{attention}/out/kernel', HEADS_OUT),
    Rule(f'{official}.attn.proj.bias', f'{attention}/out/bias'),
    *norm(f'{official}.norm2', f'{ours}/ln_2'),
    *dense(f'{official}.{names["gate"]}', f'{ours}/mlp/gate'),
    *dense(f'{official}.{names["up"]}', f'{ours}/mlp/up'),
    *norm(f'{official}.{names["mlp_norm"]}', f'{ours}/mlp/norm'),
    *dense(f'{official}.{names["down"]}', f'{ours}/mlp/down'),
  )


def _tower(names: Mapping[str, str]) -> Rules:
  return (
    Rule('cls_token', 'class_embedding', TWO_BEFORE),
    Rule('pos_embed', 'positional_embedding', ONE_BEFORE),
    *conv('patch_embed.proj', 'conv1'),
    *_block('blocks.{i}', 'transformer/resblocks/{i}', names),
    *norm('norm', 'ln_post'),
    *dense('head', 'proj'),
  )


# What EVA-CLIP's own code keeps beside the weights of its tower.
_CONSTANTS = tuple(
  Ignore(f'{where}rope.{name}', 'how patches turn with their place, a constant')
  for where in ('', 'blocks.{i}.attn.')
  for name in ('freqs_cos', 'freqs_sin')
)
_EVA_TOWER = (*_tower(_EVA), *_CONSTANTS)


def rules(keys: Collection[str] = ('text.token_embedding.weight',)) -> Rules:
  """The table of open_clip's file with some keys; the text tower mostly is below
  'text.'."""
  tower = prefixed(_tower(_TIMM), 'visual.trunk.', 'visual/')
  return (*tower, *clip.text_rules(keys), clip.SCALE)


RULES = rules()
# EVA-CLIP's own file.
EVA_RULES = (
  *prefixed(_EVA_TOWER, 'visual.', 'visual/'),
  *prefixed(clip.TEXT, 'text.', 'text/'),
  clip.SCALE,
)


def mask_rules(keys: Collection[str]) -> Rules:
  """The table of MaskCLIP++'s file [fcclip 9.4].

  The specification names what its parts are below and not every key, so a file tells
  the rest by where its tensors are: the image tower below `proxy.`, the scale of masks
  beside it, the text tower, the one `logit_scale`, and the two layers of `psm` in the
  order of their names. What then is left over is reported, as of every file.

  Raises:
    ValueError: a part is missing, or there are two of it.
  """

  def only(part: str, found: Collection[str]) -> str:
    if len(found) != 1:
      listed = ', '.join(sorted(found)[:3]) or 'nothing'
      raise ValueError(
        f'the {part} of this MaskCLIP++ cannot be told from its names: expected one '
        f'tensor, found {listed}'
      )
    return next(iter(found))

  def below(prefix: str, ending: str) -> list[str]:
    return [key for key in keys if key.startswith(prefix) and key.endswith(ending)]

  image = only('image tower', below('visual_encoder.', 'proxy.cls_token'))
  image = image.removesuffix('cls_token')
  word = 'token_embedding.weight'
  text = only('text tower', below('text_encoder.', word)).removesuffix(word)
  temperature = only('temperature', below('', 'logit_scale'))
  beside = [key for key in below('visual_encoder.', '') if not key.startswith(image)]
  scale = only('scale of masks', [key for key in beside if key != temperature])
  layers = sorted({key.rpartition('.')[0] for key in below('psm.', '.weight')})
  if len(layers) != 2:
    raise ValueError(
      f'the psm of this MaskCLIP++ has {len(layers)} layers, expected two linear ones'
    )
  tower = _EVA_TOWER if f'{image}blocks.0.mlp.w1.weight' in keys else _tower(_TIMM)
  return (
    *prefixed(tower, image, 'visual/'),
    *prefixed(clip.TEXT, text, 'text/'),
    Rule(temperature, 'logit_scale'),
    Rule(scale, 'visual/mask_scale'),
    *dense(layers[0], 'mixer/inner'),
    *dense(layers[1], 'mixer/outer'),
    *(Ignore(key, 'a constant of training') for key in below('criterion.', '')),
  )


def _read(layout: str, keys: Collection[str]) -> Rules:
  if layout == 'maskclippp':
    return mask_rules(keys)
  return EVA_RULES if layout == 'eva_clip' else rules(keys)


def _written(config: EvaCLIPConfig, layout: str, classes: int) -> Rules:
  if layout == 'maskclippp' or config.mask_blocks:
    raise ValueError(
      "the names of all tensors in MaskCLIP++'s files are not known, and other layouts "
      'have no place for what it has learned of masks: write a bundle (--format bundle)'
    )
  return EVA_RULES if layout == 'eva_clip' else RULES


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
    'vision_heads': found.size(f'{block}/attn/query/kernel', 1)
    or found.size('visual/mask_scale', 1),
    # Nothing is a size too, of what a file does not have.
    'mask_blocks': found.size('visual/mask_scale', 0) or 0,
    'mixer_width': found.size('mixer/inner/kernel', 1) or 0,
  }
  fitted = clip.fitted(config, sizes | clip.text_sizes(found), found.clip)
  return resized(fitted, vision_mlp_width=hidden)


FORMAT = Format(
  title='EVA02-CLIP',
  signatures={
    'open_clip': ('visual.trunk.blocks.0.mlp.fc1_g.weight',),
    'eva_clip': ('visual.blocks.0.mlp.w1.weight',),
    'maskclippp': ('visual_encoder.*proxy.cls_token',),
  },
  read=_read,
  write=_written,
  licence="MIT by the model cards of BAAI's weights; Apache-2.0 by the repository of "
  'MaskCLIP++',
  includes=('clip',),
  beside=beside.timm_beside,
)
