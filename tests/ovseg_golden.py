"""The small OVSeg whose official outputs are recorded."""

import functools
from collections.abc import Mapping

import golden
import jax.numpy as jnp
import numpy as np

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.params import ConstantRngs
from maskclip_jax.mapping.rules import convert
from maskclip_jax.nn.clip import CLIPConfig
from maskclip_jax.nn.swin import SwinConfig
from maskclip_jax.systems.contract import Images, TextBank
from maskclip_jax.systems.ovseg import checkpoint
from maskclip_jax.systems.ovseg.maskformer import MaskFormerConfig
from maskclip_jax.systems.ovseg.model import OVSeg, OVSegConfig

PROPOSALS = MaskFormerConfig(
  SwinConfig(16, (2, 2, 2, 2), (1, 2, 4, 8), 5),
  hidden=64,
  mask_dim=48,
  heads=4,
  decoder_layers=3,
  decoder_ffn=128,
  class_hidden=64,
  queries=10,
)
CONFIG = OVSegConfig(
  PROPOSALS, CLIPConfig(32, 224, 32, 128, 3, 2, 64, 3, 1, prompt_depth=3)
)
# The image is 121 x 150 pixels, padded to 128 x 160; results are asked at 96 x 118.
SIZES = ((32, 40), (128, 160), (121, 150), (96, 118))


def load(
  config: OVSegConfig, weights: Mapping[str, np.ndarray], dtype=jnp.float32
) -> OVSeg:
  """A model of a config filled with an official state dict."""
  model = params.abstract(lambda: OVSeg(config, dtype=dtype, rngs=ConstantRngs()))
  flat = convert(weights, checkpoint.rules(7), params.flatten(model))
  return params.load_into(model, flat)


@functools.cache
def model(dtype=jnp.float32) -> OVSeg:
  """The recorded model."""
  return load(CONFIG, golden.weights('ovseg'), dtype)


def bank() -> TextBank:
  """The seven words; the recorded vectors end with the one of 'no object'."""
  vectors = golden.load('ovseg')['out/text_features'][:7]
  return TextBank.build(vectors, [True] * 7, void_last=False)


def images() -> Images:
  """The recorded photo on a canvas that is larger than its padded size."""
  return Images.from_arrays([golden.load('ovseg')['in/full/image_uint8']], (160, 192))
