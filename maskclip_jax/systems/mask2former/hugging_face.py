"""Mask2Former in the names of transformers' `Mask2FormerForUniversalSegmentation`.

Our paths are those of `systems.mask2former.model.Mask2Former`.
"""

from collections.abc import Collection

from maskclip_jax.mapping import resnet, swin
from maskclip_jax.mapping.layers import (
  conv,
  conv_norm_sequence,
  dense,
  norm,
  packed_attention,
  separate_attention,
)
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.systems.transformers_files import Described

SIGNATURE = 'model.transformer_module.queries_features.weight'

_PIXELS = 'model.pixel_level_module.'
_TIMM = f'{_PIXELS}encoder._backbone.'
_IN_MEMORY = f'{_PIXELS}encoder.swin.encoder.'


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
  *conv_norm_sequence('adapter_1', 'adapter_1'),
  *conv_norm_sequence('layer_1', 'layer_1'),
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
    keys: those of a file, which tell whether its residual network is timm's, and
      whether its Swin was saved by `torch.save(model.state_dict())`.
  """
  if any(key.startswith(_TIMM) for key in keys):
    backbone = prefixed(resnet.TORCHVISION, '_backbone.')
  elif any(key.startswith(_IN_MEMORY) for key in keys):
    backbone = swin.HUGGING_FACE_IN_MEMORY
  else:
    backbone = (*swin.HUGGING_FACE, *resnet.HUGGING_FACE)
  return (
    *prefixed(backbone, f'{_PIXELS}encoder.', 'backbone/'),
    *prefixed(_PIXEL_DECODER, f'{_PIXELS}decoder.', 'pixel_decoder/'),
    *prefixed(_PREDICTOR, 'model.transformer_module.'),
    *dense('class_predictor', 'predictor/class_embed'),
  )


BESIDE = Described(
  'mask2former',
  'Mask2Former',
  {
    'activation_function': 'relu',
    'pre_norm': False,
    'common_stride': 4,
    'feature_strides': [4, 8, 16, 32],
  },
)
