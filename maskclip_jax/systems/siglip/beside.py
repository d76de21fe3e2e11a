"""What the config file beside the weights of a SigLIP tells."""

import math
import pathlib
import re
from typing import Any

from maskclip_jax import plain
from maskclip_jax.names import shown
from maskclip_jax.systems.clip.beside import (
  HUGGING_FACE,
  OPEN_CLIP,
  Table,
  open_clip_fields,
  statistics_beside,
  told,
)

# Their names of what is here an activation.
_ACTIVATIONS = {'gelu_pytorch_tanh': 'gelu_tanh', 'gelu': 'gelu'}
# timm's networks of SigLIP 2 that approximate their GELU; the others do not.
_APPROXIMATE = re.compile(
  r'vit_(base_patch32|so400m_patch16|giantopt_patch16|large_patch16_siglip_512)'
)
_GEMMA_WORDS = 256000


def beside(path: pathlib.Path, layout: str) -> dict[str, Any]:
  """Fields of SigLIP's config that open_clip's or Hugging Face's file tells.

  Args:
    path: the weights.
    layout: theirs.

  Raises:
    ValueError: a file that is not valid, or a network that is not supported.
  """
  read = _hugging_face if layout == 'hugging_face' else _open_clip
  return statistics_beside(path.parent, layout, read(path.parent))


def _open_clip(folder: pathlib.Path) -> dict[str, Any]:
  file = folder / OPEN_CLIP
  if not file.is_file():
    return {}
  whole = Table(plain.read_json(file), str(file))
  model = whole.table('model_cfg') if 'model_cfg' in whole.content else whole
  vision, text = model.table('vision_cfg'), model.table('text_cfg')
  fields = open_clip_fields(whole, model, vision, text)
  fields.pop('activation')
  approximate = text.table('act_kwargs').content.get('approximate')
  cleaning = text.table('tokenizer_kwargs').content.get('clean', 'canonicalize')
  if cleaning not in ('canonicalize', 'lower'):
    raise ValueError(
      f'{file}: text_cfg: texts that are cleaned by {shown(cleaning)} are not supported'
    )
  name = str(vision.content.get('timm_model_name', ''))
  return fields | told(
    vision_activation='gelu_tanh' if _APPROXIMATE.match(name) else 'gelu',
    text_activation='gelu_tanh' if approximate == 'tanh' else 'gelu',
    cleaning='lower' if cleaning == 'lower' else 'canonical',
  )


def _hugging_face(folder: pathlib.Path) -> dict[str, Any]:
  file = folder / HUGGING_FACE
  if not file.is_file():
    return {}
  whole = Table(plain.read_json(file), str(file))
  kind = whole.content.get('model_type')
  if kind not in ('siglip', 'siglip2'):
    raise ValueError(
      f'{file}: a model of type {shown(kind)} is not supported, only siglip and siglip2'
    )
  vision, text = whole.table('vision_config'), whole.table('text_config')
  if kind == 'siglip':
    size = {'image_size': vision.size('image_size', 224)}
  else:
    # Of photos of any shape (NaFlex).
    size = {'position_grid': math.isqrt(vision.size('num_patches', 256))}
  return size | told(
    patch_size=vision.size('patch_size', 16),
    vision_heads=vision.size('num_attention_heads', 12),
    text_heads=text.size('num_attention_heads', 12),
    vision_activation=_activation(vision),
    text_activation=_activation(text),
    vision_norm_eps=vision.number('layer_norm_eps', 1e-6),
    text_norm_eps=text.number('layer_norm_eps', 1e-6),
    cleaning='lower' if text.size('vocab_size') == _GEMMA_WORDS else 'canonical',
  )


def _activation(tower: Table) -> str:
  name = tower.content.get('hidden_act', 'gelu_pytorch_tanh')
  if name not in list(_ACTIVATIONS):
    raise ValueError(
      f'{tower.name}: hidden_act {shown(name)} is not supported, only one of '
      f'{", ".join(_ACTIVATIONS)}'
    )
  return _ACTIVATIONS[name]
