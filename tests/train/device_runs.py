"""Runs of tiny stages on some of this process's fake devices, step by step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_stages

from maskclip_jax.checkpoints.random_weights import random_array
from maskclip_jax.train.mesh import MeshConfig, make_mesh
from maskclip_jax.train.starting import StartingValues, starting_values
from maskclip_jax.train.step import make_program
from maskclip_jax.train.task import flatten_modules, make_task

STEPS = 9
# Sums over devices are in another order: a few units in the last place of float32. Adam
# moves as far by gradients that are mostly rounding as by others, so that grows with
# every step.
TOLERANCE = 1e-5


@functools.cache
def starting(stage: str) -> StartingValues:
  """Values that take nothing to compile, where a program of all initialisers takes
  longer than the step."""
  task = make_task(tiny_stages.stage(stage))
  shapes = flatten_modules(task.modules())
  own = StartingValues(
    (), {path: random_array(path, leaf.shape, seed=0) for path, leaf in shapes.items()}
  )
  return dataclasses.replace(own, constants=task.constant_values(own))


class Run:
  """A run in progress.

  Args:
    stage: one of `tiny_stages.STAGES`.
    mesh_config: how the devices divide it.
    devices: as many as that takes.
    **changes: of the stage's values; without `start` it starts at random.
  """

  def __init__(self, stage: str, mesh_config: MeshConfig, devices, **changes):
    config = tiny_stages.stage(
      stage, data={'batch_size': 8}, total_steps=STEPS, **changes
    )
    self.config = dataclasses.replace(config, mesh=mesh_config)
    self._program = make_program(self.config, make_mesh(mesh_config, devices))
    start = tuple(self.config.start.values())
    self.state = self._program.start(
      starting_values(self._program.task, start, self.config.seed)
      if start
      else starting(stage)
    )

  def go(self, steps: int, before=None) -> list[dict[str, float]]:
    """Takes steps; what each reports. `before` is called with a step's number."""
    found, key = [], jax.random.key(self.config.seed)
    with self._program.stream(int(self.state.step)) as stream:
      for number in range(steps):
        if before is not None:
          before(number)
        batch = self._program.batch(next(stream))
        self.state, terms = self._program.step(self.state, batch, key)
        found.append({name: float(value) for name, value in terms.items()})
    return found

  def take_over(self, state):
    """Goes on from another run's state, laid out as this run's."""
    self.state = jax.tree.map(
      lambda value, own: jax.device_put(value, own.sharding), state, self.state
    )


def on_one(stage: str, **changes) -> Run:
  """A run on one device."""
  return Run(stage, MeshConfig(data=1), jax.devices()[:1], **changes)


def followed(stage: str) -> tuple[list, list[dict[str, float]]]:
  """A stage's states before each of three steps on one device, and what those steps
  report."""
  one, states = on_one(stage), []
  terms = one.go(3, lambda _: states.append(jax.device_get(one.state)))
  return states, terms


def assert_eight_are_one(
  stage: str, mesh: MeshConfig, states: list, expected: list[dict[str, float]]
) -> None:
  """Steps on eight devices report what those on one device did.

  Matching and pseudo masks choose: two runs left to themselves part for good where two
  choices are equal but for rounding, so here every step starts from what one device has
  reached.
  """
  assert len(jax.devices()) == 8
  eight = Run(stage, mesh, jax.devices())
  found = eight.go(len(states), lambda number: eight.take_over(states[number]))
  for step, (x, y) in enumerate(zip(found, expected, strict=True)):
    assert x == pytest.approx(y, rel=TOLERANCE, abs=1e-6), step


def assert_parts_are_the_whole(stage: str, whole: list[dict[str, float]]) -> None:
  """Two steps of batches in two parts report what the first two of a run did. Means
  over the masks of a batch, pairs with all others, and random points stay those of the
  whole; sums in another order are left."""
  parts = on_one(stage, optim={'accumulate': 2}).go(2)
  for a, b in zip(whole[:2], parts, strict=True):
    assert a.keys() == b.keys()
    np.testing.assert_allclose(b['loss'], a['loss'], rtol=1e-5)
    np.testing.assert_allclose(b['grad_norm'], a['grad_norm'], rtol=1e-4)
