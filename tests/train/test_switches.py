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


@functools.cache
def two_steps(stage: str, **switches) -> list[dict[str, float]]:
  """What the first two steps report, on one device."""
  parts = switches.pop('accumulate', 1)
  config = tiny_stages.stage(
    stage, mesh={'data': 1}, optim={'accumulate': parts}, **switches
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


@pytest.mark.parametrize(
  ('stage', 'switches', 'tolerance'),
  [
    # The same operations, done again: what is fused with what may differ.
    ('teacher', {'remat': True}, 1e-5),
    # Eight bits of mantissa: a relative error of 0.4 % per operation.
    ('teacher', {'dtype': 'bfloat16'}, 0.05),
    ('masq', {'dtype': 'bfloat16'}, 0.05),
    # The loss of a photo does not depend on the others; sums in another order.
    ('masq', {'accumulate': 2}, 1e-4),
  ],
)
def test_a_switch(stage, switches, tolerance):
  plain, switched = two_steps(stage), two_steps(stage, **switches)
  for a, b in zip(plain, switched, strict=True):
    np.testing.assert_allclose(b['loss'], a['loss'], rtol=tolerance)
  # Not the same program under another name.
  if 'dtype' in switches:
    assert switched[0]['loss'] != plain[0]['loss']
