"""The table of systems: from a name and a plain dictionary to a model."""

import dataclasses
import types
import typing
from collections.abc import Mapping
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


def config_to_dict(config: Any) -> dict[str, Any]:
  """A config as plain JSON values."""
  return dataclasses.asdict(config)


def config_from_dict(cls: type, values: Mapping[str, Any]) -> Any:
  """The inverse of `config_to_dict`.

  Raises:
    ValueError: unknown or missing fields.
  """
  hints = typing.get_type_hints(cls)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  if unknown := sorted(set(values) - set(fields)):
    raise ValueError(
      f'{cls.__name__} has no field {", ".join(unknown)}: its fields are '
      f'{", ".join(fields)}'
    )
  required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
  required -= {
    n for n, f in fields.items() if f.default_factory is not dataclasses.MISSING
  }
  if missing := sorted(required - set(values)):
    raise ValueError(f'{cls.__name__} needs {", ".join(missing)}')
  return cls(**{name: _restore(hints[name], value) for name, value in values.items()})


def _restore(hint: Any, value: Any) -> Any:
  """JSON has no dataclasses and no tuples; the field's type says where they were."""
  if isinstance(hint, types.UnionType):
    inner = [h for h in typing.get_args(hint) if h is not types.NoneType]
    return None if value is None else _restore(inner[0], value)
  if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
    return config_from_dict(hint, value)
  if (typing.get_origin(hint) or hint) is tuple and isinstance(value, list):
    return tuple(tuple(v) if isinstance(v, list) else v for v in value)
  return value
