"""OVSeg's checkpoints [ovseg 1.8].

One file holds everything: the proposal network, the whole CLIP under the adapter, its
mask prompts where it has them, and the vector of 'no object'. Our paths are those of
`systems.ovseg.model.OVSeg`.
"""

import dataclasses

import numpy as np

from maskclip_jax.mapping import resnet, swin
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import conv, conv_norm, dense, norm, packed_attention
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes, resized
from maskclip_jax.nn.clip import PIXEL_MEAN, PIXEL_STD
from maskclip_jax.nn.resnet import BLOCKS
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.mask2former import checkpoint as mask2former
from maskclip_jax.systems.ovseg.maskformer import DeepLabConfig, MaskFormerConfig
from maskclip_jax.systems.ovseg.model import OVSegConfig

# COCO-Stuff, what the published models were trained on.
CLASSES = 171
_CLIP = 'clip_adapter.clip_model.'

PIXEL_DECODER = (
  *(rule for i in (1, 2, 3) for rule in conv_norm(f'adapter_{i}', f'adapter_{i}')),
  *(rule for i in (1, 2, 3, 4) for rule in conv_norm(f'layer_{i}', f'layer_{i}')),
  *conv('mask_features', 'mask_features'),
)


def _decoder_layer(official: str, ours: str) -> Rules:
  return (
    *packed_attention(f'{official}.self_attn', f'{ours}/self_attn'),
    *packed_attention(f'{official}.multihead_attn', f'{ours}/multihead_attn'),
    *dense(f'{official}.linear1', f'{ours}/linear1'),
    *dense(f'{official}.linear2', f'{ours}/linear2'),
    *(
      rule for n in (1, 2, 3) for rule in norm(f'{official}.norm{n}', f'{ours}/norm{n}')
    ),
  )


# The decoder without a head for classes.
QUERIES = (
  *_decoder_layer('transformer.decoder.layers.{i}', 'decoder/layers/{i}'),
  *norm('transformer.decoder.norm', 'decoder/norm'),
  Rule('query_embed.weight', 'query_embed/embedding'),
  *conv('input_proj', 'input_proj'),
  *dense('mask_embed.layers.{i}', 'mask_embed/layers/{i}'),
)
PREDICTOR = (*QUERIES, *dense('class_embed.layers.{i}', 'class_embed/layers/{i}'))

NETWORK = (
  *prefixed((*swin.DETECTRON2, *resnet.DETECTRON2), 'backbone.', 'proposals/backbone/'),
  *prefixed(PIXEL_DECODER, 'sem_seg_head.pixel_decoder.', 'proposals/pixel_decoder/'),
  *prefixed(PREDICTOR, 'sem_seg_head.predictor.', 'proposals/predictor/'),
)


def _statistics(name: str, values: tuple[float, float, float]) -> Ignore:
  """CLIP's pixel statistics, which the adapter keeps for values in 0..255."""
  array = np.float32(values) * np.float32(255)
  return Ignore(name, 'a constant of CLIP', array.reshape(1, 3, 1, 1))


def rules(classes: int = CLASSES) -> Rules:
  """The table; `classes` sizes the criterion's buffer on export."""
  return (
    *NETWORK,
    Rule('clip_adapter.non_object_embedding', 'non_object_embedding'),
    _statistics('clip_adapter.pixel_mean', PIXEL_MEAN),
    _statistics('clip_adapter.pixel_std', PIXEL_STD),
    *prefixed(clip.OPENAI, _CLIP, 'clip/'),
    *mask2former.criterion(classes),
  )


def written(config: OVSegConfig, classes: int = CLASSES) -> Rules:
  """The table for an export, which has Swin's constant indices too."""
  return (*rules(classes), *mask2former.swin_constants(config.proposals.swin))


_HEAD_WIDTH = 32


def _deeplab(config: DeepLabConfig | None, found: KnownSizes) -> DeepLabConfig | None:
  """A residual network of the sizes found; None if there is none."""
  if found.size('stem/conv1/kernel', -1) is None:
    return None
  blocks = found.layers('res4/{i}/conv1/kernel')
  return resized(
    config or DeepLabConfig(),
    depth=next((d for d, n in BLOCKS.items() if n[2] == blocks), None),
    stem=found.size('stem/conv1/kernel', -1),
    width=found.size('res2/0/conv3/kernel', -1),
    deeplab=found.size('stem/conv3/kernel', -1) is not None,
  )


def sized_proposals(config: MaskFormerConfig, found: KnownSizes) -> MaskFormerConfig:
  """A proposal network of the sizes found."""
  backbone = found.below('backbone')
  hidden = found.size('predictor/query_embed/embedding', 1)
  # Heads are packed: the published models' are 32 channels wide.
  kept = hidden in (None, config.hidden)
  return resized(
    dataclasses.replace(
      config,
      swin=mask2former.sized_swin(config.swin, backbone),
      deeplab=_deeplab(config.deeplab, backbone),
    ),
    hidden=hidden,
    mask_dim=found.size('pixel_decoder/mask_features/kernel', -1),
    heads=None if kept else max(1, hidden // _HEAD_WIDTH),
    decoder_layers=found.layers('predictor/decoder/layers/{i}/linear1/kernel'),
    decoder_ffn=found.size('predictor/decoder/layers/0/linear1/kernel', -1),
    class_hidden=found.size('predictor/class_embed/layers/0/kernel', -1),
    queries=found.size('predictor/query_embed/embedding', 0),
  )


def sized(config: OVSegConfig, found: KnownSizes) -> OVSegConfig:
  """An OVSeg of the sizes found."""
  return OVSegConfig(
    proposals=sized_proposals(config.proposals, found.below('proposals')),
    clip=clip.sized(config.clip, found.below('clip')),
  )


FORMAT = Format(
  title='OVSeg',
  signatures={'official': ('clip_adapter.non_object_embedding',)},
  read=lambda layout, keys: rules(),
  write=lambda config, layout, classes: written(config, classes),
  licence='CC BY-NC 4.0 (the authors of OVSeg)',
  may_replace=('clip/',),
  includes=('maskformer',),
  classes=CLASSES,
  wrapper='model',
)
