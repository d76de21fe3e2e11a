"""MaskFormer with a class head: names of detectron2 [ovseg 1.8], and of transformers'
`MaskFormerForInstanceSegmentation`.

Our paths are those of `systems.maskformer.model.ClosedMaskFormer`.
"""

import dataclasses
from collections.abc import Collection

from maskclip_jax.mapping import resnet, swin
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.layers import (
  conv,
  conv_norm_sequence,
  dense,
  norm,
  separate_attention,
)
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.mapping.sizes import KnownSizes, resized
from maskclip_jax.systems.mask2former.checkpoint import criterion, swin_constants
from maskclip_jax.systems.maskformer.model import ClosedMaskFormerConfig
from maskclip_jax.systems.ovseg import checkpoint as ovseg
from maskclip_jax.systems.transformers_files import LAYOUT, Described

_PIXELS = 'model.pixel_level_module.'
_TIMM = f'{_PIXELS}encoder._backbone.'

_DETECTRON2 = prefixed(
  (
    *prefixed((*swin.DETECTRON2, *resnet.DETECTRON2), 'backbone.', 'backbone/'),
    *prefixed(ovseg.PIXEL_DECODER, 'sem_seg_head.pixel_decoder.', 'pixel_decoder/'),
    *prefixed(
      (*ovseg.QUERIES, *dense('class_embed', 'class_embed')),
      'sem_seg_head.predictor.',
      'predictor/',
    ),
  ),
  ours='network/',
)


# From coarse to fine there, from fine to coarse here.
_PIXEL_DECODER = (
  *conv_norm_sequence('fpn.stem', 'layer_4'),
  *(
    rule
    for i in range(3)
    for rule in (
      *conv_norm_sequence(f'fpn.layers.{i}.proj', f'adapter_{3 - i}'),
      *conv_norm_sequence(f'fpn.layers.{i}.block', f'layer_{3 - i}'),
    )
  ),
  *conv('mask_projection', 'mask_features'),
)


def _decoder_layer(official: str, ours: str) -> Rules:
  return (
    *separate_attention(f'{official}.self_attn', f'{ours}/self_attn'),
    *norm(f'{official}.self_attn_layer_norm', f'{ours}/norm1'),
    *separate_attention(f'{official}.encoder_attn', f'{ours}/multihead_attn'),
    *norm(f'{official}.encoder_attn_layer_norm', f'{ours}/norm2'),
    *dense(f'{official}.fc1', f'{ours}/linear1'),
    *dense(f'{official}.fc2', f'{ours}/linear2'),
    *norm(f'{official}.final_layer_norm', f'{ours}/norm3'),
  )


_QUERIES = (
  *_decoder_layer('decoder.layers.{i}', 'decoder/layers/{i}'),
  *norm('decoder.layernorm', 'decoder/norm'),
  Rule('queries_embedder.weight', 'query_embed/embedding'),
  *conv('input_projection', 'input_proj'),
)


def _hugging_face(keys: Collection[str] = ()) -> Rules:
  """The table of transformers; the keys of a file tell a residual network of timm's."""
  if any(key.startswith(_TIMM) for key in keys):
    backbone = prefixed(resnet.TORCHVISION, '_backbone.')
  else:
    backbone = (*swin.HUGGING_FACE_MASKFORMER, *resnet.HUGGING_FACE)
  return prefixed(
    (
      *prefixed(backbone, f'{_PIXELS}encoder.', 'backbone/'),
      *prefixed(_PIXEL_DECODER, f'{_PIXELS}decoder.', 'pixel_decoder/'),
      *prefixed(_QUERIES, 'model.transformer_module.', 'predictor/'),
      *dense('class_predictor', 'predictor/class_embed'),
      *dense('mask_embedder.{i}.0', 'predictor/mask_embed/layers/{i}'),
    ),
    ours='network/',
  )


def _read(layout: str, keys: Collection[str]) -> Rules:
  table = _hugging_face(keys) if layout == LAYOUT else _DETECTRON2
  return (*table, *criterion(1))


def _written(config: ClosedMaskFormerConfig, layout: str, classes: int) -> Rules:
  if layout == LAYOUT:
    return (*_hugging_face(), *criterion(config.num_classes))
  constants = swin_constants(config.network.swin)
  return (*_DETECTRON2, *criterion(config.num_classes), *constants)


def sized(config: ClosedMaskFormerConfig, found: KnownSizes) -> ClosedMaskFormerConfig:
  """A MaskFormer of the sizes found."""
  network = ovseg.sized_proposals(config.network, found.below('network'))
  classes = found.size('network/predictor/class_embed/bias', 0)
  return dataclasses.replace(
    config,
    num_classes=config.num_classes if classes is None else max(1, classes - 1),
    network=resized(network, **found.main),
  )


_BESIDE = Described('maskformer', 'MaskFormer', decoder={'activation_function': 'relu'})

FORMAT = Format(
  title='MaskFormer',
  signatures={
    'detectron2': ('sem_seg_head.predictor.transformer.decoder.norm.weight',),
    LAYOUT: ('model.transformer_module.input_projection.weight',),
  },
  read=_read,
  write=_written,
  licence='CC BY-NC 4.0 (MaskFormer model zoo); other trainings have terms of their '
  'own',
  wrapper='model',
  beside=_BESIDE.beside,
  preset_beside=_BESIDE.preset_beside,
  vocabularies={
    133: 'coco-panoptic-133',
    150: 'ade20k-150',
    171: 'coco-stuff-171',
    847: 'ade20k-847',
  },
)
