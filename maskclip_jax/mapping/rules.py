"""Declarative tables between official checkpoint keys and our parameter paths.

A table is a tuple of `Rule` and `Ignore`. One table serves both directions: `convert`
turns an official state dict into flat parameters, `invert` gives it back byte for
byte, and `official_shapes` lists what an official file for a model must hold. What a
model expects decides; nothing is guessed from a file.

    RULES = (
      Rule('visual.conv1.weight', 'visual/conv1/kernel', CONV),
      Rule(
        'resblocks.{i}.attn.in_proj_weight',
        tuple(f'resblocks/{{i}}/attn/{role}/kernel' for role in ROLES),
        PACKED_KERNEL,
      ),
      Ignore('vocab_size', 'a constant of the text tower'),
    )
    flat = convert(state_dict, RULES, expected)

Layouts: [masqclip 1.6, 2.6, 4.5, 5.7].
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from maskclip_jax.mapping.problems import Problems, dims
from maskclip_jax.mapping.transforms import (
  IDENTITY,
  Identity,
  Patches,
  Permute,
  Shape,
  Transform,
  Widened,
)

_PLACEHOLDER = re.compile(r'\{(\w+)\}')


class ShapeDtype(Protocol):
  """Anything with a shape and a dtype: arrays, `jax.ShapeDtypeStruct`."""

  shape: Shape
  dtype: np.dtype


def _regex(template: str) -> re.Pattern:
  """Matches a template whose `{i}` stand for integers; repeated names must agree."""
  parts, seen = [], set()
  for index, piece in enumerate(_PLACEHOLDER.split(template)):
    if index % 2 == 0:
      parts.append(re.escape(piece))
    elif piece in seen:
      parts.append(f'(?P={piece})')
    else:
      parts.append(f'(?P<{piece}>0|[1-9][0-9]*)')
      seen.add(piece)
  return re.compile(''.join(parts))


@dataclasses.dataclass(frozen=True)
class Rule:
  """One official key (or family of keys) and where its tensor lives in our tree.

  Attributes:
    pattern: official key; `{i}` stands for an integer.
    path: our '/'-joined path with the same placeholders, or several paths for one
      packed official tensor.
    transform: how the arrays correspond.
    aliases: older official names, understood on import, never written.

  Raises:
    ValueError: the pattern, the paths and the aliases use different placeholders.
  """

  pattern: str
  path: str | tuple[str, ...]
  transform: Transform = IDENTITY
  aliases: tuple[str, ...] = ()

  def __post_init__(self):
    names = {frozenset(_PLACEHOLDER.findall(t)) for t in (self.pattern, *self.aliases)}
    names |= {frozenset(_PLACEHOLDER.findall(path)) for path in self.paths}
    if len(names) != 1:
      raise ValueError(f'rule {self.pattern!r}: placeholders differ from its paths')

  @property
  def paths(self) -> tuple[str, ...]:
    return (self.path,) if isinstance(self.path, str) else self.path


@dataclasses.dataclass(frozen=True)
class Ignore:
  """An official key that is no parameter of ours.

  Attributes:
    pattern: official key; `{i}` stands for an integer.
    why: what it is, for readers of the table.
    restore: written on export where the official code insists on the key (constant
      buffers), as an array or as float32 values; None leaves it out.
    told: whether people are told that a file holds it: more than a constant.
  """

  pattern: str
  why: str
  restore: tuple[float, ...] | np.ndarray | None = None
  told: bool = False


Rules = Sequence[Rule | Ignore]


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One official tensor a model needs, with its shape there and its paths here."""

  paths: tuple[str, ...]
  shape: Shape
  transform: Transform


def prefixed(rules: Rules, official: str = '', ours: str = '') -> tuple:
  """The same rules below a prefix on either side, such as 'masqclip.' and 'clip/'."""
  return tuple(
    dataclasses.replace(rule, pattern=official + rule.pattern)
    if isinstance(rule, Ignore)
    else dataclasses.replace(
      rule,
      pattern=official + rule.pattern,
      path=tuple(ours + path for path in rule.paths),
      aliases=tuple(official + alias for alias in rule.aliases),
    )
    for rule in rules
  )


def part_of(rules: Rules, inside: str, ours: str = '') -> Rules:
  """The rules of one part of a network, below another prefix.

  Args:
    rules: the table of the whole.
    inside: prefix of the part's paths, such as 'proposals/'.
    ours: what replaces it.

  Returns:
    The part's rules; all other official keys are ignored.
  """
  kept = []
  for rule in rules:
    if isinstance(rule, Rule) and all(path.startswith(inside) for path in rule.paths):
      paths = tuple(ours + path.removeprefix(inside) for path in rule.paths)
      kept.append(dataclasses.replace(rule, path=paths))
    elif isinstance(rule, Rule):
      kept += [Ignore(key, 'another part') for key in (rule.pattern, *rule.aliases)]
    else:
      kept.append(rule)
  return tuple(kept)


def official_shapes(rules: Rules, expected: Mapping[str, ShapeDtype]) -> dict:
  """Official key -> shape of the file a model with these parameters comes from.

  Raises:
    ValueError: the table has no rule, or two, for a parameter.
  """
  return {key: entry.shape for key, entry in _plan(rules, expected).items()}


def convert(
  state_dict: Mapping[str, np.ndarray],
  rules: Rules,
  expected: Mapping[str, ShapeDtype],
  *,
  partial: bool = False,
  source: str = 'the checkpoint',
  hint: str = '',
) -> dict[str, np.ndarray]:
  """Official state dict -> flat parameters. Strict: every tensor must find its place.

  Args:
    state_dict: official key -> array; each is read once.
    rules: the table.
    expected: our path -> shape and dtype of every parameter wanted.
    partial: leave out tensors the table knows but nothing wanted needs; for taking a
      part out of a larger checkpoint.
    source: what to call the input in an error.
    hint: a sentence added to an error, such as which system the keys belong to.

  Returns:
    Path -> array of the expected shape and dtype, mostly views of the input.

  Raises:
    ValueError: keys are unknown, missing or given twice, or a tensor has another shape,
      a dtype that would lose precision, integers in place of floats, or NaN; all of it
      in one message.
  """
  plan = _plan(rules, expected)
  problems = Problems()
  found = _assign(state_dict, rules, plan, partial, problems)
  problems['missing'] = [key for key in plan if key not in found]
  flat = {}
  for key, name in found.items():
    entry, array = plan[key], state_dict[name]
    if array.size == math.prod(entry.shape) == 1:
      array = array.reshape(entry.shape)  # A scalar may be stored as a vector of one.
    if array.shape != entry.shape:
      wanted, got = dims(entry.shape), dims(array.shape)
      problems['misshapen'].append(f'{name} is {got}, expected {wanted}')
      continue
    dtypes = [expected[path].dtype for path in entry.paths]
    if not all(np.can_cast(array.dtype, dtype, 'safe') for dtype in dtypes):
      problems['of a wrong type'].append(f'{name} is {array.dtype}, not {dtypes[0]}')
      continue
    if array.dtype.kind in 'iu' and any(dtype.kind == 'f' for dtype in dtypes):
      problems['quantised'].append(f'{name} is {array.dtype}, not {dtypes[0]}')
      continue
    if not np.isfinite(array).all():
      problems['with numbers that are not finite'].append(name)
      continue
    shapes = tuple(tuple(expected[path].shape) for path in entry.paths)
    arrays = entry.transform.forward(array, shapes)
    for path, dtype, part in zip(entry.paths, dtypes, arrays, strict=True):
      flat[path] = part.astype(dtype, copy=False)
  problems.raise_if_any(source, hint)
  return flat


def invert(flat: Mapping[str, np.ndarray], rules: Rules) -> dict[str, np.ndarray]:
  """Flat parameters -> official state dict, constant buffers included.

  Raises:
    ValueError: the table has no rule, or two, for a parameter.
  """
  state_dict = {
    key: entry.transform.inverse(tuple(flat[path] for path in entry.paths))
    for key, entry in _plan(rules, flat).items()
  }
  for rule in rules:
    if isinstance(rule, Ignore) and rule.restore is not None:
      values = rule.restore
      stored = isinstance(values, np.ndarray)
      state_dict[rule.pattern] = values if stored else np.float32(values)
  return state_dict


def _plan(rules: Rules, expected: Mapping[str, ShapeDtype]) -> dict[str, _Entry]:
  """Official key -> entry, in the order of the model's parameters."""
  templates = [
    (_regex(path), rule)
    for rule in rules
    if isinstance(rule, Rule)
    for path in rule.paths
  ]
  plan, problems = {}, Problems()
  for path in expected:
    matches = [(m, r) for rx, r in templates if (m := rx.fullmatch(path))]
    if len(matches) != 1:
      problems['without a rule' if not matches else 'under two rules'].append(path)
      continue
    match, rule = matches[0]
    key = rule.pattern.format(**match.groupdict())
    if key in plan:
      if path not in plan[key].paths:
        problems['under two rules'].append(path)
      continue
    paths = tuple(template.format(**match.groupdict()) for template in rule.paths)
    if absent := [p for p in paths if p not in expected]:
      problems[f'packed with {path}, but absent'] += absent
      continue
    shapes = tuple(tuple(expected[p].shape) for p in paths)
    plan[key] = _Entry(paths, rule.transform.shape(shapes), rule.transform)
  problems.raise_if_any('the parameters and the table do not fit')
  return plan


def _assign(
  keys: Iterable[str],
  rules: Rules,
  plan: Mapping[str, _Entry],
  partial: bool,
  problems: Problems,
) -> dict[str, str]:
  """Planned key -> the name it has in the file; unknown and double names reported."""
  aliases = [
    (_regex(alias), rule.pattern)
    for rule in rules
    if isinstance(rule, Rule)
    for alias in rule.aliases
  ]
  passed = [_regex(r.pattern) for r in rules if partial or isinstance(r, Ignore)]
  found = {}
  for name in keys:
    key = _renamed(name, aliases)
    if key not in plan:
      if not any(regex.fullmatch(key) for regex in passed):
        problems['unknown'].append(name)
    elif key in found:
      problems['given twice'].append(f'{found[key]} and {name}')
    else:
      found[key] = name
  return found


def _renamed(name: str, aliases: Iterable[tuple[re.Pattern, str]]) -> str:
  """Today's official name of an old one; any other name stays."""
  for regex, pattern in aliases:
    if match := regex.fullmatch(name):
      return pattern.format(**match.groupdict())
  return name


def left_out(rules: Rules, official: Iterable[str]) -> list[str]:
  """What a file holds that is left out and told: lines for people, one a part."""
  templates = [
    (_regex(rule.pattern), rule.why)
    for rule in rules
    if isinstance(rule, Ignore) and rule.told
  ]
  if not templates:
    return []
  parts = collections.Counter(
    (name.partition('.')[0], why)
    for name in official
    for why in {why for regex, why in templates if regex.fullmatch(name)}
  )
  return [
    f'left out {count} tensors of {part}: {why}' for (part, why), count in parts.items()
  ]


def known_paths(rules: Rules, official: Iterable[str]) -> set[str]:
  """Our paths that a file's keys give."""
  templates = [
    (_regex(pattern), rule.paths)
    for rule in rules
    if isinstance(rule, Rule)
    for pattern in (rule.pattern, *rule.aliases)
  ]
  return {
    path.format(**match.groupdict())
    for name in official
    for regex, paths in templates
    if (match := regex.fullmatch(name))
    for path in paths
  }


def known_shapes(
  rules: Rules, official: Mapping[str, Shape]
) -> dict[str, tuple[int, ...]]:
  """Our path -> our shape of a file's tensors; those that need a head count left out.

  For sizing a model from a file before there is one to convert into.
  """
  templates = [
    (_regex(pattern), rule)
    for rule in rules
    if isinstance(rule, Rule)
    and isinstance(rule.transform, Identity | Permute | Widened | Patches)
    for pattern in (rule.pattern, *rule.aliases)
  ]
  known = {}
  for name, shape in official.items():
    for regex, rule in templates:
      if match := regex.fullmatch(name):
        path = rule.paths[0].format(**match.groupdict())
        known[path] = rule.transform.ours(tuple(shape))
  return known
