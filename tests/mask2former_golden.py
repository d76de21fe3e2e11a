"""The small Mask2Former whose official outputs are recorded, and photos for it."""

import dataclasses
import functools
from collections.abc import Mapping

import golden
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping.rules import convert
from maskclip_jax.systems.contract import Images
from maskclip_jax.systems.mask2former.checkpoint import RULES
from maskclip_jax.systems.mask2former.model import Mask2Former, Mask2FormerConfig

CONFIG = Mask2FormerConfig(
  stem=8,
  width=16,
  hidden=64,
  mask_dim=48,
  heads=4,
  encoder_layers=2,
  decoder_layers=4,
  decoder_ffn=128,
  queries=10,
)


def load(
  config: Mask2FormerConfig, weights: Mapping[str, np.ndarray], dtype=jnp.float32
) -> Mask2Former:
  """A model of a config filled with an official state dict."""
  model = params.abstract(lambda: Mask2Former(config, dtype=dtype, rngs=nnx.Rngs(0)))
  return params.load_into(model, convert(weights, RULES, params.flatten(model)))


@functools.cache
def model(dtype=jnp.float32, pixel_dtype='float32') -> Mask2Former:
  """The recorded model."""
  config = dataclasses.replace(CONFIG, pixel_dtype=pixel_dtype)
  return load(config, golden.weights('mask2former'), dtype)


@functools.cache
def images() -> Images:
  """The recorded batch: two photos that fill the canvas."""
  pixels = golden.load('mask2former')['in/images_uint8']
  return Images(jnp.asarray(pixels), jnp.array([pixels.shape[1:3]] * len(pixels)))


def channels_last(x: np.ndarray) -> np.ndarray:
  """Official maps (B, C, H, W) in our order."""
  return np.moveaxis(x, 1, -1)
