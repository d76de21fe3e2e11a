"""Flat parameters: `{'visual/conv1/kernel': array}` <-> NNX modules and states.

Paths are API: bundles, conversion tables, optimiser groups and sharding rules all speak
of parameters by these names. Constants that travel with the weights (frozen batch
statistics) are listed like parameters.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskclip_jax.mapping.problems import Problems, dims
from maskclip_jax.systems.system import build

M = TypeVar('M', bound=nnx.Module)
Leaf = Any

# What products are taken with: layers that have one read all they have in `dtype`.
_MULTIPLIED = ('kernel', 'embedding')


def path_name(path: Iterable[str | int]) -> str:
  """A key path of a state as one string: ('blocks', 0, 'bias') -> 'blocks/0/bias'."""
  return '/'.join(map(str, path))


def flatten(tree: nnx.Module | nnx.State) -> dict[str, Leaf]:
  """Path -> value of every variable, in a stable order.

  Args:
    tree: a module or a state; abstract ones give `jax.ShapeDtypeStruct` values.
  """
  state = nnx.state(tree) if isinstance(tree, nnx.Module) else tree
  return {path_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def unflatten(flat: Mapping[str, Leaf], like: nnx.State) -> nnx.State:
  """The inverse of `flatten`, in the structure and variable types of a state.

  Raises:
    ValueError: the paths are not exactly those of `like`.
  """
  leaves = list(nnx.to_flat_state(like))
  names = [path_name(path) for path, _ in leaves]
  problems = Problems()
  problems['missing'] = [name for name in names if name not in flat]
  problems['unknown'] = sorted(set(flat) - set(names))
  problems.raise_if_any('the parameters do not fit')
  return nnx.from_flat_state(
    [(path, leaf.replace(flat[path_name(path)])) for path, leaf in leaves]
  )


def abstract(build: Callable[[], M]) -> M:
  """The module `build` would return, with shapes instead of arrays: no memory used."""
  return nnx.eval_shape(build)


class ConstantRngs:
  """Stands in for `nnx.Rngs` where the initial values are never used.

  Counting draws while tracing costs time that grows with the square of the model's
  size (flax 0.12): 18 s for a MasQCLIP that takes 0.7 s with one key for everything.
  """

  def __init__(self):
    self._key = jax.random.key(0)

  def __call__(self) -> jax.Array:
    return self._key

  def __getattr__(self, name: str) -> 'ConstantRngs':
    """Every stream, such as `rngs.params`, is this one."""
    if name.startswith('_'):
      raise AttributeError(name)
    return self


def abstract_model(system: str, config: Any, *, dtype=jnp.float32) -> nnx.Module:
  """A model with shapes instead of arrays.

  Args:
    system: the name of a system.
    config: that system's config.
    dtype: compute type; parameters are float32.
  """
  rngs = ConstantRngs()
  return abstract(lambda: build(system, config, dtype=dtype, rngs=rngs))


def read_narrowly(model: nnx.Module, dtype) -> frozenset[str]:
  """Paths of the weights that a model reads in a type alone.

  They are the kernels, the embeddings and the biases beside them of layers whose
  compute type it is; norms, positions, scales and what decides where to look are read
  in float32.
  """
  paths = set()
  for path, module in nnx.iter_modules(model):
    held = vars(module)
    if held.get('dtype') == dtype and not held.keys().isdisjoint(_MULTIPLIED):
      names = [n for n in (*_MULTIPLIED, 'bias') if held.get(n) is not None]
      paths |= {path_name((*path, name)) for name in names}
  return frozenset(paths)


def narrowed(model: M, dtype) -> M:
  """An abstract module whose weights have the type that it reads them in.

  The results are those of float32 weights, which are rounded on every call, while
  memory and the bytes to read are halved. A model to be trained keeps float32.

  Args:
    model: from `abstract_model`.
    dtype: its compute type.
  """
  graphdef, state = nnx.split(model)
  shapes, narrow = flatten(state), read_narrowly(model, dtype)
  typed = {
    path: jax.ShapeDtypeStruct(leaf.shape, dtype if path in narrow else leaf.dtype)
    for path, leaf in shapes.items()
  }
  return nnx.merge(graphdef, unflatten(typed, state))


def load_into(
  model: M,
  flat: Mapping[str, np.ndarray | jax.Array],
  *,
  source: str = 'the parameters',
) -> M:
  """A module with its arrays taken from `flat`, one at a time.

  With a mapping that reads from disk, memory peaks at the model plus one tensor.

  Args:
    model: the module to fill, best an `abstract` one; it is left as it is.
    flat: path -> array; narrower floats are widened to the model's dtype, and wider
      ones are rounded where the model is `narrowed`.
    source: what to call `flat` in an error.

  Raises:
    ValueError: paths are missing or unknown, or an array has another shape or a dtype
      that would lose precision.
  """
  graphdef, state = nnx.split(model)
  wanted = flatten(state)
  problems = Problems()
  problems['missing'] = [path for path in wanted if path not in flat]
  problems['unknown'] = sorted(set(flat) - set(wanted))
  problems.raise_if_any(source)
  loaded = {}
  for path, leaf in wanted.items():
    array = flat[path]
    if tuple(array.shape) != tuple(leaf.shape):
      got, expected = dims(tuple(array.shape)), dims(tuple(leaf.shape))
      problems['misshapen'].append(f'{path} is {got}, expected {expected}')
    elif not _fits(array.dtype, leaf.dtype):
      problems['of a wrong type'].append(f'{path} is {array.dtype}, not {leaf.dtype}')
    else:
      # Waiting for the copy frees the input before the next one is read.
      loaded[path] = jax.block_until_ready(jnp.asarray(array, leaf.dtype))
  problems.raise_if_any(source)
  return nnx.merge(graphdef, unflatten(loaded, state))


def _fits(given: np.dtype, wanted: np.dtype) -> bool:
  """Whether arrays of a type become parameters of another."""
  if wanted == jnp.bfloat16:
    return given in (jnp.bfloat16, jnp.float16, jnp.float32)
  return np.can_cast(given, wanted, 'safe')


def split(model: M) -> tuple[Callable[[Mapping[str, Leaf]], M], dict[str, Leaf]]:
  """A module as a function of its flat parameters.

  Returns:
    What makes the module of parameters, also of traced ones; and the module's own.
  """
  graphdef, state = nnx.split(model)
  # Shapes only: whoever calls it need not keep these arrays.
  like = jax.eval_shape(lambda: state)
  return lambda flat: nnx.merge(graphdef, unflatten(flat, like)), flatten(state)


def select(paths: Iterable[str], *patterns: str) -> list[str]:
  """Paths that one of the regular expressions matches in full, in their own order.

  Raises:
    ValueError: a pattern matches nothing: a typo would silently select too little.
  """
  paths = list(paths)
  chosen = set()
  for pattern in patterns:
    regex = re.compile(pattern)
    matched = {path for path in paths if regex.fullmatch(path)}
    if not matched:
      examples = ', '.join(paths[:3])
      raise ValueError(f'no parameter matches {pattern!r}; there are {examples}, ...')
    chosen |= matched
  return [path for path in paths if path in chosen]


def count(flat: Mapping[str, Leaf], *patterns: str) -> int:
  """Number of scalars in the paths that match (see `select`), by default in all."""
  return sum(
    int(np.prod(flat[path].shape, dtype=np.int64))
    for path in select(flat, *(patterns or ('.*',)))
  )
