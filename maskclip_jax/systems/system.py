"""The table of systems: from a name and a plain dictionary to a model."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from maskclip_jax.nn.clip import CLIP, CLIPConfig
from maskclip_jax.systems.clip_baseline.model import CLIPBaseline, CLIPBaselineConfig
from maskclip_jax.systems.mask2former.model import Mask2Former, Mask2FormerConfig
from maskclip_jax.systems.maskclip.model import MaskCLIP, MaskCLIPConfig
from maskclip_jax.systems.masqclip.model import MasQCLIP, MasQCLIPConfig


@dataclasses.dataclass(frozen=True)
class System:
  """A model class and the frozen dataclass that sizes it."""

  model: type[nnx.Module]
  config: type


SYSTEMS = {
  'clip': System(CLIP, CLIPConfig),
  'mask2former': System(Mask2Former, Mask2FormerConfig),
  'clip_baseline': System(CLIPBaseline, CLIPBaselineConfig),
  'maskclip': System(MaskCLIP, MaskCLIPConfig),
  'masqclip': System(MasQCLIP, MasQCLIPConfig),
}


def find_system(name: str) -> System:
  """The system of a name.

  Raises:
    ValueError: there is none.
  """
  if name not in SYSTEMS:
    raise ValueError(f'unknown system {name!r}: choose one of {", ".join(SYSTEMS)}')
  return SYSTEMS[name]


def build(system: str, config: Any, *, dtype=jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
  """A freshly initialised model.

  Args:
    system: a key of `SYSTEMS`.
    config: that system's config.
    dtype: compute type; parameters are float32.
    rngs: seeds of the initialisation.

  Raises:
    ValueError: unknown system, or the config of another.
  """
  entry = find_system(system)
  if not isinstance(config, entry.config):
    raise ValueError(
      f'{system} takes a {entry.config.__name__}, not a {type(config).__name__}'
    )
  return entry.model(config, dtype=dtype, rngs=rngs)
