"""The small FC-CLIP whose official outputs are recorded, its photos and words."""

import functools

import golden
import numpy as np

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping.rules import convert
from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.systems.fcclip.checkpoint import rules
from maskclip_jax.systems.fcclip.model import FCCLIP, FCCLIPConfig

CONFIG = FCCLIPConfig(
  CONVNEXT_CLIP_SIZES['convnext_tiny'],
  hidden=64,
  heads=4,
  encoder_layers=2,
  decoder_layers=4,
  decoder_ffn=128,
  queries=10,
)


def load(config: FCCLIPConfig, weights) -> FCCLIP:
  """A model of a config filled with an official state dict."""
  model = params.abstract_model('fcclip', config)
  return params.load_into(model, convert(weights, rules(), params.flatten(model)))


@functools.cache
def model() -> FCCLIP:
  """The recorded model."""
  return load(CONFIG, golden.weights('fcclip'))


def photos() -> list[np.ndarray]:
  """The recorded photos, which see the padding of the larger one."""
  g = golden.load('fcclip')
  return [g[f'in/img{i}_uint8'] for i in (0, 1)]


def images(canvas: tuple[int, int] | None = None) -> Images:
  """The recorded batch."""
  return Images.from_arrays(photos(), canvas, pad_to_batch=True)


def bank(vectors: np.ndarray) -> TextBank:
  """The recorded vocabulary with some vectors of its names."""
  g = golden.load('fcclip')
  things = np.isin(np.arange(7), g['in/test_things'])
  return TextBank.build(
    vectors,
    things,
    rows=g['out/text/num_names_per_class'].tolist(),
    seen=g['out/text/overlap'].astype(bool),
    learned_void=True,
  )
