"""FC-CLIP's checkpoints [fcclip 11].

They hold what was trained: pixel decoder, masked decoder and void vector. The frozen
CLIP comes from open_clip's file, unless a descendant has trained it further: then its
tensors are in the same file. Our paths are those of `systems.fcclip.model.FCCLIP`.
"""

import dataclasses

from maskclip_jax.mapping import convnext
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import conv, dense, norm, packed_attention
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes, resized
from maskclip_jax.nn.clip_resnet import ResNetCLIPConfig
from maskclip_jax.nn.convnext import ConvNeXtCLIPConfig
from maskclip_jax.systems.clip.checkpoint import SCALE, TEXT_TOWER
from maskclip_jax.systems.convnext_clip import checkpoint as convnext_clip
from maskclip_jax.systems.fcclip.adapter import MaskAdapterConfig
from maskclip_jax.systems.fcclip.model import FCCLIPConfig
from maskclip_jax.systems.mask2former import checkpoint as mask2former
from maskclip_jax.systems.resnet_clip import checkpoint as resnet_clip

_PREDICTOR = (
  *mask2former.QUERIES,
  *norm('_mask_pooling_proj.0', 'pool_norm'),
  *dense('_mask_pooling_proj.1', 'pool_proj'),
  *dense('class_embed.layers.{i}', 'class_embed/layers/{i}'),
  SCALE,
)

# The CLIP is one of two kinds, whose text towers have the same names.
_CLIP = (
  *convnext_clip.RULES,
  *(rule for rule in resnet_clip.RULES if rule not in convnext_clip.RULES),
)

# MAFT+'s.
_TRANSFER = (
  *packed_attention('multihead_attn', 'multihead_attn'),
  *dense('MLP', 'mlp'),
  *norm('norm', 'norm'),
)


# Mask-Adapter's.
_ADAPTER = (
  *conv('mask_downscaling.0', 'mask_convs/0'),
  *norm('mask_downscaling.1', 'mask_norms/0'),
  *conv('mask_downscaling.3', 'mask_convs/1'),
  *norm('mask_downscaling.4', 'mask_norms/1'),
  *conv('mask_downscaling.6', 'mask_proj'),
  *conv('fuse', 'fuse'),
  *(
    rule
    for i in range(3)
    for rule in convnext.block(
      f'cnext{i + 1}', f'blocks/{i}', ('dwconv', 'pwconv1', 'pwconv2')
    )
  ),
  *norm('norm', 'norm'),
  *conv('final', 'final'),
)


def rules(classes: int = 133) -> Rules:
  """The table; `classes` sizes the criterion's buffer on export."""
  return (
    *prefixed(_CLIP, 'backbone.clip_model.', 'clip/'),
    *prefixed(
      mask2former.PIXEL_DECODER, 'sem_seg_head.pixel_decoder.', 'pixel_decoder/'
    ),
    *prefixed(_PREDICTOR, 'sem_seg_head.predictor.', 'predictor/'),
    Rule('void_embedding.weight', 'void_embedding/embedding'),
    *prefixed(_TRANSFER, 'cdt.cross_atten.', 'transfer/'),
    *prefixed(_ADAPTER, 'mask_adapter.', 'adapter/'),
    *mask2former.criterion(classes),
    *(
      Ignore(
        f'{copy}.clip_model.{rule.pattern}',
        'a copy of CLIP as it was before training, for training alone',
        told=True,
      )
      # OVRCOAT's and MAFT+'s names of it [fcclip 9.1, 9.2].
      for copy in ('frozen_backbone', 'backbone_t')
      for rule in _CLIP
    ),
  )


def sized(config: FCCLIPConfig, found: KnownSizes) -> FCCLIPConfig:
  """An FC-CLIP of the sizes found.

  Which of the two forms of MAFT+'s transfer a file was trained with, it does not tell.
  """
  config = resized(config, **mask2former.decoder_sizes(found))
  clip = _sized_clip(config.clip, found.below('clip'))
  there = found.size('transfer/norm/scale', 0) is not None
  # No model on a ResNet has one, nor an adapter.
  there &= isinstance(clip, ConvNeXtCLIPConfig)
  transfer = (config.transfer or 'semantic') if there else None
  maps = found.size('adapter/final/kernel', 3)
  width = found.size('adapter/final/kernel', 2)
  adapter = MaskAdapterConfig(width, maps) if maps and width else None
  return dataclasses.replace(config, clip=clip, transfer=transfer, adapter=adapter)


def _sized_clip(
  config: ConvNeXtCLIPConfig | ResNetCLIPConfig, found: KnownSizes
) -> ConvNeXtCLIPConfig | ResNetCLIPConfig:
  """The CLIP found, of which the config may be of the other kind."""
  kinds = {'conv/kernel': ConvNeXtCLIPConfig, 'conv1/kernel': ResNetCLIPConfig}
  for name, kind in kinds.items():
    there = found.size(f'visual/trunk/stem/{name}', 0) is not None
    if there and not isinstance(config, kind):
      config = kind()
  read = resnet_clip if isinstance(config, ResNetCLIPConfig) else convnext_clip
  return read.sized(config, found)


FORMAT = Format(
  title='FC-CLIP',
  signatures={'official': ('sem_seg_head.predictor._mask_pooling_proj.0.weight',)},
  read=lambda layout, keys: rules(),
  write=lambda config, layout, classes: rules(classes),
  licence='Apache-2.0 by the repository of the authors, on MIT (LAION CLIP)',
  may_lack=('clip/visual/trunk/', 'clip/visual/head/', *TEXT_TOWER),
  includes=('mask2former',),
  wrapper='model',
)
