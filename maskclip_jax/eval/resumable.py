"""One pass over many examples that survives a kill, and that hosts share.

Each host takes every n-th example and accumulates what it finds. Which examples are
done is saved with what was accumulated every few of them, and in the end the states of
all hosts are added up: every example counts exactly once.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from maskclip_jax.eval import partial
from maskclip_jax.eval.metrics.metric import State

_DONE = 'done'


class Content(Protocol):
  """What a pass accumulates."""

  def state(self) -> State:
    """What was accumulated so far."""
    ...

  def merge(self, state: State) -> None:
    """Adds what another part of the pass has accumulated."""
    ...


def state_path(workdir: pathlib.Path, name: str) -> pathlib.Path:
  """Where this host's state of a pass lies."""
  return workdir / f'{name}-{jax.process_index()}-of-{jax.process_count()}.npz'


class Share:
  """This host's share of a pass.

  Attributes:
    todo: examples that are left, in their order.

  Args:
    content: empty; gets what an earlier run has saved.
    examples: how many there are, over all hosts.
    path: where the state is saved; None saves nothing.
    key: what the state is of.
    save_every: examples between two savings.

  Raises:
    ValueError: the file is damaged, or holds the state of another pass.
  """

  def __init__(
    self,
    content: Content,
    examples: int,
    path: pathlib.Path | None,
    key: Mapping[str, Any],
    save_every: int,
  ):
    self._content, self._path, self._key = content, path, key
    self._save_every, self._unsaved = save_every, 0
    self._done = np.zeros(examples, bool)
    self._mine = np.arange(jax.process_index(), examples, jax.process_count())
    state = None if path is None else partial.load(path, key)
    if state is not None:
      self._done = state.pop(_DONE)
      content.merge(state)
    self.todo: list[int] = self._mine[~self._done[self._mine]].tolist()

  @property
  def progress(self) -> tuple[int, int]:
    """How many examples this host has done, of how many."""
    return int(self._done[self._mine].sum()), len(self._mine)

  def finished(self, index: int) -> None:
    """The content holds one more example.

    Raises:
      OSError: the state cannot be saved.
    """
    self._done[index] = True
    self._unsaved += 1
    if self._unsaved >= self._save_every:
      self.save()

  def save(self) -> None:
    """Saves what is not saved yet.

    Raises:
      OSError: the place cannot be written to, or the disk is full.
    """
    if self._path is not None and self._unsaved:
      state = {**self._content.state(), _DONE: self._done}
      partial.save(self._path, self._key, state)
      self._unsaved = 0

  def gather(self) -> Sequence[State]:
    """The contents of all hosts, on every host.

    Raises:
      ValueError: an example was not done exactly once.
    """
    states = partial.gather({**self._content.state(), _DONE: self._done})
    times = np.sum([state.pop(_DONE) for state in states], axis=0)
    if not (times == 1).all():
      raise ValueError(
        f'{int((times != 1).sum())} examples were not judged exactly once: delete the '
        'states in the working directory and start again'
      )
    return states

  def forget(self) -> None:
    """Deletes the saved state."""
    if self._path is not None:
      self._path.unlink(missing_ok=True)
