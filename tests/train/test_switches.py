"""What changes memory and speed changes no loss, or no more than its rounding does."""

import functools

import jax
import numpy as np
import pytest
import tiny_stages

from maskclip_jax.train.mesh import make_mesh
from maskclip_jax.train.starting import starting_values
from maskclip_jax.train.step import make_program

pytestmark = pytest.mark.slow


def two_steps(stage: str, accumulate: int = 1, **switches) -> list[dict[str, float]]:
  """What the first two steps report, on one device."""
  config = tiny_stages.stage(
    stage,
    data={'batch_size': 4},
    mesh={'data': 1},
    optim={'accumulate': accumulate},
    **switches,
  )
  program = make_program(config, make_mesh(config.mesh, jax.devices()[:1]))
  state = program.start(starting_values(program.task, (), config.seed))
  found = []
  with program.stream(0) as stream:
    for _ in range(2):
      batch = program.batch(next(stream))
      state, terms = program.step(state, batch, jax.random.key(config.seed))
      found.append({name: float(value) for name, value in terms.items()})
  return found


@functools.cache
def unswitched(stage: str) -> list[dict[str, float]]:
  return two_steps(stage)


@pytest.mark.parametrize(
  ('stage', 'switches', 'tolerance'),
  [
    # The same operations, done again: what is fused with what may differ.
    ('teacher', {'remat': True}, 1e-5),
    # Eight bits of mantissa: a relative error of 0.4 % per operation.
    ('teacher', {'dtype': 'bfloat16'}, 0.05),
    ('masq', {'dtype': 'bfloat16'}, 0.05),
  ],
)
def test_a_switch(stage, switches, tolerance):
  plain, switched = unswitched(stage), two_steps(stage, **switches)
  for a, b in zip(plain, switched, strict=True):
    np.testing.assert_allclose(b['loss'], a['loss'], rtol=tolerance)
  # Not the same program under another name.
  if 'dtype' in switches:
    assert switched[0]['loss'] != plain[0]['loss']


# The student's loss is the teacher's and more.
@pytest.mark.parametrize('stage', [s for s in tiny_stages.STAGES if s != 'teacher'])
def test_a_batch_in_parts_is_the_whole_batch(stage):
  """Whatever the task: means over the masks of a batch, pairs with all others, and
  random points stay those of the whole. Sums in another order are left."""
  for a, b in zip(unswitched(stage), two_steps(stage, accumulate=2), strict=True):
    assert a.keys() == b.keys()
    np.testing.assert_allclose(b['loss'], a['loss'], rtol=1e-5)
    np.testing.assert_allclose(b['grad_norm'], a['grad_norm'], rtol=1e-4)
