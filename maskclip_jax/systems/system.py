"""What a system is: one description a folder, found by the folder's name.

A system is a folder `systems/<name>/` whose `__init__.py` defines `SYSTEM`. Everything
that asks which systems there are (conversion, bundles, `models list`, the segmenter)
asks here; nothing else knows their names. `docs/adding_a_system.md` walks through it.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_type_hints

import jax.numpy as jnp
from flax import nnx

from maskclip_jax import names, plain, systems
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.nn.layers import LONGEST_EDGE, Dtype
from maskclip_jax.ops.deformable import form_for
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems import system_names
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.systems.contract import Scores

# Fields of `Scores` by which two classifiers are joined, and void lowered.
ENSEMBLE = ('seen_weight', 'unseen_weight', 'skip_empty', 'coat')
# Beside the fields of a part's config: the system that the part is.
_KIND = 'system'


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How a photo reaches the network.

  Attributes:
    short_edge: its short side is resized to this many pixels,
    long_edge: unless the long side would exceed this many.
    resample: how: Pillow's bilinear, antialiased when shrinking, or OpenCV's, which is
      not.
  """

  short_edge: int = 800
  long_edge: int = 1333
  resample: Literal['pillow', 'opencv'] = 'pillow'

  def __post_init__(self):
    if self.resample not in ('pillow', 'opencv'):
      raise ValueError(f"resample must be 'pillow' or 'opencv', not {self.resample!r}")
    if not 0 < self.short_edge <= self.long_edge <= LONGEST_EDGE:
      raise ValueError(
        f'short_edge {self.short_edge} must be positive and at most long_edge '
        f'{self.long_edge}, and that at most {LONGEST_EDGE}'
      )


@dataclasses.dataclass(frozen=True)
class Label:
  """A class of a closed vocabulary that no bundled one has.

  Attributes:
    name: what the model's makers call it.
    thing: whether its segments are counted objects.
  """

  name: str
  thing: bool = True


@dataclasses.dataclass(frozen=True)
class Preset:
  """Everything but the weights: a bundle's config.json holds exactly this.

  Attributes:
    system: the name of a system.
    config: that system's config.
    preprocessing: photo to network.
    postprocessing: network to result.
    words: how names become text vectors, a system in `text/treatments.json`.
    vocabulary: name of the only vocabulary the model knows; None for any words.
    labels: its classes, by column of the class head; None if it is a bundled one.
    scores: how class scores are combined, where nobody chooses otherwise.
    training: the words that training named, which are `seen`, or the name of their
      vocabulary; None where it makes no difference.
  """

  system: str
  config: Any
  preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
  postprocessing: PostprocessConfig = dataclasses.field(
    default_factory=PostprocessConfig
  )
  words: str = 'clean'
  vocabulary: str | None = None
  labels: tuple[Label, ...] | None = None
  scores: Scores = dataclasses.field(default_factory=Scores)
  training: str | tuple[str, ...] | None = None

  def with_pixel_dtype(self, dtype: str) -> 'Preset':
    """Another preset, whose pixel decoder computes in a type.

    Raises:
      ValueError: an unknown type, or a network without pixel decoder.
    """
    types = get_args(Dtype)
    if dtype not in types:
      raise ValueError(f'pixel_dtype is {" or ".join(types)}, not {dtype!r}')
    if not _has(self.config, 'pixel_dtype'):
      raise ValueError(f'pixel_dtype: {self.system} has no pixel decoder')
    config = _replaced(self.config, 'pixel_dtype', dtype)
    return dataclasses.replace(self, config=config)

  def to_dict(self) -> dict[str, Any]:
    """As plain JSON values."""
    return plain.to_dict(self) | {'config': _config_to_dict(self.system, self.config)}

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> 'Preset':
    """The inverse of `to_dict`.

    Raises:
      ValueError: an unknown system, or fields that are missing or unknown.
    """
    preset = plain.read(cls, values, 'preset')
    config = _read_config(preset.system, preset.config, 'preset.config')
    return dataclasses.replace(preset, config=config)


def _config_to_dict(system: str, config: Any) -> dict[str, Any]:
  """A config as plain values; a part that is not the usual one tells its system."""
  values = plain.to_dict(config)
  for part, usual in find_system(system).parts.items():
    kind = system_of(getattr(config, part)).name
    inner = _config_to_dict(kind, getattr(config, part))
    values[part] = inner if kind == usual else {_KIND: kind, **inner}
  return values


def _read_config(system: str, values: Any, where: str) -> Any:
  """The inverse of `_config_to_dict`; errors as for `plain.read`."""
  found = find_system(system)
  if isinstance(values, Mapping):
    values, hints = dict(values), get_type_hints(found.config)
    for part, usual in found.parts.items():
      inner = values.get(part)
      # Types other than Any tell by themselves what a part without its system is.
      if isinstance(inner, Mapping) and (_KIND in inner or hints[part] is Any):
        inner = dict(inner)
        kind = inner.pop(_KIND, usual)
        values[part] = _read_config(kind, inner, f'{where}.{part}')
  return plain.read(found.config, values, where)


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """What a person should know of a model before using it.

  Attributes:
    summary: one line.
    weights: where the official weights are published, and in which form.
    licence: what the weights inherit.
    numbers: published results, each with its protocol; '' where there are none.
    shipped: the bundle's directory inside this package; '' if the weights are
      elsewhere.
    url: where to fetch them by hand; '' where there is nothing to fetch.
    limits: what it knows alone, where that is not photographs; '' where it is.
  """

  summary: str
  weights: str
  licence: str
  numbers: str = ''
  shipped: str = ''
  url: str = ''
  limits: str = ''


def _never(config: Any) -> bool:
  return False


@dataclasses.dataclass(frozen=True)
class Rule:
  """How a system names masks, whoever proposes them: what `compose` puts together.

  The system's parts are 'proposals' and 'clip', and its model is an `EncodesMasks`.

  Attributes:
    name: what people call it: 'masq'.
    suits: says why a CLIP of some config is not one for the rule; '' if it is.
    untuned: fields of the system's config where a CLIP is all that is given.
    derived: the parameters that a CLIP lacks, made of its own (below 'clip/').
    alone: where the system has a field `proposal_words`, and so asks proposals that
      have a text tower what they think of words themselves: the fields of a preset for
      proposals that have none. None for a system that asks by its own words or not at
      all.
  """

  name: str
  suits: Callable[[Any], str]
  untuned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda values: {}
  alone: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Naming:
  """How the CLIP of a system names masks by the rule of another.

  Attributes:
    fields: those of the other system's config that make it do as this one does.
    words: how names become text vectors; '' for the other system's way.
  """

  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  words: str = ''


@dataclasses.dataclass(frozen=True)
class System:
  """A model, what is known of it, and how its official files are read.

  Attributes:
    name: the name of its folder.
    title: its name in the literature.
    model: called as `model(images, text)`, or `model(images, text, scores)` where
      `reads_scores`; both give `Outputs`.
    config: the frozen dataclass that sizes it.
    presets: by name, everything but the weights.
    sized: a config with the sizes that files tell.
    cards: by name of a preset, what people should know; presets without a card are not
      listed.
    format: its official files; None if there are none.
    parts: by name of a submodule, the system it is: {'proposals': 'mask2former'}. The
      first comes from the main file of a conversion, a CLIP from the file that --clip
      names. Where the config allows it, a part may be of another system.
    from_parts: files of its parts alone make a model.
    takes_part: whether a config leaves out some of what the official files hold.
    benchmarks: by name of a protocol, how it was run where that differs from others.
    segments: it makes masks; False for a part that only names them.
    reads_scores: fields of `Scores` that it reads, if it takes them; what others say of
      void and of objects gives way by `coat` alone.
    proposes_without: submodules that it does without where it is the proposals of
      another system, being a `ProposesMasks`; None if it is not one.
    proposals_read_words: there it can also name its masks, if it keeps 'clip/text'.
    rule: how it names masks of any proposals; None if it names only its own.
    names_by: by name of a rule of another system, how that has this one's CLIP name
      masks as it does here.
  """

  name: str
  title: str
  model: type[nnx.Module]
  config: type
  presets: Mapping[str, Preset]
  sized: Callable[[Any, KnownSizes], Any]
  cards: Mapping[str, ModelCard] = dataclasses.field(default_factory=dict)
  format: Format | None = None
  parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  from_parts: bool = False
  takes_part: Callable[[Any], bool] = _never
  benchmarks: Mapping[str, BenchmarkSettings] = dataclasses.field(default_factory=dict)
  segments: bool = True
  reads_scores: tuple[str, ...] = ()
  proposes_without: tuple[str, ...] | None = None
  proposals_read_words: bool = False
  rule: Rule | None = None
  names_by: Mapping[str, Naming] = dataclasses.field(default_factory=dict)

  def scores_of(self, config: Any) -> tuple[str, ...]:
    """Fields of `Scores` that a model of some config reads."""
    joint = getattr(config, 'joint', False)
    return tuple(dict.fromkeys((*self.reads_scores, *(ENSEMBLE if joint else ()))))


def find_system(name: str) -> System:
  """The system of a name.

  Raises:
    ValueError: there is none.
  """
  try:
    # A file of anybody's may hold any name.
    if isinstance(name, str) and name.isidentifier():
      return importlib.import_module(f'{systems.__name__}.{name}').SYSTEM
  except (ModuleNotFoundError, AttributeError):
    if name in system_names():
      raise
  raise names.unknown('system', name, system_names())


def all_systems() -> tuple[System, ...]:
  """Every system, by name."""
  return tuple(find_system(name) for name in system_names())


def system_of(config: Any) -> System:
  """The system whose config this is.

  Raises:
    ValueError: of none.
  """
  for system in all_systems():
    if type(config) is system.config:
      return system
  raise ValueError(f'a {type(config).__name__} is not the config of a system')


def build(system: str, config: Any, *, dtype=jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
  """A freshly initialised model.

  Args:
    system: its name.
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


def with_recomputation(config: Any, remat: bool) -> Any:
  """A config whose networks recompute blocks in the backward pass, or do not.

  Raises:
    ValueError: recomputation in a network that has none.
  """
  if remat and not _has(config, 'remat'):
    raise ValueError(
      f'config.remat is for proposal networks: {type(config).__name__} has none'
    )
  return _replaced(config, 'remat', remat)


def _fields(config: Any) -> dict[str, Any]:
  return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def _has(config: Any, name: str) -> bool:
  """Whether a config, or one inside it, has a field of a name."""
  fields = _fields(config)
  inner = filter(dataclasses.is_dataclass, fields.values())
  return name in fields or any(_has(one, name) for one in inner)


def _replaced(config: Any, name: str, value: Any) -> Any:
  """A config with another value of all fields of a name, in it and inside it."""
  fields = _fields(config)
  changes = {
    field: _replaced(inner, name, value)
    for field, inner in fields.items()
    if dataclasses.is_dataclass(inner)
  }
  if name in fields:
    changes[name] = value
  return dataclasses.replace(config, **changes)


def sampling_form(config: Any, platform: str) -> str | None:
  """How a model samples on a platform, as `ops.deformable` names it; None if never."""
  if hasattr(config, 'sampling'):
    return form_for(platform, config.sampling)
  inner = (getattr(config, field.name) for field in dataclasses.fields(config))
  forms = (sampling_form(x, platform) for x in inner if dataclasses.is_dataclass(x))
  return next(filter(None, forms), None)
