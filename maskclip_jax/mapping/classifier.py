"""What the files beside the weights of an ImageNet classifier tell of its pixels."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskclip_jax import plain
from maskclip_jax.names import shown

# Mean and deviation of ImageNet's pixels, of 0..1, which the proposal networks use.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# How far statistics may be rounded.
_STATISTICS = 1e-3

_TIMM, _HUGGING_FACE = 'config.json', 'preprocessor_config.json'


def beside(path: pathlib.Path, layout: str) -> Mapping[str, Any]:
  """Nothing; refuses a classifier that a proposal network cannot start from.

  Raises:
    ValueError: it saw other pixels than ours, or has its strides elsewhere.
  """
  content = _table(path.with_name(_TIMM))
  told = content.get('pretrained_cfg')
  if isinstance(told, Mapping):
    _check(told.get('mean'), told.get('std'), path.with_name(_TIMM))
  if content.get('downsample_in_bottleneck') or content.get('output_stride', 32) != 32:
    raise ValueError(
      f'{path.with_name(_TIMM)}: its strides are elsewhere than in ours: take a ResNet '
      'of torchvision or timm'
    )
  told = _table(path.with_name(_HUGGING_FACE))
  _check(told.get('image_mean'), told.get('image_std'), path.with_name(_HUGGING_FACE))
  return {}


def _table(file: pathlib.Path) -> Mapping[str, Any]:
  content = plain.read_json(file) if file.is_file() else {}
  return content if isinstance(content, Mapping) else {}


def _check(mean: Any, std: Any, file: pathlib.Path) -> None:
  for found, ours, what in ((mean, MEAN, 'mean'), (std, STD, 'deviation')):
    if found is None:
      continue
    try:
      same = np.allclose(np.broadcast_to(found, 3), ours, rtol=0, atol=_STATISTICS)
    except (TypeError, ValueError):
      same = False
    if not same:
      raise ValueError(
        f'{file}: the weights saw pixels of {what} {shown(found)}, and proposal '
        f'networks see those of {what} {list(ours)}: take weights trained so'
      )
