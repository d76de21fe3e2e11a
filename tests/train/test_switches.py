"""What changes memory and speed changes no loss, or no more than its rounding does."""

import functools

import numpy as np
import pytest
from device_runs import assert_parts_are_the_whole, on_one

pytestmark = pytest.mark.slow


@functools.cache
def unswitched(stage: str) -> list[dict[str, float]]:
  """What the first two steps report."""
  return on_one(stage).go(2)


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
  plain, switched = unswitched(stage), on_one(stage, **switches).go(2)
  for a, b in zip(plain, switched, strict=True):
    np.testing.assert_allclose(b['loss'], a['loss'], rtol=tolerance)
  # Not the same program under another name.
  if 'dtype' in switches:
    assert switched[0]['loss'] != plain[0]['loss']


# `test_devices` and `test_segclip_training` have the others.
def test_a_batch_in_parts_is_the_whole_batch():
  assert_parts_are_the_whole('clip', unswitched('clip'))
