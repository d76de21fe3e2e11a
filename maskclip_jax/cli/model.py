"""What the commands that run a model share: its flags, its loading, its compilation."""

import argparse
import os
import pathlib
from typing import TYPE_CHECKING

from maskclip_jax.cli.messages import PROGRAM, note

if TYPE_CHECKING:
  from maskclip_jax.compilations import Compilations


def add_model_flags(parser: argparse.ArgumentParser) -> None:
  """Compute type, random weights and the cache; `--model` is the command's own."""
  parser.add_argument('--quiet', action='store_true', help='print nothing but problems')
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  parser.add_argument(
    '--pixel_dtype',
    help='of the pixel decoder: bfloat16 is half the bytes, and moves masks (float32, '
    'as published)',
  )
  parser.add_argument(
    '--random_weights',
    type=int,
    metavar='SEED',
    help='build a named model with random weights, to try the path out',
  )
  parser.add_argument(
    '--cache_dir',
    type=pathlib.Path,
    default=default_cache(),
    help='keeps text vectors and compiled programs between runs (%(default)s)',
  )
  parser.add_argument(
    '--no_cache',
    dest='cache_dir',
    action='store_const',
    const=None,
    help='keep nothing between runs',
  )


def default_cache() -> pathlib.Path | None:
  """The user's cache; None where the user has no home, as in some containers."""
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  return None if home.startswith('~') else pathlib.Path(home) / PROGRAM


def load_segmenter(arguments: argparse.Namespace, *, float32_weights: bool = False):
  """The model that the flags name.

  Args:
    arguments: the flags.
    float32_weights: keep them so, whatever type computes.

  Raises:
    FileNotFoundError, ValueError: there is none, or it is damaged.
  """
  from maskclip_jax.segmenter import Segmenter, load

  types = {
    'dtype': arguments.dtype,
    'pixel_dtype': arguments.pixel_dtype,
    'float32_weights': float32_weights,
  }
  if arguments.random_weights is None:
    return load(arguments.model, cache_dir=arguments.cache_dir, **types)
  note(
    f'{arguments.model} has RANDOM weights (seed {arguments.random_weights}): the '
    'result means nothing'
  )
  return Segmenter.from_preset(arguments.model, seed=arguments.random_weights, **types)


def model_fingerprint(arguments: argparse.Namespace) -> str:
  """What tells the weights of the model that the flags name from all others."""
  from maskclip_jax.checkpoints import bundle
  from maskclip_jax.checkpoints.restore import find_bundle

  if arguments.random_weights is not None:
    return f'{arguments.model} of seed {arguments.random_weights}'
  return bundle.load(find_bundle(arguments.model, arguments.cache_dir)).fingerprint


def tell_limits(model: str, quiet: bool) -> None:
  """Says so where a model is not made for photographs, and what to fetch for them."""
  from maskclip_jax import zoo

  card = zoo.cards().get(model)
  if card is None or not card.limits or quiet:
    return
  other = zoo.cards()[zoo.FOR_PHOTOGRAPHS]
  note(
    f'note: {model} {card.limits}; for those fetch and convert another, such as '
    f'{zoo.FOR_PHOTOGRAPHS} ({other.url}): `{PROGRAM} models list` shows all'
  )


def told(compiled: 'Compilations') -> str:
  """Time and memory of compiling, in a line."""
  from maskclip_jax.train.records.log import memory_gb

  return (
    f'{compiled.seconds:.1f} s compiling {compiled.programs} programs; at most '
    f'{memory_gb():.1f} GB of memory'
  )


def watch_compilation(cache_dir: pathlib.Path | None) -> 'Compilations':
  """Counts compilations from now on; keeps their results in the cache directory.

  What the environment says of JAX's cache (`JAX_COMPILATION_CACHE_DIR`) comes before
  the user's cache, and after a directory that a flag names.

  Raises:
    ValueError: there is no device to compile for.
  """
  import jax

  from maskclip_jax import jax_settings
  from maskclip_jax.compilations import Compilations

  jax_settings.check_devices()
  counter = Compilations()
  counter.listen()
  if cache_dir is not None:
    # The defaults keep only programs that took a second or more to compile.
    for name, value in (
      ('jax_compilation_cache_dir', str(cache_dir / 'compiled')),
      ('jax_persistent_cache_min_compile_time_secs', 0.0),
      ('jax_persistent_cache_min_entry_size_bytes', -1),
    ):
      if cache_dir != default_cache() or name.upper() not in os.environ:
        jax.config.update(name, value)
  return counter
