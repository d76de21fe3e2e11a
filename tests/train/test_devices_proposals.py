"""Training of proposals is the same on one device, on eight, and by a batch in parts.

A file of its own, for a process of its own: these compile longest.
"""

import pytest
from device_runs import assert_eight_are_one, assert_parts_are_the_whole, followed

from maskclip_jax.train.mesh import MeshConfig

pytestmark = [pytest.mark.slow, pytest.mark.eight_devices]

# The student's loss is the teacher's and more.
MESHES = {
  'student': MeshConfig(data=2, fsdp=2, model=2, min_size=64),
  'ovseg_proposals': MeshConfig(data=2, fsdp=2, model=2, min_size=64),
}


@pytest.fixture(scope='module', params=MESHES)
def reference(request):
  """A stage, and what it does on one device."""
  return request.param, *followed(request.param)


def test_eight_devices(reference):
  stage, states, expected = reference
  assert_eight_are_one(stage, MESHES[stage], states, expected)


def test_a_batch_in_parts_is_the_whole_batch(reference):
  stage, _, expected = reference
  assert_parts_are_the_whole(stage, expected)
