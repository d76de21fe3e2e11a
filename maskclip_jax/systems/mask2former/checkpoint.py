"""Mask2Former with a residual backbone: detectron2's names [masqclip 2.6].

Our paths are those of `systems.mask2former.model.Mask2Former`.
"""

from maskclip_jax.mapping import resnet
from maskclip_jax.mapping.layers import (
  conv,
  conv_norm,
  dense,
  norm,
  packed_attention,
)
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed


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

PREDICTOR = (
  *_decoder_layer(),
  *norm('decoder_norm', 'decoder_norm'),
  Rule('query_feat.weight', 'query_feat/embedding', aliases=('static_query.weight',)),
  Rule('query_embed.weight', 'query_embed/embedding'),
  Rule('level_embed.weight', 'level_embed/embedding'),
  *dense('class_embed', 'class_embed'),
  *dense('mask_embed.layers.{i}', 'mask_embed/layers/{i}'),
)

# What a MaskCLIP or MasQCLIP file holds too.
NETWORK = (
  *prefixed(resnet.DETECTRON2, 'backbone.', 'backbone/'),
  *prefixed(PIXEL_DECODER, 'sem_seg_head.pixel_decoder.', 'pixel_decoder/'),
  *prefixed(PREDICTOR, 'sem_seg_head.predictor.', 'predictor/'),
)


def criterion(classes: int, no_object: float = 0.1) -> Rules:
  """The class weights of the loss: a constant buffer that strict loading insists on."""
  weights = (1.0,) * classes + (no_object,)
  return (Ignore('criterion.empty_weight', 'class weights of the loss', weights),)


def rules(classes: int | None = 1) -> Rules:
  """The table; `classes` sizes the criterion's buffer on export."""
  return (*NETWORK, *criterion(classes or 1))


RULES = rules()

LAYOUTS: dict[str, Rules] = {'detectron2': RULES}
SIGNATURES = {'detectron2': 'sem_seg_head.pixel_decoder.transformer.level_embed'}
