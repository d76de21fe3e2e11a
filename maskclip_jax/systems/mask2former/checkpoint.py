"""Mask2Former in detectron2's names [masqclip 2.6], [ovseg 1.8].

Our paths are those of `systems.mask2former.model.Mask2Former`.
"""

import dataclasses
from collections.abc import Collection

from maskclip_jax.mapping import resnet, swin
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import (
  conv,
  conv_norm,
  dense,
  norm,
  packed_attention,
)
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes, resized
from maskclip_jax.nn.resnet import BLOCKS
from maskclip_jax.nn.swin import SwinConfig, relative_index
from maskclip_jax.systems.mask2former import hugging_face
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig


def _encoder_layer(official: str, ours: str) -> Rules:
  rules = ()
  for name in ('sampling_offsets', 'attention_weights', 'value_proj', 'output_proj'):
    rules += dense(f'{official}.self_attn.{name}', f'{ours}/self_attn/{name}')
  for i in (1, 2):
    rules += norm(f'{official}.norm{i}', f'{ours}/norm{i}')
    rules += dense(f'{official}.linear{i}', f'{ours}/linear{i}')
  return rules


def _decoder_layer() -> Rules:
  cross = 'transformer_cross_attention_layers'
  own = 'transformer_self_attention_layers'
  ffn = 'transformer_ffn_layers'
  return (
    *packed_attention(f'{cross}.{{i}}.multihead_attn', f'{cross}/{{i}}/multihead_attn'),
    *packed_attention(f'{own}.{{i}}.self_attn', f'{own}/{{i}}/self_attn'),
    *dense(f'{ffn}.{{i}}.linear1', f'{ffn}/{{i}}/linear1'),
    *dense(f'{ffn}.{{i}}.linear2', f'{ffn}/{{i}}/linear2'),
    *(
      rule
      for name in (cross, own, ffn)
      for rule in norm(f'{name}.{{i}}.norm', f'{name}/{{i}}/norm')
    ),
  )


PIXEL_DECODER = (
  *conv('input_proj.{i}.0', 'input_proj/{i}/conv'),
  *norm('input_proj.{i}.1', 'input_proj/{i}/norm'),
  Rule('transformer.level_embed', 'transformer/level_embed'),
  *_encoder_layer('transformer.encoder.layers.{i}', 'transformer/encoder/layers/{i}'),
  *conv_norm('adapter_1', 'adapter_1'),
  *conv_norm('layer_1', 'layer_1'),
  *conv('mask_features', 'mask_features'),
)

# The masked decoder without a class head.
QUERIES = (
  *_decoder_layer(),
  *norm('decoder_norm', 'decoder_norm'),
  Rule('query_feat.weight', 'query_feat/embedding', aliases=('static_query.weight',)),
  Rule('query_embed.weight', 'query_embed/embedding'),
  Rule('level_embed.weight', 'level_embed/embedding'),
  *dense('mask_embed.layers.{i}', 'mask_embed/layers/{i}'),
)
PREDICTOR = (*QUERIES, *dense('class_embed', 'class_embed'))

# What a MaskCLIP or MasQCLIP file holds too.
NETWORK = (
  *prefixed((*resnet.DETECTRON2, *swin.DETECTRON2), 'backbone.', 'backbone/'),
  *prefixed(PIXEL_DECODER, 'sem_seg_head.pixel_decoder.', 'pixel_decoder/'),
  *prefixed(PREDICTOR, 'sem_seg_head.predictor.', 'predictor/'),
)


def criterion(classes: int, no_object: float = 0.1) -> Rules:
  """The class weights of the loss: a constant buffer that strict loading insists on."""
  weights = (1.0,) * classes + (no_object,)
  return (Ignore('criterion.empty_weight', 'class weights of the loss', weights),)


def swin_constants(config: SwinConfig | None) -> Rules:
  """The indices that files of a Swin below 'backbone.' hold beside its weights."""
  if config is None:
    return ()
  index = relative_index(config.window)
  return tuple(
    Ignore(
      f'backbone.layers.{stage}.blocks.{block}.attn.relative_position_index',
      'a constant of the window',
      index,
    )
    for stage, depth in enumerate(config.depths)
    for block in range(depth)
  )


def rules(classes: int | None = 1, backbone: SwinConfig | None = None) -> Rules:
  """The table; for an export, `classes` sizes the criterion's buffer, and a Swin has
  constants."""
  return (*NETWORK, *criterion(classes or 1), *swin_constants(backbone))


RULES = rules()


def _read(layout: str, keys: Collection[str]) -> Rules:
  if layout == 'hugging_face':
    return (*hugging_face.network(keys), *criterion(1))
  return RULES


def _written(config: Mask2FormerConfig, layout: str, classes: int) -> Rules:
  if layout == 'hugging_face':
    return (*hugging_face.network(), *criterion(config.num_classes or 1))
  return rules(config.num_classes, config.swin)


# Points per head of the deformable attention: three levels of four [masqclip 2.3].
_POINTS = 12


def decoder_sizes(found: KnownSizes) -> dict[str, int | None]:
  """The sizes of a pixel decoder and a masked decoder, by field of the config."""
  encoder = 'pixel_decoder/transformer/encoder/layers/{i}/'
  first = encoder.format(i=0)
  offsets = found.size(f'{first}self_attn/attention_weights/bias', 0)
  return {
    'hidden': found.size('predictor/query_feat/embedding', 1),
    'heads': offsets and offsets // _POINTS,
    'encoder_layers': found.layers(encoder + 'linear1/kernel'),
    'encoder_ffn': found.size(f'{first}linear1/kernel', -1),
    'decoder_layers': found.layers(
      'predictor/transformer_ffn_layers/{i}/linear1/kernel'
    ),
    'decoder_ffn': found.size('predictor/transformer_ffn_layers/0/linear1/kernel', -1),
    'queries': found.size('predictor/query_feat/embedding', 0),
  }


def sized_swin(config: SwinConfig | None, found: KnownSizes) -> SwinConfig | None:
  """A Swin of the sizes found; None if there is none."""
  known = swin.sizes(found)
  return resized(config or SwinConfig(), **known) if known else None


def sized(config: Mask2FormerConfig, found: KnownSizes) -> Mask2FormerConfig:
  """A proposal network of the sizes found."""
  classes = found.size('predictor/class_embed/bias', 0)
  blocks = found.layers('backbone/res4/{i}/conv1/kernel')
  config = resized(
    config,
    depth=next((d for d, n in BLOCKS.items() if n[2] == blocks), None),
    stem=found.size('backbone/stem/conv1/kernel', -1),
    width=found.size('backbone/res2/0/conv3/kernel', -1),
    mask_dim=found.size('pixel_decoder/mask_features/kernel', -1),
    **decoder_sizes(found),
    **found.main,
  )
  # No class head is a size too: None is what the file says, not what it leaves open. So
  # is no Swin.
  return dataclasses.replace(
    config,
    num_classes=None if classes is None else classes - 1,
    swin=sized_swin(config.swin, found.below('backbone')),
  )


FORMAT = Format(
  title='Mask2Former',
  signatures={
    'detectron2': ('sem_seg_head.pixel_decoder.transformer.level_embed',),
    'hugging_face': (hugging_face.SIGNATURE,),
  },
  read=_read,
  write=_written,
  licence='CC BY-NC 4.0 (Mask2Former model zoo; MasQCLIP teacher and students); other '
  'trainings have terms of their own',
  wrapper='model',
  beside=hugging_face.BESIDE.beside,
  preset_beside=hugging_face.BESIDE.preset_beside,
  vocabularies={
    19: 'cityscapes-19',
    65: 'mapillary-65',
    80: 'coco-instances80',
    133: 'coco-panoptic-133',
    150: 'ade20k-150',
    171: 'coco-stuff-171',
  },
)
