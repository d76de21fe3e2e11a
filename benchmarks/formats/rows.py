"""What a row of the table of formats is, and how one is measured."""

import contextlib
import dataclasses
import io
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Num

from maskclip_jax.__main__ import main


@dataclasses.dataclass(frozen=True)
class Made:
  """Files that a library has saved.

  Attributes:
    source: what `convert` is given.
    difference: from the directory of the bundle made of it to the largest difference
      between the outputs of the library and ours; see `relative`.
    arguments: further ones of `convert`, such as '--clip FILE'.
    convert: whether it becomes a bundle; if not, `difference` is given the source.
  """

  source: pathlib.Path
  difference: Callable[[pathlib.Path], float]
  arguments: Sequence[str] = ()
  convert: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
  """One format.

  Attributes:
    library: whose it is, by the name it is installed by: 'transformers'.
    network: its class and size: 'Mask2Former, Swin-T, 133 classes'.
    files: how it is saved: 'safetensors in 3 parts'.
    make: builds the network with seeded weights and saves it into a folder.
    tolerance: largest difference that counts as the same.
    refused: whether the files are expected to be refused, with a reason.
  """

  library: str
  network: str
  files: str
  make: Callable[[pathlib.Path], Made]
  tolerance: float = 1e-5
  refused: bool = False

  @property
  def title(self) -> str:
    """What `--only` and messages call it."""
    return f'{self.library}: {self.network}, {self.files}'


@dataclasses.dataclass(frozen=True)
class Result:
  """What came of a row.

  Attributes:
    row: the row.
    message: what was printed last, or why the files were refused.
    difference: the largest one from the library's outputs; None where they were.
  """

  row: Row
  message: str
  difference: float | None

  @property
  def good(self) -> bool:
    """Whether the row is as expected."""
    if self.row.refused or self.difference is None:
      return self.row.refused and self.difference is None
    return self.difference <= self.row.tolerance

  def to_dict(self) -> dict:
    """As plain JSON values."""
    return {'difference': self.difference, 'message': self.message}


def measure(row: Row) -> Result:
  """Makes the files of a row, reads them, compares the outputs."""
  with tempfile.TemporaryDirectory() as folder:
    made = row.make(pathlib.Path(folder))
    read, message = made.source, ''
    if made.convert:
      read = pathlib.Path(folder) / 'bundle'
      status, printed = _convert(made, read)
      message = printed.strip().splitlines()[-1].replace(f'{folder}/', '')
      if status:
        return Result(row, message, None)
    try:
      return Result(row, message, float(made.difference(read)))
    except ValueError as error:
      reason = ' '.join(str(error).split())
      return Result(row, reason.replace(f'{folder}/', ''), None)


def _convert(made: Made, bundle: pathlib.Path) -> tuple[int, str]:
  """Runs the command; its status and all that it printed."""
  command = ['convert', str(made.source), '--to', str(bundle), *made.arguments]
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    status = main(command)
  return status, printed.getvalue()


def relative(ours: Num[np.ndarray, '...'], theirs: Num[np.ndarray, '...']) -> float:
  """The largest difference of two arrays, relative to the largest value of theirs."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if ours.shape != theirs.shape:
    raise ValueError(f'ours is {ours.shape} and theirs {theirs.shape}')
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def seed_weights(network, seed: int = 0) -> None:
  """Gives every parameter and statistic of a PyTorch network a value far from trivial.

  Norms stay near one, so that values neither vanish nor explode in deep networks.
  """
  import torch

  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in network.state_dict().items():
      if not value.is_floating_point():
        continue
      noise = torch.randn(value.shape, generator=generator)
      if name.endswith('running_var'):
        value.copy_(0.5 + torch.rand(value.shape, generator=generator))
      elif value.ndim < 2:
        scale = name.endswith(('weight', 'gamma'))
        value.copy_((1 if scale else 0) + 0.1 * noise)
      else:
        value.copy_(noise * value[0].numel() ** -0.5)
