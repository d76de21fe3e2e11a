"""Dataclasses from plain values: what is converted, and how mistakes are named."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from maskclip_jax import plain


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int
  scale: float = 1.0
  kind: Literal['a', 'b'] = 'a'

  def __post_init__(self):
    if self.size < 0:
      raise ValueError(f'size must not be negative, not {self.size}')


@dataclasses.dataclass(frozen=True)
class Other:
  width: int


@dataclasses.dataclass(frozen=True)
class Outer:
  inner: Inner
  parts: tuple[Inner, ...] = ()
  pair: tuple[float, float] = (0.0, 1.0)
  name: str | None = None
  either: Inner | Other | None = None
  kind: Literal['x', 'y'] | None = None
  rules: tuple[tuple[str, str | tuple[str | None, ...]], ...] = ()
  table: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
  free: Any = None
  flag: bool = False


FULL = Outer(
  Inner(1, 2.0, 'b'),
  parts=(Inner(2), Inner(3)),
  pair=(0.5, 2.0),
  name='n',
  either=Other(4),
  kind='y',
  rules=(('.*', 'all'), ('a', (None, 'b'))),
  table={'t': Inner(5)},
  free={'any': [1, 'x']},
  flag=True,
)


def test_values_survive_json():
  text = json.dumps(plain.to_dict(FULL))
  assert plain.read(Outer, json.loads(text), 'config') == FULL


def test_a_whole_number_is_a_float():
  outer = plain.read(Outer, {'inner': {'size': 1, 'scale': 3}, 'pair': [0, 2]}, 'c')
  assert isinstance(outer.inner.scale, float)
  assert all(isinstance(side, float) for side in outer.pair)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'iner': {}}, r"c\.iner is not a field: did you mean 'inner'"),
    ({'zzz': 1}, r'c\.zzz is not a field: known: inner, parts, '),
    ({'inner': {'siz': 1}}, r"c\.inner\.siz is not a field: did you mean 'size'\?"),
    ({'inner': {}}, r'c\.inner needs size'),
    ({'inner': 3}, r'c\.inner must be a table of fields, not 3'),
    ({'inner': {'size': -1}}, r'c\.inner: size must not be negative, not -1'),
    ({'inner': {'size': 1.5}}, r'c\.inner\.size must be int, not 1\.5'),
    ({'inner': {'size': True}}, r'c\.inner\.size must be int, not True'),
    ({'flag': 1}, r'c\.flag must be bool, not 1'),
    ({'parts': [{'size': 1}, {}]}, r'c\.parts\[1\] needs size'),
    ({'parts': 'ab'}, r"c\.parts must be a list such as \['ab'\], not 'ab'"),
    ({'pair': [1]}, r'c\.pair must have 2 entries, not 1'),
    ({'kind': 'z'}, r"c\.kind must be one of 'x', 'y', not 'z'"),
    ({'name': 3}, r'c\.name must be str, not 3'),
    ({'table': {'t': {'sizes': 1}}}, r'c\.table\.t\.sizes is not a field'),
  ],
)
def test_mistakes_are_named_by_their_full_field(changes, message):
  with pytest.raises(ValueError, match=message):
    plain.read(Outer, {'inner': {'size': 1}, **changes}, 'c')


def test_a_change_keeps_what_it_does_not_name():
  changed = plain.change(FULL, {'inner': {'scale': 7}, 'name': None}, 'c')
  assert changed == dataclasses.replace(FULL, inner=Inner(1, 7.0, 'b'), name=None)
  with pytest.raises(ValueError, match=r"c\.inner\.kinds is not .* 'kind'"):
    plain.change(FULL, {'inner': {'kinds': 'a'}}, 'c')
  with pytest.raises(ValueError, match=r'c\.inner: size must not be negative'):
    plain.change(FULL, {'inner': {'size': -2}}, 'c')


def test_former_names_of_fields_are_read():
  """Runs and commands of earlier versions write them."""

  @dataclasses.dataclass(frozen=True)
  class Start:
    target_prefix: str = plain.renamed('at', '')

  assert plain.read(Start, {'at': 'clip'}, 'start') == Start('clip')
  assert plain.change(Start(), {'at': 'clip'}, 'start') == Start('clip')
  assert plain.to_dict(Start('clip')) == {'target_prefix': 'clip'}
