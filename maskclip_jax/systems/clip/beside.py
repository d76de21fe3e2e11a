"""What the config file beside the weights of a CLIP tells.

Weights do not tell the activation, the heads or the pixel statistics, and with wrong
ones a CLIP works badly without failing [masqclip 1.6]. So all of it is read: what it
says is taken, and what is not supported is refused.
"""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskclip_jax import plain
from maskclip_jax.names import cut, shown
from maskclip_jax.nn.clip import ACTIVATIONS, PIXEL_MEAN, PIXEL_STD, RGB
from maskclip_jax.nn.layers import NORM_EPS

# Words of CLIP's tokenizer, the only one here.
CLIP_VOCABULARY = 49408

OPEN_CLIP = 'open_clip_config.json'
HUGGING_FACE = 'config.json'
_PREPROCESSOR = 'preprocessor_config.json'

# How far statistics may be rounded.
_STATISTICS = 1e-3

# Fields of open_clip's configs that are read below or change nothing here, and the
# values of those that may not have another.
_MODEL = {'embed_dim', 'vision_cfg', 'text_cfg', 'quick_gelu', 'init_logit_scale'}
_MODEL |= {'custom_text', 'output_dict', 'cast_dtype'}
_TOWER = {'width', 'layers', 'heads', 'mlp_ratio', 'norm_kwargs', 'output_tokens'}
_TOWER |= {'final_ln_after_pool'}
_VISION = _TOWER | {'head_width', 'patch_size', 'image_size', 'patch_dropout'}
_VISION |= {'attn_pooler_queries', 'attn_pooler_heads', 'n_queries'}
_TEXT = _TOWER | {'context_length', 'vocab_size', 'pad_id', 'eos_id', 'bos_id'}
# Of timm's networks, whose sizes their weights tell.
_TIMM = {'timm_model_name', 'timm_model_pretrained', 'timm_pool', 'timm_proj'}
_TIMM |= {'timm_drop', 'timm_drop_path'}
_VALUES = {
  'pool_type': ('tok', 'argmax'),
  'pos_embed_type': ('learnable',),
  'proj_type': ('linear',),
}


class Table:
  """A table of a JSON file, whose mistakes are told with the file and the field."""

  def __init__(self, content: Any, name: str):
    if not isinstance(content, Mapping):
      raise ValueError(f'{name} is not a table of fields')
    self.content, self.name = content, name

  def table(self, field: str) -> 'Table':
    """A table in it, empty if it is absent."""
    content = self.content.get(field)
    return Table({} if content is None else content, f'{self.name}: {field}')

  def size(self, field: str, default: int | None = None) -> int | None:
    """A whole number; of two that are the same, such as height and width, the one."""
    value = self.content.get(field)
    value = default if value is None else value
    if isinstance(value, Mapping):
      value = list(value.values())
    if isinstance(value, list) and len(value) and value.count(value[0]) == len(value):
      value = value[0]
    if value is not None and (type(value) is not int or value < 1):
      raise ValueError(f'{self.name}: {field} is {shown(value)}: expected a size')
    return value

  def number(self, field: str, default: float) -> float:
    """A positive number."""
    value = self.content.get(field, default)
    if type(value) not in (int, float) or not 0 < value < math.inf:
      raise ValueError(
        f'{self.name}: {field} is {shown(value)}: expected a positive number'
      )
    return float(value)

  def flag(self, field: str) -> bool:
    """Whether a field is true; it is not where it is absent."""
    value = self.content.get(field)
    if value is not None and type(value) is not bool:
      raise ValueError(
        f'{self.name}: {field} is {shown(value)}: expected true or false'
      )
    return bool(value)

  def heads(self, width: int | None) -> int | None:
    """How many heads an image tower has, which open_clip tells by their width."""
    if width is None:
      return None
    channels = self.size('head_width', 64 if width >= 64 else width)
    if channels > width:
      raise ValueError(f'{self.name}: heads of {channels} in a tower of {width}')
    return self.size('heads', width // channels)

  def statistics(self, mean: str, std: str) -> dict[str, RGB]:
    """The pixel statistics told: what is left out is CLIP's own."""
    told = {}
    for name, field, ours in (
      ('pixel_mean', mean, PIXEL_MEAN),
      ('pixel_std', std, PIXEL_STD),
    ):
      value = self.content.get(field)
      if value is not None:
        told[name] = self._colour(field, value, ours)
    return told

  def _colour(self, field: str, value: Any, ours: RGB) -> RGB:
    """Three numbers of 0..1; CLIP's own where they are those, rounded."""
    numbers = value if isinstance(value, list) else [value] * 3
    plain_numbers = all(type(x) in (int, float) and 0 <= x <= 1 for x in numbers)
    if len(numbers) != 3 or not plain_numbers:
      raise ValueError(
        f'{self.name}: {field} is {shown(value)}: expected three numbers of 0..1'
      )
    if np.allclose(numbers, ours, rtol=0, atol=_STATISTICS):
      return ours
    return tuple(map(float, numbers))

  def check_supported(self, known: set[str]) -> None:
    """Refuses fields that would change the network in a way we do not know."""
    for field, value in self.content.items():
      if field in known or not value or value in _VALUES.get(field, ()):
        continue
      raise ValueError(f'{self.name}: {cut(field)} = {shown(value)} is not supported')


def beside(path: pathlib.Path, layout: str) -> dict[str, Any]:
  """Fields of CLIP's config that open_clip's or Hugging Face's file tells.

  Args:
    path: the weights.
    layout: theirs; a folder may hold both files and both kinds of weights.

  Raises:
    ValueError: a file that is not valid, or a network that is not supported.
  """
  readers = [_open_clip, _hugging_face]
  if layout == 'hugging_face':
    readers.reverse()
  fields = next(filter(None, (read(path.parent, layout) for read in readers)), {})
  return statistics_beside(path.parent, layout, fields)


def statistics_beside(
  folder: pathlib.Path, layout: str, fields: dict[str, Any]
) -> dict[str, Any]:
  """Fields of a config, and the pixel statistics of Hugging Face's file."""
  file = folder / _PREPROCESSOR
  if not file.is_file():
    return fields
  statistics = Table(plain.read_json(file), str(file)).statistics(
    'image_mean', 'image_std'
  )
  # Each layout believes its own file.
  return fields | statistics if layout == 'hugging_face' else statistics | fields


def timm_beside(path: pathlib.Path, layout: str) -> dict[str, Any]:
  """The same of a CLIP whose image tower is timm's, in open_clip's file."""
  return _open_clip(path.parent, layout, _TIMM)


def resnet_beside(path: pathlib.Path, layout: str) -> dict[str, Any]:
  """The same of a CLIP with a ResNet image tower, in open_clip's file."""
  return _open_clip(path.parent, layout, sizes=_resnet_sizes)


def _open_clip(
  folder: pathlib.Path,
  layout: str,
  known: set[str] = frozenset(),
  sizes: Callable[[Table], dict[str, Any]] | None = None,
) -> dict[str, Any]:
  """What open_clip's file tells.

  Args:
    folder: has the file, or not.
    layout: of the weights.
    known: fields of the image tower that change nothing here.
    sizes: reads the image tower's own; by default those of a ViT.
  """
  file = folder / OPEN_CLIP
  if not file.is_file():
    return {}
  whole = Table(plain.read_json(file), str(file))
  model = whole.table('model_cfg') if 'model_cfg' in whole.content else whole
  vision, text = model.table('vision_cfg'), model.table('text_cfg')
  model.check_supported(_MODEL | {'preprocess_cfg'})
  vision.check_supported(_VISION | known)
  text.check_supported(_TEXT)
  fields = open_clip_fields(whole, model, vision, text)
  return told(**(sizes or _vit_sizes)(vision)) | fields


def open_clip_fields(
  whole: Table, model: Table, vision: Table, text: Table
) -> dict[str, Any]:
  """Fields that every CLIP of open_clip has, but for those of its image tower.

  Args:
    whole: the file.
    model: the part of it that describes the network.
    vision, text: the parts of that which describe the towers.
  """
  text_width = text.size('width')
  return told(
    embed_dim=model.size('embed_dim'),
    activation='quick_gelu' if model.flag('quick_gelu') else 'gelu',
    image_size=vision.size('image_size'),
    text_width=text_width,
    text_layers=text.size('layers'),
    text_heads=text.size('heads'),
    text_mlp_width=text_width and int(text_width * text.number('mlp_ratio', 4.0)),
    text_norm_eps=text.table('norm_kwargs').number('eps', NORM_EPS),
    context_length=text.size('context_length'),
    vocab_size=text.size('vocab_size'),
    **whole.table('preprocess_cfg').statistics('mean', 'std'),
  )


def _vit_sizes(vision: Table) -> dict[str, Any]:
  width = vision.size('width')
  return {
    'patch_size': vision.size('patch_size'),
    'vision_width': width,
    'vision_layers': vision.size('layers'),
    'vision_heads': vision.heads(width),
    'vision_mlp_width': width and int(width * vision.number('mlp_ratio', 4.0)),
    'vision_norm_eps': width and vision.table('norm_kwargs').number('eps', NORM_EPS),
  }


def _resnet_sizes(vision: Table) -> dict[str, Any]:
  width = vision.size('width', 64)
  return {
    'stem_width': width,
    'vision_heads': 32 * width // vision.size('head_width', 64),
  }


def _hugging_face(folder: pathlib.Path, layout: str) -> dict[str, Any]:
  file = folder / HUGGING_FACE
  if not file.is_file():
    return {}
  whole = Table(plain.read_json(file), str(file))
  kind = whole.content.get('model_type')
  if kind != 'clip':
    if layout == 'hugging_face' and kind is not None:
      raise ValueError(
        f'{file}: a model of type {shown(kind)} is not supported, only clip'
      )
    return {}
  # Old files have the tables under other names, and those win.
  vision, text = (
    Table(
      whole.table(f'{tower}_config').content
      | whole.table(f'{tower}_config_dict').content,
      f'{file}: {tower}_config',
    )
    for tower in ('vision', 'text')
  )
  return told(
    embed_dim=whole.size('projection_dim'),
    activation=_activation(vision, text),
    image_size=vision.size('image_size'),
    patch_size=vision.size('patch_size'),
    vision_width=vision.size('hidden_size'),
    vision_layers=vision.size('num_hidden_layers'),
    vision_heads=_left_out(vision, 'num_attention_heads', 12),
    vision_mlp_width=_left_out(vision, 'intermediate_size', 3072),
    vision_norm_eps=vision.number('layer_norm_eps', NORM_EPS),
    text_width=text.size('hidden_size'),
    text_layers=text.size('num_hidden_layers'),
    text_heads=_left_out(text, 'num_attention_heads', 8),
    text_mlp_width=_left_out(text, 'intermediate_size', 2048),
    text_norm_eps=text.number('layer_norm_eps', NORM_EPS),
    context_length=text.size('max_position_embeddings'),
    vocab_size=text.size('vocab_size'),
  )


def _left_out(tower: Table, field: str, default: int) -> int | None:
  """A size; the library's default where a tower is described and this left out."""
  return tower.size(field, default if 'hidden_size' in tower.content else None)


def _activation(vision: Table, text: Table) -> str:
  """The activation of both towers, which must have the same."""
  # A tower that is not described is as the other one.
  described = [t for t in (vision, text) if t.content]
  found = [t.content.get('hidden_act', 'quick_gelu') for t in described]
  if any(act != found[0] or act not in list(ACTIVATIONS) for act in found):
    raise ValueError(
      f'{vision.name}: hidden_act {" and ".join(map(repr, found))} is not supported, '
      f'only one of {", ".join(ACTIVATIONS)} for both towers'
    )
  return found[0] if found else 'quick_gelu'


def told(**fields: Any) -> dict[str, Any]:
  """Fields that are told: those that are not None."""
  return {name: value for name, value in fields.items() if value is not None}
