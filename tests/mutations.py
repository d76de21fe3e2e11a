"""Seeded faults in files: bytes as disks and networks change them, and values of JSON
as other tools and people write them."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

# Nesting that Python's reader does not take, and nesting that it takes.
_TOO_DEEP, _DEEP = '[too deep]', '[deep]'
_NESTING = {_TOO_DEEP: 5_000, _DEEP: 200}

_EXTREMES = (b'\xff' * 4, b'\0' * 4, b'\x7f\xff\xff\xff', b'\0\0\0\x80')

ODD_VALUES = (
  *(None, True, False, 0, -1, 1, 2, 7, 10**9, 2**31, 2**63, 10**400, -(10**9)),
  *(0.5, -0.5, 1e-30, float('nan'), float('inf'), 3.0),
  *('', '9', 'a', '1e9', '../../etc/passwd', 'ä\u200b\ud800', 'x' * 10**6),
  *([], {}, [None], [[]], [1, 2], {'a': 1}, [0] * 1000, _TOO_DEEP, _DEEP),
)


def changed_bytes(rng: np.random.Generator, data: bytes) -> bytes:
  """The bytes of a file with one to three faults, mostly near its beginning."""
  data = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    size = len(data)
    if not size:
      break
    near = rng.integers(0, min(size, 64) if rng.random() < 0.5 else size)
    length = int(rng.integers(1, max(2, size // 4)))
    match rng.integers(0, 7):
      case 0:
        del data[near:]
      case 1:
        del data[near : near + length]
      case 2:
        data[near] ^= 1 << rng.integers(0, 8)
      case 3:
        data[near : near + 4] = _EXTREMES[rng.integers(len(_EXTREMES))]
      case 4:
        data[near : near + length] = bytes(len(data[near : near + length]))
      case 5:
        data[near:near] = rng.bytes(length)
      case 6:
        data += data[near : near + length]
  return bytes(data)


def changed_json(rng: np.random.Generator, value: Any) -> bytes:
  """JSON text of a value with one or two of its parts changed."""
  value = copy.deepcopy(value)
  for _ in range(rng.integers(1, 3)):
    value = _changed(rng, value)
  text = json.dumps(value)
  for mark, depth in _NESTING.items():
    text = text.replace(json.dumps(mark), '[' * depth + ']' * depth)
  return text.encode()


def _changed(rng: np.random.Generator, value: Any) -> Any:
  places = list(_places(value))
  if not places:
    return _odd(rng)
  holder, key = places[rng.integers(len(places))]
  match rng.integers(0, 6):
    case 0:
      del holder[key]
    case 1 if isinstance(holder, list):
      holder.append(copy.deepcopy(holder[key]))
    case 1:
      name = [f'{key}2', 'x' * 10**6, ''][rng.integers(3)]
      holder[name] = holder.pop(key)
    case 2:
      there, other = places[rng.integers(len(places))]
      holder[key] = copy.deepcopy(there[other])
    case 3:
      holder[key] = [holder[key]] if rng.random() < 0.5 else str(holder[key])
    case _:
      holder[key] = _odd(rng)
  return value


def _odd(rng: np.random.Generator) -> Any:
  return copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
  """Every list and table in a value, with each of its keys; large lists in part."""
  if isinstance(value, dict):
    keys = list(value)
  elif isinstance(value, list):
    keys = list(range(min(len(value), 8)))
  else:
    return
  for key in keys:
    yield value, key
    yield from _places(value[key])
