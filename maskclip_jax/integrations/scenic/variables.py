"""A CLIP as variables of Scenic's (`scenic.projects.baselines.clip`), and back.

    variables = to_scenic(maskclip_jax.load_clip('open_clip_model.safetensors').model)
    scenic_clip = layers.CLIP(**scenic_arguments(clip.config))
    image, text = scenic_clip.apply(variables, pixels, tokens)

Arrays are the same; Scenic spells the number of a block with a dot and nests names.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from maskclip_jax.checkpoints import params
from maskclip_jax.mapping import rules
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.nn.clip import CLIP, CLIPConfig
from maskclip_jax.nn.layers import NORM_EPS
from maskclip_jax.systems.clip import SYSTEM
from maskclip_jax.systems.clip.checkpoint import SCENIC

Tree = dict[str, Any]


def to_scenic(clip: CLIP) -> Tree:
  """Variables for Scenic's `layers.CLIP(**scenic_arguments(clip.config))`.

  Raises:
    ValueError: a CLIP that Scenic's module is not.
  """
  scenic_arguments(clip.config)
  return nested(rules.invert(params.flatten(clip), SCENIC))


def from_scenic(variables: Mapping[str, Any]) -> CLIP:
  """The CLIP of variables of Scenic's, with or without the outer 'params'.

  Raises:
    ValueError: variables are missing, unknown or of another shape; or a CLIP with a
      ResNet for photos.
  """
  theirs = {path: np.asarray(a) for path, a in flattened(variables)}
  ours = {
    path.removeprefix('params/').replace('resblocks.', 'resblocks/'): array
    for path, array in theirs.items()
  }
  shapes = {path: array.shape for path, array in ours.items()}
  base = SYSTEM.presets['clip_vit_l14_336'].config
  config = SYSTEM.sized(base, KnownSizes(shapes, frozenset(shapes)))
  network = params.abstract_model(SYSTEM.name, config)
  source = "the variables of Scenic's CLIP"
  flat = rules.convert(theirs, SCENIC, params.flatten(network), source=source)
  return params.load_into(network, flat, source=source)


def scenic_arguments(config: CLIPConfig) -> dict[str, int]:
  """What Scenic's `layers.CLIP` is built with for a CLIP of these sizes.

  Raises:
    ValueError: it has no such CLIP.
  """
  wanted = {
    'activation': 'quick_gelu',
    'prompt_depth': 0,
    'vision_mlp_width': None,
    'text_mlp_width': None,
    'vision_norm_eps': NORM_EPS,
    'text_norm_eps': NORM_EPS,
  }
  for name, value in wanted.items():
    if getattr(config, name) != value:
      raise ValueError(
        f"Scenic's CLIP has {name} {value} alone, and this one has "
        f'{getattr(config, name)}'
      )
  return {
    'vocab_size': config.vocab_size,
    'embed_dim': config.embed_dim,
    'text_features': config.text_width,
    'text_num_layers': config.text_layers,
    'text_num_heads': config.text_heads,
    'vision_features': config.vision_width,
    'vision_num_layers': config.vision_layers,
    'vision_head_dim': config.vision_width // config.vision_heads,
    'vision_patch_size': config.patch_size,
  }


def nested(flat: Mapping[str, Array]) -> Tree:
  """Dictionaries in dictionaries, of names that slashes divide."""
  tree: Tree = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def flattened(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Array]]:
  """The inverse of `nested`, one leaf after another."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from flattened(value, f'{prefix}{name}/')
    else:
      yield f'{prefix}{name}', value
