"""JAX's global settings that the programs of this package are written for.

Others may be set around them: 64 bits and strict promotion for one's own programs,
checks for a search after an error. They change what the same lines compute, or refuse
what is meant: sums of arrays of different ranks, minus infinity for columns that do not
exist, one key for values that are never used.
"""

import contextlib
import os
from collections.abc import Iterator

import jax


def check_devices() -> None:
  """Finds out whether JAX can compute at all, before anything is loaded.

  Raises:
    ValueError: it finds no device of the kinds that it is told to use.
  """
  try:
    jax.devices()
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'JAX finds no device (JAX_PLATFORMS is {os.environ.get("JAX_PLATFORMS")!r}): '
      f'{reason}'
    ) from None


@contextlib.contextmanager
def own() -> Iterator[None]:
  """32 bits and NumPy's rules of promotion, in this thread, whatever is set globally.

  Also a decorator, but not of generators. What says how, and not what, is computed
  stays as it is: precision of products, compilation cache, a search for NaN.
  """
  with (
    jax.enable_x64(False),
    jax.numpy_rank_promotion('allow'),
    jax.numpy_dtype_promotion('standard'),
    jax.debug_infs(False),
    jax.debug_key_reuse(False),
    jax.transfer_guard('allow'),
  ):
    yield
