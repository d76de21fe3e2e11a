"""Rows of CLIPs, by transformers and by open_clip with timm's image towers."""

import copy
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rows import Made, Row, relative, seed_weights

import maskclip_jax
from maskclip_jax.nn.clip import PIXEL_MEAN, PIXEL_STD

_SIDE = 64
# 'a photo of a cat' and 'a cat', as CLIP's tokenizer has them.
TOKENS = np.zeros((2, 77), np.int64)
TOKENS[0, :7] = 49406, 320, 1125, 539, 320, 2368, 49407
TOKENS[1, :4] = 49406, 320, 2368, 49407

# Two texts of few words, as SigLIP's tokenizer pads them.
PADDED = np.ones((2, 64), np.int64)
PADDED[0, :5] = 17, 300, 9, 210, 77
PADDED[1, :2] = 300, 12

# A tokenizer of few words, in the format of the library tokenizers.
TOKENIZER = {
  'version': '1.0',
  'truncation': None,
  'padding': None,
  'added_tokens': [],
  'normalizer': None,
  'pre_tokenizer': {'type': 'Whitespace'},
  'post_processor': None,
  'decoder': None,
  'model': {
    'type': 'WordLevel',
    'vocab': {'<pad>': 0, '</s>': 1, '<unk>': 2, 'a': 3, 'cat': 4, 'dog': 5},
    'unk_token': '<unk>',
  },
}

OPENAI_PIXELS = {'mean': list(PIXEL_MEAN), 'std': list(PIXEL_STD)}
GREY_PIXELS = {'mean': [0.5] * 3, 'std': [0.5] * 3}


@dataclasses.dataclass(frozen=True)
class Network:
  """A CLIP of a library.

  Attributes:
    build: the network, without weights of its own.
    images, texts: its vectors of pixels (b, 3, r, r) and of token ids.
    save: puts the files of a repository into a folder; its last argument is a format.
    tokens: what `texts` is given.
    sizes: height and width of each photo, if they differ: what is cut of `pixels`.
  """

  build: Callable[[], Any]
  images: Callable[[Any, Any], Any]
  texts: Callable[[Any, Any], Any]
  save: Callable[[Any, pathlib.Path, str], None]
  tokens: np.ndarray = dataclasses.field(default_factory=lambda: TOKENS)
  sizes: Sequence[tuple[int, int]] = ()


def pixels() -> np.ndarray:
  """Two normalised photos, channels first."""
  return np.random.default_rng(0).standard_normal((2, 3, _SIDE, _SIDE), np.float32)


def outputs(network: Network, model: Any) -> dict[str, np.ndarray]:
  """What the library computes, not normalised."""
  import torch

  with torch.no_grad():
    image = network.images(model, torch.from_numpy(pixels()))
    text = network.texts(model, torch.from_numpy(network.tokens))
  return {'image': image.numpy(), 'text': text.numpy()}


def _make(network: Network, files: str, folder: pathlib.Path) -> Made:
  model = network.build().eval()
  seed_weights(model)
  source = folder / 'repository'
  source.mkdir()
  network.save(model, source, files)
  theirs = outputs(network, model)

  def difference(bundle: pathlib.Path) -> float:
    ours = maskclip_jax.load_clip(bundle).model
    photos = np.moveaxis(pixels(), 1, -1)
    if network.sizes:
      cut = zip(photos, network.sizes, strict=True)
      image = np.concatenate([ours.visual(x[None, :h, :w]) for x, (h, w) in cut])
    else:
      image = ours.visual(photos)
    text = ours.text(network.tokens.astype(np.int32))
    return max(relative(image, theirs['image']), relative(text, theirs['text']))

  return Made(source, difference)


# transformers


def hugging_face(activation: str = 'quick_gelu', **vision: int) -> Network:
  """A small `CLIPModel`."""
  text = {'hidden_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 4}
  sizes = {'hidden_size': 128, 'num_hidden_layers': 2, 'num_attention_heads': 2}
  sizes |= {'image_size': _SIDE, 'patch_size': 16} | vision
  sizes['intermediate_size'] = 4 * sizes['hidden_size']
  common = {'hidden_act': activation, 'projection_dim': 32}
  ends = {'bos_token_id': 49406, 'eos_token_id': 49407, 'intermediate_size': 256}

  def build():
    import transformers

    config = transformers.CLIPConfig(
      text_config=text | common | ends, vision_config=sizes | common, projection_dim=32
    )
    return transformers.CLIPModel(config)

  return Network(
    build,
    lambda model, x: _pooled(model.get_image_features(pixel_values=x)),
    lambda model, x: _pooled(model.get_text_features(input_ids=x)),
    save_hugging_face,
  )


def _pooled(features: Any) -> Any:
  """Newer versions return the features inside an output."""
  return getattr(features, 'pooler_output', features)


def save_hugging_face(model: Any, folder: pathlib.Path, files: str) -> None:
  """The files of a repository of transformers: weights and `config.json`."""
  import torch

  if files == 'pytorch_model.bin':
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / files)
  else:
    parts = {'max_shard_size': '4MB'} if 'parts' in files else {}
    model.save_pretrained(folder, **parts)
  if model.config.model_type.startswith('siglip'):
    (folder / 'tokenizer.json').write_text(json.dumps(TOKENIZER))


def siglip_towers() -> dict[str, int]:
  """What both towers of a small SigLIP have."""
  sizes = {'num_hidden_layers': 2, 'hidden_size': 128, 'num_attention_heads': 2}
  return sizes | {'intermediate_size': 512}


def siglip(**text: int) -> Network:
  """A small `SiglipModel`."""
  sizes = siglip_towers()
  vision = {'image_size': _SIDE, 'patch_size': 16}

  def build():
    import transformers

    config = transformers.SiglipConfig(
      text_config=sizes | {'vocab_size': 512} | text, vision_config=sizes | vision
    )
    return transformers.SiglipModel(config)

  return Network(
    build,
    lambda model, x: _pooled(model.get_image_features(pixel_values=x)),
    lambda model, x: _pooled(model.get_text_features(input_ids=x)),
    save_hugging_face,
    PADDED,
  )


def naflex(sizes: Sequence[tuple[int, int]], grid: int) -> Network:
  """A small `Siglip2Model`, for photos of any shape.

  Args:
    sizes: height and width of each photo; the library is given all of them at once, the
      patches of each in a row that is filled up to the longest.
    grid: side of its table of positions.
  """
  patch, towers = 16, siglip_towers()

  def build():
    import transformers

    config = transformers.Siglip2Config(
      text_config=towers | {'vocab_size': 512},
      vision_config=towers | {'patch_size': patch, 'num_patches': grid**2},
    )
    return transformers.Siglip2Model(config)

  def images(model, x):
    import torch

    shapes = torch.tensor(sizes) // patch
    counts = shapes.prod(1)
    rows = torch.zeros(len(x), counts.max(), 3 * patch**2)
    for row, photo, (height, width), count in zip(rows, x, sizes, counts, strict=True):
      cells = photo[:, :height, :width].unflatten(2, (-1, patch))
      cells = cells.unflatten(1, (-1, patch)).permute(1, 3, 2, 4, 0)
      row[:count] = cells.reshape(count, -1)
    mask = torch.arange(len(rows[0])) < counts[:, None]
    features = model.get_image_features(
      pixel_values=rows, pixel_attention_mask=mask.int(), spatial_shapes=shapes
    )
    return _pooled(features)

  return Network(
    build,
    images,
    lambda model, x: _pooled(model.get_text_features(input_ids=x)),
    save_hugging_face,
    PADDED,
    sizes,
  )


# open_clip

TEXT = {'width': 64, 'heads': 1, 'layers': 2, 'context_length': 77, 'vocab_size': 49408}


def vit(**sizes: Any) -> dict[str, Any]:
  """The image tower of a small ViT in open_clip's fields."""
  small = {'image_size': _SIDE, 'patch_size': 16, 'layers': 2, 'width': 128}
  return small | sizes


def timm_tower(name: str, **sizes: Any) -> dict[str, Any]:
  """One of timm's towers in open_clip's fields; `small_timm` makes it."""
  return {
    'image_size': _SIDE,
    'timm_model_name': name,
    'timm_model_pretrained': False,
  } | sizes


def open_clip(
  vision: Mapping[str, Any],
  text: Mapping[str, Any] = TEXT,
  *,
  pixel_statistics: Mapping[str, Any] = OPENAI_PIXELS,
  custom: bool = False,
  tokens: np.ndarray = TOKENS,
  **model: Any,
) -> Network:
  """A small CLIP of open_clip.

  Args:
    vision, text: its towers, in the library's fields.
    pixel_statistics: what its repository says of them.
    custom: the text tower is a module of its own.
    tokens: what the text tower is given.
    **model: further fields, such as 'quick_gelu'.
  """
  config = {'embed_dim': 32, 'vision_cfg': dict(vision), 'text_cfg': dict(text)} | model

  def build():
    import open_clip as library

    small_timm()
    network = library.model.CustomTextCLIP if custom else library.model.CLIP
    return network(**copy.deepcopy(config))

  def save(model: Any, folder: pathlib.Path, files: str) -> None:
    import torch
    from safetensors.torch import save_file

    said = config | ({'custom_text': True} if custom else {})
    text = json.dumps({'model_cfg': said, 'preprocess_cfg': pixel_statistics})
    (folder / 'open_clip_config.json').write_text(text)
    if tokens is PADDED:
      (folder / 'tokenizer.json').write_text(json.dumps(TOKENIZER))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if files.endswith('.bin'):
      torch.save(state, folder / files)
    else:
      save_file(state, folder / files)

  return Network(
    build,
    lambda model, x: model.encode_image(x),
    lambda model, x: model.encode_text(x),
    save,
    tokens,
  )


@functools.cache
def small_timm() -> None:
  """Registers small networks of timm's own classes by names that open_clip can ask."""
  import timm
  from timm.models import eva, vision_transformer

  def register(module: Any, function: Callable) -> None:
    function.__module__ = module.__name__
    module.__all__ = [*getattr(module, '__all__', ()), function.__name__]
    timm.models.register_model(function)

  def built(network: type, sizes: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    known = {'num_classes', 'global_pool'}
    return network(**sizes, **{k: v for k, v in given.items() if k in known})

  def eva02_small(pretrained: bool = False, **given: Any) -> Any:
    sizes = {
      'img_size': _SIDE,
      'patch_size': 16,
      'embed_dim': 128,
      'depth': 2,
      'num_heads': 2,
      'qkv_fused': False,
      'mlp_ratio': 4 * 2 / 3,
      'swiglu_mlp': True,
      'scale_mlp': True,
      'scale_attn_inner': True,
      'use_rot_pos_emb': True,
      'ref_feat_shape': (16, 16),
    }
    return built(eva.Eva, sizes, given)

  def vit_siglip_small(pretrained: bool = False, **given: Any) -> Any:
    sizes = {
      'img_size': _SIDE,
      'patch_size': 16,
      'embed_dim': 128,
      'depth': 2,
      'num_heads': 2,
      'class_token': False,
    }
    return built(vision_transformer.VisionTransformer, sizes, given)

  register(eva, eva02_small)
  register(vision_transformer, vit_siglip_small)


EVA = timm_tower('eva02_small', timm_pool='token', timm_proj=None)
SIGLIP = timm_tower('vit_siglip_small', timm_pool='map', timm_proj='none')
SIGLIP_TEXT = {
  'context_length': 64,
  'vocab_size': 512,
  'width': 128,
  'heads': 2,
  'layers': 2,
  'no_causal_mask': True,
  'proj_bias': True,
  'pool_type': 'last',
  'norm_kwargs': {'eps': 1e-6},
}
_SIGLIP = {
  'pixel_statistics': GREY_PIXELS,
  'custom': True,
  'tokens': PADDED,
  'embed_dim': 128,
  'init_logit_bias': -10,
}

RESNET = {'image_size': _SIDE, 'layers': [1, 2, 1, 1], 'width': 8}

# Small networks by what is special in each; the tests have recorded outputs of some.
NETWORKS = {
  'CLIP': hugging_face(),
  'CLIP, heads of 80, GELU': hugging_face('gelu', hidden_size=160),
  'ViT': open_clip(vit(), quick_gelu=True),
  'ViT-H/14': open_clip(vit(width=160, head_width=80)),
  'ViT-bigG/14': open_clip(vit(width=208, head_width=104, mlp_ratio=4.9231)),
  'ViT, text tower apart': open_clip(vit(), custom=True),
  'ViT, grey pixel statistics': open_clip(vit(), pixel_statistics=GREY_PIXELS),
  'RN50': open_clip(RESNET, quick_gelu=True),
  'EVA02': open_clip(EVA, custom=True),
  'SigLIP': open_clip(SIGLIP, SIGLIP_TEXT, **_SIGLIP),
  'SigLIP 2': open_clip(
    SIGLIP, SIGLIP_TEXT | {'act_kwargs': {'approximate': 'tanh'}}, **_SIGLIP
  ),
  'SiglipModel': siglip(),
  'Siglip2Model (NaFlex)': naflex([(_SIDE, _SIDE)] * 2, 4),
  'Siglip2Model (NaFlex), photos of other shapes': naflex([(48, 64), (64, 32)], 3),
}

_SAFETENSORS = 'open_clip_model.safetensors'
_BIN = 'open_clip_pytorch_model.bin'


def _row(library: str, name: str, files: str) -> Row:
  return Row(library, name, files, functools.partial(_make, NETWORKS[name], files))


ROWS = (
  _row('transformers', 'CLIP', 'model.safetensors'),
  _row('transformers', 'CLIP', 'safetensors in parts'),
  _row('transformers', 'CLIP', 'pytorch_model.bin'),
  _row('transformers', 'CLIP, heads of 80, GELU', 'model.safetensors'),
  _row('open_clip_torch', 'ViT', _SAFETENSORS),
  _row('open_clip_torch', 'ViT-H/14', _BIN),
  _row('open_clip_torch', 'ViT-bigG/14', _SAFETENSORS),
  _row('open_clip_torch', 'ViT, text tower apart', _SAFETENSORS),
  _row('open_clip_torch', 'ViT, grey pixel statistics', _SAFETENSORS),
  _row('open_clip_torch', 'RN50', _SAFETENSORS),
  _row('open_clip_torch', 'EVA02', _BIN),
  _row('open_clip_torch', 'SigLIP', _SAFETENSORS),
  _row('open_clip_torch', 'SigLIP 2', _SAFETENSORS),
  _row('transformers', 'SiglipModel', 'model.safetensors'),
  _row('transformers', 'Siglip2Model (NaFlex)', 'model.safetensors'),
  _row(
    'transformers',
    'Siglip2Model (NaFlex), photos of other shapes',
    'model.safetensors',
  ),
)
