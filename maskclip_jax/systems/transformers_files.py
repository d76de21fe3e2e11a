"""What the files beside the weights of transformers' segmenters tell: the classes, the
pixel statistics, the sizes of photos, and whether the network is one of ours."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskclip_jax import plain
from maskclip_jax.names import an, cut, shown
from maskclip_jax.nn.layers import LONGEST_EDGE
from maskclip_jax.systems.system import Preprocessing

LAYOUT = 'hugging_face'
# The pixel statistics of ImageNet, for values of 0..255.
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

_CONFIG, _PROCESSOR = 'config.json', 'preprocessor_config.json'

# By type of a backbone, the fields that it has one value of here; the shapes of weights
# tell others, or they change nothing.
_SWIN = {
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-5,
  'patch_size': 4,
  'use_absolute_embeddings': False,
}
_BACKBONES = {
  'swin': _SWIN,
  'maskformer-swin': _SWIN,
  'resnet': {
    'hidden_act': 'relu',
    'downsample_in_bottleneck': False,
    'downsample_in_first_stage': False,
  },
  'timm_backbone': {'output_stride': None},
}


@dataclasses.dataclass(frozen=True)
class Described:
  """How the files beside the weights of a network are read.

  Attributes:
    kind: its `model_type`.
    title: what messages call it.
    fixed: fields of its config that it has one value of here.
    decoder: likewise of the table `decoder_config`, whose `decoder_attention_heads` are
      the field `heads` of ours.
  """

  kind: str
  title: str
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  decoder: Mapping[str, Any] | None = None

  def beside(self, path: pathlib.Path, layout: str) -> dict[str, Any]:
    """Fields of the config that the files tell; see `Format.beside`.

    Raises:
      ValueError: a file that is not valid, or a network that is not supported.
    """
    if layout != LAYOUT:
      return {}
    file = path.with_name(_CONFIG)
    content = _read(file)
    self._check(content, file)
    told = {}
    if self.decoder is not None:
      decoder = _inner(content, 'decoder_config', file)
      _check_fields(decoder, self.decoder, file)
      heads = decoder.get('decoder_attention_heads', 8 if decoder else None)
      if heads is not None:
        told['heads'] = int(_number({'heads': heads}, 'heads', 8, file))
    file = path.with_name(_PROCESSOR)
    return told | _statistics(_read(file), file)

  def preset_beside(self, path: pathlib.Path, layout: str) -> dict[str, Any]:
    """What they tell of the rest of a preset; see `Format.preset_beside`.

    The classes of a file of any layout may be named so, if the config is not that of
    another model.
    """
    file = path.with_name(_CONFIG)
    content = _read(file)
    if layout != LAYOUT and content.get('model_type', self.kind) != self.kind:
      return {}
    names = _labels(content.get('id2label'), file)
    told = {} if names is None else {'labels': names}
    if layout != LAYOUT:
      return told
    return told | _photos(path.with_name(_PROCESSOR))

  def _check(self, content: Mapping[str, Any], file: pathlib.Path) -> None:
    """Refuses what would change the network in a way we do not know."""
    kind = content.get('model_type', self.kind)
    if kind != self.kind:
      raise ValueError(
        f'{file}: a model of type {shown(kind)}, and the weights are {an(self.title)}: '
        'put the config there that belongs to them, or none'
      )
    backbone = _inner(content, 'backbone_config', file)
    of_backbone = backbone.get('model_type', 'swin')
    if of_backbone not in list(_BACKBONES):
      raise ValueError(
        f'{file}: a backbone of type {shown(of_backbone)} is not supported, only '
        + ', '.join(_BACKBONES)
      )
    _check_fields(content, self.fixed, file)
    _check_fields(backbone, _BACKBONES[of_backbone], file)


def _inner(
  content: Mapping[str, Any], field: str, file: pathlib.Path
) -> Mapping[str, Any]:
  """A table in the config; empty if it is absent."""
  table = content.get(field) or {}
  if not isinstance(table, Mapping):
    raise ValueError(f'{file}: {field} is not a table of fields')
  return table


def _check_fields(
  content: Mapping[str, Any], fixed: Mapping[str, Any], file: pathlib.Path
) -> None:
  for field, value in fixed.items():
    if (found := content.get(field, value)) != value:
      raise ValueError(f'{file}: {field} = {shown(found)} is not supported')


def _read(file: pathlib.Path) -> Mapping[str, Any]:
  """The fields of a JSON file; none where it is absent."""
  if not file.is_file():
    return {}
  content = plain.read_json(file)
  if not isinstance(content, Mapping):
    raise ValueError(f'{file} is not a table of fields')
  return content


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
  for ours, usual, field, neutral in (
    ('pixel_mean', PIXEL_MEAN, 'image_mean', 0.0),
    ('pixel_std', PIXEL_STD, 'image_std', 1.0),
  ):
    values = content.get(field, [x / 255 for x in usual])
    if content.get('do_normalize') is False:
      values = neutral
    values = values if isinstance(values, list) else [values] * 3
    least = 1e-6 if ours == 'pixel_std' else 0.0
    if len(values) != 3 or not all(_is_number(x) and x >= least for x in values):
      raise ValueError(
        f'{file}: {field} is {shown(values)}: expected three numbers from {least:g}'
      )
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
  if not _is_number(value) or value < 1e-6:
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
