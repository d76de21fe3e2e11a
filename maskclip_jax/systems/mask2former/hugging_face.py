"""Mask2Former in the names of transformers' `Mask2FormerForUniversalSegmentation`, and
what the files beside its weights tell.

Our paths are those of `systems.mask2former.model.Mask2Former`.
"""

import math
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from maskclip_jax import plain
from maskclip_jax.mapping import resnet, swin
from maskclip_jax.mapping.layers import (
  conv,
  dense,
  norm,
  packed_attention,
  separate_attention,
)
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.mapping.transforms import CONV
from maskclip_jax.names import cut, shown
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.system import LONGEST_EDGE, Preprocessing

SIGNATURE = 'model.transformer_module.queries_features.weight'

_CONFIG, _PROCESSOR = 'config.json', 'preprocessor_config.json'
_PIXELS = 'model.pixel_level_module.'
_TIMM = f'{_PIXELS}encoder._backbone.'


def _group_norm(official: str, ours: str) -> Rules:
  """A convolution without bias, and its group norm, in a sequence."""
  return (
    Rule(f'{official}.0.weight', f'{ours}/kernel', CONV),
    *norm(f'{official}.1', f'{ours}/norm'),
  )


def _encoder_layer(official: str, ours: str) -> Rules:
  attention = 'sampling_offsets', 'attention_weights', 'value_proj', 'output_proj'
  return (
    *(
      rule
      for name in attention
      for rule in dense(f'{official}.self_attn.{name}', f'{ours}/self_attn/{name}')
    ),
    *norm(f'{official}.self_attn_layer_norm', f'{ours}/norm1'),
    *norm(f'{official}.final_layer_norm', f'{ours}/norm2'),
    *dense(f'{official}.fc1', f'{ours}/linear1'),
    *dense(f'{official}.fc2', f'{ours}/linear2'),
  )


_PIXEL_DECODER = (
  *conv('input_projections.{i}.0', 'input_proj/{i}/conv'),
  *norm('input_projections.{i}.1', 'input_proj/{i}/norm'),
  Rule('level_embed', 'transformer/level_embed'),
  *_encoder_layer('encoder.layers.{i}', 'transformer/encoder/layers/{i}'),
  *_group_norm('adapter_1', 'adapter_1'),
  *_group_norm('layer_1', 'layer_1'),
  *conv('mask_projection', 'mask_features'),
)


def _decoder_layer(official: str, ours: str) -> Rules:
  cross, own, ffn = (
    f'{ours}/transformer_{name}_layers/{{i}}'
    for name in ('cross_attention', 'self_attention', 'ffn')
  )
  return (
    *packed_attention(f'{official}.cross_attn', f'{cross}/multihead_attn'),
    *norm(f'{official}.cross_attn_layer_norm', f'{cross}/norm'),
    *separate_attention(f'{official}.self_attn', f'{own}/self_attn'),
    *norm(f'{official}.self_attn_layer_norm', f'{own}/norm'),
    *dense(f'{official}.fc1', f'{ffn}/linear1'),
    *dense(f'{official}.fc2', f'{ffn}/linear2'),
    *norm(f'{official}.final_layer_norm', f'{ffn}/norm'),
  )


_PREDICTOR = (
  *_decoder_layer('decoder.layers.{i}', 'predictor'),
  *norm('decoder.layernorm', 'predictor/decoder_norm'),
  Rule('queries_features.weight', 'predictor/query_feat/embedding'),
  Rule('queries_embedder.weight', 'predictor/query_embed/embedding'),
  Rule('level_embed.weight', 'predictor/level_embed/embedding'),
  *dense(
    'decoder.mask_predictor.mask_embedder.{i}.0', 'predictor/mask_embed/layers/{i}'
  ),
)


def network(keys: Collection[str] = ()) -> Rules:
  """The table, without the loss's buffer.

  Args:
    keys: those of a file, which tell whether its residual network is timm's.
  """
  timm = any(key.startswith(_TIMM) for key in keys)
  if timm:
    backbone = prefixed(resnet.TORCHVISION, '_backbone.')
  else:
    backbone = (*swin.HUGGING_FACE, *resnet.HUGGING_FACE)
  return (
    *prefixed(backbone, f'{_PIXELS}encoder.', 'backbone/'),
    *prefixed(_PIXEL_DECODER, f'{_PIXELS}decoder.', 'pixel_decoder/'),
    *prefixed(_PREDICTOR, 'model.transformer_module.'),
    *dense('class_predictor', 'predictor/class_embed'),
  )


# Fields that the network has one value of here; other fields change nothing, or the
# shapes of weights tell them.
_FIXED = {
  'activation_function': 'relu',
  'pre_norm': False,
  'common_stride': 4,
  'feature_strides': [4, 8, 16, 32],
}
_FIXED_BACKBONES = {
  'swin': {
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-5,
    'patch_size': 4,
    'use_absolute_embeddings': False,
  },
  'resnet': {
    'hidden_act': 'relu',
    'downsample_in_bottleneck': False,
    'downsample_in_first_stage': False,
  },
  'timm_backbone': {'output_stride': None},
}


def beside(path: pathlib.Path, layout: str) -> dict[str, Any]:
  """Fields of the config that the files beside the weights tell.

  Raises:
    ValueError: a file that is not valid, or a network that is not supported.
  """
  if layout != 'hugging_face':
    return {}
  _check_network(_read(path.with_name(_CONFIG)), path.with_name(_CONFIG))
  file = path.with_name(_PROCESSOR)
  return _statistics(_read(file), file)


def preset_beside(path: pathlib.Path, layout: str) -> dict[str, Any]:
  """What they tell of the rest of a preset; see `Format.preset_beside`."""
  if layout != 'hugging_face':
    return {}
  file = path.with_name(_CONFIG)
  names = _labels(_read(file).get('id2label'), file)
  told = {} if names is None else {'labels': names}
  return told | _photos(path.with_name(_PROCESSOR))


def _read(file: pathlib.Path) -> Mapping[str, Any]:
  """The fields of a JSON file; none where it is absent."""
  if not file.is_file():
    return {}
  content = plain.read_json(file)
  if not isinstance(content, Mapping):
    raise ValueError(f'{file} is not a table of fields')
  return content


def _check_network(content: Mapping[str, Any], file: pathlib.Path) -> None:
  """Refuses what would change the network in a way we do not know."""
  kind = content.get('model_type', 'mask2former')
  if kind != 'mask2former':
    raise ValueError(
      f'{file}: a model of type {shown(kind)}, and the weights are a Mask2Former: put '
      'the config there that belongs to them, or none'
    )
  backbone = content.get('backbone_config') or {}
  if not isinstance(backbone, Mapping):
    raise ValueError(f'{file}: backbone_config is not a table of fields')
  of_backbone = backbone.get('model_type', 'swin')
  if of_backbone not in list(_FIXED_BACKBONES):
    raise ValueError(
      f'{file}: a backbone of type {shown(of_backbone)} is not supported, only '
      + ', '.join(_FIXED_BACKBONES)
    )
  for fields, fixed in (
    (content, _FIXED),
    (backbone, _FIXED_BACKBONES[of_backbone]),
  ):
    for field, value in fixed.items():
      if (found := fields.get(field, value)) != value:
        raise ValueError(f'{file}: {field} = {shown(found)} is not supported')


def _labels(table: Any, file: pathlib.Path) -> tuple[str, ...] | None:
  """The names of the classes by column; None where the file names none."""
  if table is None:
    return None
  if isinstance(table, Mapping) and table:
    names = [table.get(str(column)) for column in range(len(table))]
    if all(isinstance(name, str) for name in names):
      return tuple(names)
  raise ValueError(
    f'{file}: id2label is {cut(shown(table))}: expected the name of every class by its '
    "number from 0, such as {'0': 'cat', '1': 'dog'}"
  )


def _statistics(
  content: Mapping[str, Any], file: pathlib.Path
) -> dict[str, tuple[float, float, float]]:
  """Pixel statistics for values of 0..255, ours where they are those, rounded."""
  if not content:
    return {}
  scale = _number(content, 'rescale_factor', 1 / 255, file)
  if content.get('do_rescale') is False:
    scale = 1.0
  told = {}
  for ours, field, neutral in (
    ('pixel_mean', 'image_mean', 0.0),
    ('pixel_std', 'image_std', 1.0),
  ):
    usual = getattr(Mask2FormerConfig, ours)
    values = content.get(field, [x / 255 for x in usual])
    if content.get('do_normalize') is False:
      values = neutral
    values = values if isinstance(values, list) else [values] * 3
    if len(values) != 3 or not all(_is_number(value) for value in values):
      raise ValueError(f'{file}: {field} is {shown(values)}: expected three numbers')
    values = tuple(value / scale for value in values)
    told[ours] = usual if np.allclose(values, usual, rtol=0, atol=0.1) else values
  return told


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _number(
  content: Mapping[str, Any], field: str, default: float, file: pathlib.Path
) -> float:
  """A positive number."""
  value = content.get(field, default)
  if not _is_number(value) or value <= 0:
    raise ValueError(f'{file}: {field} is {shown(value)}: expected a positive number')
  return float(value)


def _photos(file: pathlib.Path) -> dict[str, Any]:
  """How photos are resized, or a note where that is not done here."""
  content = _read(file)
  size = content.get('size')
  if isinstance(size, int):
    size = {'shortest_edge': size}
  if not isinstance(size, Mapping) or content.get('do_resize') is False:
    return {}
  longest = size.get('longest_edge') or content.get('max_size') or LONGEST_EDGE
  edges = size.get('shortest_edge'), longest
  if all(type(edge) is int for edge in edges):
    try:
      return {'preprocessing': Preprocessing(*edges)}
    except ValueError as error:
      raise ValueError(f'{file}: {error}') from None
  asked = ' x '.join(str(size[side]) for side in ('height', 'width') if side in size)
  return {
    'notes': (
      f'photos: {_PROCESSOR} asks for {asked or shown(size)} whatever their shape; '
      'here they keep it, with the short and the long side of the preset',
    )
  }
