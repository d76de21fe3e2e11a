"""SegCLIP filled with the recorded official weights."""

import functools

import golden
import jax
import jax.numpy as jnp

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.restore import ConstantRngs
from maskclip_jax.mapping.rules import convert
from maskclip_jax.nn.clip import CLIPConfig
from maskclip_jax.systems.segclip import checkpoint
from maskclip_jax.systems.segclip.model import SegCLIP, SegCLIPConfig

# The sizes of the recorded small model; its vocabulary is cut to 512 tokens.
SMALL = SegCLIPConfig(
  CLIPConfig(32, 64, 16, 128, 12, 2, 64, 2, 1, vocab_size=512), decoder_width=64
)


def load(config: SegCLIPConfig, weights) -> SegCLIP:
  """A SegCLIP from an official state dict."""
  model = params.abstract(lambda: SegCLIP(config, rngs=ConstantRngs()))
  table = checkpoint.rules(config.first_blocks, config.clip.vision_layers)
  return params.load_into(model, convert(weights, table, params.flatten(model)))


@functools.cache
def small() -> SegCLIP:
  """The recorded small model."""
  return load(SMALL, golden.weights('segclip'))


def pixels() -> jax.Array:
  """The three recorded photos, channels last."""
  return jnp.moveaxis(golden.load('segclip')['in/images'], 1, -1)
