"""Parts of a system that may be of several systems: who proposes the masks.

A config holds the config of each part, and its type tells which system the part is. In
a bundle, a part that is not the usual one has its system beside its fields.
"""

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.nn.clip import PIXEL_MEAN, CLIPConfig
from maskclip_jax.nn.clip_resnet import ResNetCLIPConfig
from maskclip_jax.nn.convnext import ConvNeXtCLIPConfig
from maskclip_jax.nn.eva import EvaCLIPConfig
from maskclip_jax.nn.layers import prune
from maskclip_jax.postprocess.partition import INSIDE, Partition
from maskclip_jax.systems.system import System, build, system_of

# Towers whose class token, and so every patch, is mapped to the joint space.
_CLASS_TOKEN = CLIPConfig | EvaCLIPConfig
# The text tower of proposals that read words; other systems do without it.
_OWN_TEXT = 'clip/text'
# The config of any system that is a `ProposesMasks`, or of any CLIP.
PartConfig = Any
T = TypeVar('T')


def build_part(config: PartConfig, *, dtype=jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
  """The model of a config."""
  return build(system_of(config).name, config, dtype=dtype, rngs=rngs)


def build_proposer(
  config: PartConfig,
  *,
  reads_words: bool = False,
  dtype=jnp.float32,
  rngs: nnx.Rngs,
) -> nnx.Module:
  """The `ProposesMasks` of a config, without what proposing does not need.

  Args:
    config: sizes.
    reads_words: keep its own text tower.
    dtype: compute type.
    rngs: seeds of the initialisation.

  Raises:
    ValueError: a system that proposes no masks, or has no such tower.
  """
  system = system_of(config)
  if system.proposes_without is None:
    raise ValueError(f'{system.name} proposes no masks for other systems')
  if reads_words and not system.proposals_read_words:
    raise ValueError(f'{system.name} has no text tower by which it names its masks')
  model = build_part(config, dtype=dtype, rngs=rngs)
  prune(model, idle_parts(system, reads_words))
  return model


def idle_parts(system: System, reads_words: bool) -> tuple[str, ...]:
  """Submodules that proposals of a system do without.

  Args:
    system: a `ProposesMasks`.
    reads_words: it names masks by its own text tower.
  """
  kept = _OWN_TEXT if reads_words else None
  return tuple(part for part in system.proposes_without if part != kept)


def sized(config: PartConfig, found: KnownSizes) -> PartConfig:
  """The config of a part with the sizes that files tell."""
  return system_of(config).sized(config, found)


def sized_parts(config: Any, found: KnownSizes) -> dict[str, PartConfig]:
  """The config of every part of a config, with the sizes that files tell."""
  return {
    part: sized(getattr(config, part), found.below(part))
    for part in system_of(config).parts
  }


def all_sized(config: T, found: KnownSizes) -> T:
  """A config whose every part has the sizes that files tell."""
  return dataclasses.replace(config, **sized_parts(config, found))


def lacks_tokens(clip: PartConfig) -> str:
  """Why masks cannot be tokens of a CLIP; '' if they can."""
  if isinstance(clip, _CLASS_TOKEN):
    return ''
  if hasattr(clip, 'patch_size'):
    return 'its image tower has no class token that masks could be copies of'
  return 'its image tower has no patch tokens for masks to read: take a ViT'


def lacks_free_tokens(clip: PartConfig) -> str:
  """Why a copy of the class token cannot stand for a mask in a CLIP; '' if it can."""
  if isinstance(clip, EvaCLIPConfig):
    return 'its queries turn with the places of patches, and a mask has none'
  return lacks_tokens(clip)


def lacks_size(clip: PartConfig) -> str:
  """Why a CLIP cannot be shown crops; '' if it can."""
  if hasattr(clip, 'image_size'):
    return ''
  return 'its image tower has no size of its own that a crop could be given'


def lacks_places(clip: PartConfig) -> str:
  """Why a CLIP has no vectors of places to pool; '' if it has."""
  if isinstance(clip, _CLASS_TOKEN | ConvNeXtCLIPConfig | ResNetCLIPConfig):
    return ''
  return 'what it knows of a place is not in the space of its words'


def colour_beyond(proposals: PartConfig) -> tuple[float, float, float]:
  """RGB (0..255) of what a detector sees beyond a photo's edge: its mean colour."""
  if hasattr(proposals, 'pixel_mean'):
    return proposals.pixel_mean
  for part in ('network', 'proposals'):
    if dataclasses.is_dataclass(inside := getattr(proposals, part, None)):
      return colour_beyond(inside)
  return tuple(255 * x for x in PIXEL_MEAN)


def logits_of(
  masks: Float[Array, 'b q h w'] | Partition,
) -> Float[Array, 'b q h w']:
  """Mask logits, positive inside; what windows share is inside the masks of both."""
  if isinstance(masks, Partition):
    inside = jnp.full_like(masks.inside, INSIDE)
    return dataclasses.replace(masks, inside=inside).logits()
  return masks
