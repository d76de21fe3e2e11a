"""The same losses on one device, on eight, and of a batch that is computed in parts."""

import jax
import pytest
from device_runs import TOLERANCE, Run, assert_parts_are_the_whole, on_one

from maskclip_jax.train.mesh import MeshConfig

pytestmark = [pytest.mark.slow, pytest.mark.eight_devices]

# The student's loss is the teacher's and more.
MESHES = {
  'student': MeshConfig(data=2, fsdp=2, model=2, min_size=64),
  'masq': MeshConfig(data=1, fsdp=4, model=2, min_size=64),
  'rma': MeshConfig(data=2, fsdp=4, model=1, min_size=64),
  'ovseg_proposals': MeshConfig(data=2, fsdp=2, model=2, min_size=64),
  'ovseg_pairs': MeshConfig(data=1, fsdp=4, model=2, min_size=64),
  'ovseg_prompts': MeshConfig(data=2, fsdp=4, model=1, min_size=64),
}


@pytest.fixture(scope='module', params=MESHES)
def reference(request):
  """A stage, its states before each of three steps on one device, and what those
  steps report."""
  one = on_one(request.param)
  states = []
  terms = one.go(3, lambda _: states.append(jax.device_get(one.state)))
  return request.param, states, terms


def test_eight_devices(reference):
  """Matching and pseudo masks choose: two runs left to themselves part for good where
  two choices are equal but for rounding, so here every step starts from what one device
  has reached."""
  stage, states, expected = reference
  assert len(jax.devices()) == 8
  eight = Run(stage, MESHES[stage], jax.devices())
  found = eight.go(3, lambda number: eight.take_over(states[number]))
  for step, (x, y) in enumerate(zip(found, expected, strict=True)):
    assert x == pytest.approx(y, rel=TOLERANCE, abs=1e-6), step


def test_a_batch_in_parts_is_the_whole_batch(reference):
  stage, _, expected = reference
  assert_parts_are_the_whole(stage, expected)
