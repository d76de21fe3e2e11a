"""Tuning by a CLIP is the same on one device, on eight, and by a batch in parts."""

import pytest
from device_runs import assert_eight_are_one, assert_parts_are_the_whole, followed

from maskclip_jax.train.mesh import MeshConfig

pytestmark = [pytest.mark.slow, pytest.mark.eight_devices]

MESHES = {
  'masq': MeshConfig(data=1, fsdp=4, model=2, min_size=64),
  'rma': MeshConfig(data=2, fsdp=4, model=1, min_size=64),
  'ovseg_pairs': MeshConfig(data=1, fsdp=4, model=2, min_size=64),
  'ovseg_prompts': MeshConfig(data=2, fsdp=4, model=1, min_size=64),
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
