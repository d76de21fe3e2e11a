"""Starting values: what files give, what is drawn at random, and what follows.

Every part that a run says it starts from must be given whole: a checkpoint of another
system or of other sizes is an error that names the first differences, never a model
that is half random.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt32

from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.backbone import read_backbone
from maskclip_jax.checkpoints.tensor_file import TensorFile
from maskclip_jax.mapping.problems import Problems, dims
from maskclip_jax.systems import system
from maskclip_jax.train.config import StartFrom
from maskclip_jax.train.task import MODEL, Flat, Task, flatten_modules

# More draws than any model makes.
_KEYS = 8192


class Source(Mapping[str, np.ndarray]):
  """A source under this model's paths; arrays are read when they are looked up.

  Attributes:
    name: the source, for messages.
    fingerprint: the fingerprint of its contents.
  """

  def __init__(self, start: StartFrom):
    self.name, self._start = start.source, start
    arrays, self.fingerprint = _open(start.source)
    prefix = f'{start.source_prefix}/' if start.source_prefix else ''
    to = f'{start.target_prefix}/' if start.target_prefix else ''
    kept = [re.compile(pattern) for pattern in start.keep_random]
    self._names = {
      to + path.removeprefix(prefix): path for path in arrays if path.startswith(prefix)
    }
    self._names = {
      path: own
      for path, own in self._names.items()
      if not any(regex.fullmatch(path) for regex in kept)
    }
    if not self._names:
      raise ValueError(f'{start.source} has no part {start.source_prefix!r}')
    self._arrays = arrays

  def __getitem__(self, path: str) -> np.ndarray:
    return np.asarray(self._arrays[self._names[path]], np.float32)

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Path -> shape; no tensor is read."""
    if isinstance(self._arrays, TensorFile):
      known = self._arrays.shapes()
    else:
      known = {path: array.shape for path, array in self._arrays.items()}
    return {path: tuple(known[own]) for path, own in self._names.items()}

  def covers(self, path: str, helpers: Sequence[str]) -> bool:
    """Whether a path of this model is in the part that this source is to give."""
    start = self._start
    if any(re.fullmatch(pattern, path) for pattern in start.keep_random):
      return False
    if start.target_prefix:
      return path.startswith(f'{start.target_prefix}/')
    return not any(path.startswith(f'{helper}/') for helper in helpers)


def _open(source: str) -> tuple[Mapping[str, np.ndarray], str]:
  path = pathlib.Path(source)
  # Another folder may be the repository of a backbone.
  if path.is_dir() and bundle.is_bundle(bundle.locate(path)):
    opened = bundle.load(bundle.locate(path))
    return opened.parameters, opened.fingerprint
  flat = read_backbone(path)
  return flat, bundle.fingerprints(flat)[0]


@dataclasses.dataclass(frozen=True)
class StartingValues(Mapping[str, np.ndarray]):
  """Starting values of a whole model, of its helpers, and the constants.

  Attributes:
    sources: opened files.
    drawn: values that no file gives.
    constants: what else the loss reads; it follows from the values.
  """

  sources: tuple[Source, ...]
  drawn: Mapping[str, np.ndarray]
  constants: Flat = dataclasses.field(default_factory=dict)

  def __getitem__(self, path: str) -> np.ndarray:
    for source in self.sources:
      if path in source:
        return source[path]
    return self.constants[path] if path in self.constants else self.drawn[path]

  def __iter__(self) -> Iterator[str]:
    for source in self.sources:
      yield from source
    yield from self.drawn
    yield from self.constants

  def __len__(self) -> int:
    return sum(map(len, (*self.sources, self.drawn, self.constants)))

  def record(self) -> list[dict[str, str]]:
    """What the values come from, for the run's records."""
    return [{'source': s.name, 'fingerprint': s.fingerprint} for s in self.sources]


def open_sources(start: Sequence[StartFrom]) -> tuple[Source, ...]:
  """Opens everything a run starts from.

  Raises:
    FileNotFoundError, ValueError: a source that is missing or no checkpoint.
  """
  return tuple(Source(one) for one in start)


def starting_values(
  task: Task, start: Sequence[StartFrom], seed: int
) -> StartingValues:
  """The starting values of a task's model, whole, of its helpers, and its constants.

  Args:
    task: tells shapes and how values are drawn.
    start: where values come from; the first that has a path gives it.
    seed: the seed of what is drawn.

  Raises:
    FileNotFoundError, ValueError: see above.
  """
  modules = task.modules()
  shapes = flatten_modules(modules)
  helpers = [name for name in modules if name != MODEL]
  sources = open_sources(start)
  for source in sources:
    _check(source, shapes, helpers)
  given = set().union(*sources)
  missing = [path for path in shapes if path not in given]
  drawn = draw(functools.partial(_fresh, task), missing, seed)
  own = StartingValues(sources, drawn)
  derived = {path: task.derive(own, path) for path in missing}
  drawn = {p: drawn[p] if value is None else value for p, value in derived.items()}
  return StartingValues(
    sources, drawn, task.constant_values(StartingValues(sources, drawn))
  )


def _fresh(task: Task, rngs: Any) -> dict[str, jax.Array]:
  """Every path of the whole model and of the helpers, freshly initialised."""
  return flatten_modules(task.modules(functools.partial(system.build, rngs=rngs)))


def _check(
  source: Source, shapes: Mapping[str, jax.ShapeDtypeStruct], helpers: Sequence[str]
) -> None:
  problems = Problems()
  problems['missing'] = [
    path for path in shapes if source.covers(path, helpers) and path not in source
  ]
  problems['unknown'] = sorted(path for path in source if path not in shapes)
  problems.raise_if_any(f'{source.name} does not fit what is trained')
  for path, shape in source.shapes().items():
    if shape != tuple(shapes[path].shape):
      expected = dims(tuple(shapes[path].shape))
      problems['misshapen'].append(f'{path} is {dims(shape)}, expected {expected}')
  problems.raise_if_any(f'{source.name} does not fit what is trained')


class _Draws:
  """Stands in for `nnx.Rngs`: a list of keys, which costs nothing to trace."""

  def __init__(self, keys: UInt32[np.ndarray, 'n 2']):
    self._keys = iter(keys)

  def __call__(self) -> jax.Array:
    return jax.random.wrap_key_data(next(self._keys))

  def __getattr__(self, name: str) -> '_Draws':
    if name.startswith('_'):
      raise AttributeError(name)
    return self


def draw(
  build: Callable[[Any], Mapping[str, jax.Array]], paths: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
  """The freshly initialised values of some paths; the others cost nothing."""
  if not paths:
    return {}
  keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), _KEYS)))

  def program() -> dict[str, jax.Array]:
    flat = build(_Draws(keys))
    return {path: flat[path] for path in paths}

  # Hundreds of random draws take longer to optimise than to run.
  cpu = jax.default_backend() == 'cpu'
  options = {'xla_backend_optimization_level': 0} if cpu else None
  drawn = jax.jit(program, compiler_options=options)()
  return {path: np.asarray(value) for path, value in drawn.items()}
