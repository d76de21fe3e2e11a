"""A bundle in another precision: half of the bytes to store and to send.

Only what lies on the disk is narrower. Loading widens it again, and everything is
computed as before.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from maskclip_jax.checkpoints import bundle

DTYPES = {
  'float32': np.dtype(np.float32),
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
}


class _Narrowed(Mapping[str, np.ndarray]):
  """Parameters in another type, converted when they are looked up."""

  def __init__(self, parameters: Mapping[str, np.ndarray], dtype: np.dtype):
    self._parameters, self._dtype = parameters, dtype

  def __getitem__(self, path: str) -> np.ndarray:
    array = np.asarray(self._parameters[path])
    with np.errstate(over='ignore'):
      narrowed = array.astype(self._dtype)
    if np.isfinite(array).all() and not np.isfinite(narrowed.astype(np.float32)).all():
      raise ValueError(
        f'{path} has values beyond {self._dtype}: store it as bfloat16 or float32'
      )
    return narrowed

  def __iter__(self) -> Iterator[str]:
    return iter(self._parameters)

  def __len__(self) -> int:
    return len(self._parameters)


def repack(
  directory: str | os.PathLike, to: str | os.PathLike, dtype: str = 'float32'
) -> str:
  """Writes a bundle again, its arrays in another type.

  Args:
    directory: a bundle, or the workdir of a finished run.
    to: the new bundle's directory.
    dtype: a key of `DTYPES`.

  Returns:
    What was done, in one line.

  Raises:
    FileNotFoundError, ValueError: no bundle, no such type, values that it cannot hold,
      or no place for the new one.
  """
  if dtype not in DTYPES:
    raise ValueError(f'dtype must be one of {", ".join(DTYPES)}, not {dtype!r}')
  opened = bundle.load(bundle.locate(directory))
  card = opened.directory / bundle.CARD
  text = card.read_text() if card.is_file() else ''
  bundle.save(
    to,
    opened.config,
    _Narrowed(opened.parameters, DTYPES[dtype]),
    source={**opened.source, 'stored_as': dtype},
    card=f'{text}\nStored as {dtype}.\n',
    tokenizer=opened.tokenizer,
  )
  size = (pathlib.Path(to) / bundle.TENSORS).stat().st_size
  return f'{to}: {len(opened.parameters)} arrays as {dtype}, {size / 1e6:.1f} MB'
