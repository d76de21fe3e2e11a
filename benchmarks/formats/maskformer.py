"""Rows of MaskFormer, by transformers."""

import functools
import pathlib
from collections.abc import Callable

import mask2former
import transformers
from rows import Made, Row, seed_weights

from maskclip_jax.text.vocabulary import Vocabulary

_FOLDER = 'folder: safetensors, config, processor'


def network(backbone, vocabulary: str):
  """A MaskFormer of transformers with seeded weights."""
  decoder = transformers.DetrConfig(
    d_model=64,
    decoder_layers=3,
    decoder_attention_heads=4,
    decoder_ffn_dim=96,
    num_queries=10,
  )
  names = [category.name for category in Vocabulary.named(vocabulary).classes]
  config = transformers.MaskFormerConfig(
    backbone_config=backbone,
    decoder_config=decoder,
    fpn_feature_size=64,
    mask_feature_size=48,
    id2label=dict(enumerate(names)),
  )
  model = transformers.MaskFormerForInstanceSegmentation(config).eval()
  seed_weights(model)
  return model


def _make(backbone: Callable, vocabulary: str, folder: pathlib.Path) -> Made:
  model = network(backbone(), vocabulary)
  model.save_pretrained(folder / 'saved')
  transformers.MaskFormerImageProcessor().save_pretrained(folder / 'saved')
  return Made(folder / 'saved', functools.partial(mask2former.difference, model))


ROWS = tuple(
  Row(
    'transformers',
    f'MaskFormer, {title}, {vocabulary}',
    _FOLDER,
    functools.partial(_make, backbone, vocabulary),
  )
  for title, backbone, vocabulary in (
    ('Swin-T', mask2former.SWINS['Swin-T'], 'coco-panoptic-133'),
    ('Swin-B', mask2former.SWINS['Swin-B'], 'ade20k-150'),
    ('ResNet-50', mask2former.resnet, 'coco-stuff-171'),
    ("timm's ResNet-50", mask2former.timm, 'ade20k-847'),
  )
)
