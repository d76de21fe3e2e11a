"""Parameter names are API: the stored list of every preset."""

import inventory
import pytest

from maskclip_jax import zoo

# They have the names of the published ones, which take half a second each.
SMALL = '_tiny', '_miniature'


@pytest.mark.parametrize(
  'preset',
  [
    name if name.endswith(SMALL) else pytest.param(name, marks=pytest.mark.slow)
    for name in zoo.presets()
  ],
)
def test_the_parameters_of_a_preset_are_the_stored_ones(preset):
  stored = (inventory.ROOT / f'{preset}.txt').read_text()
  assert inventory.text(inventory.parameters(preset)) == stored, (
    'parameter names, shapes or types changed: bundles in the world would no longer '
    'load. If that is meant, write a converter and run python tests/inventory.py'
  )


def test_no_list_is_left_of_a_preset_that_is_gone():
  assert {f.stem for f in inventory.ROOT.glob('*.txt')} == set(zoo.presets())


def test_folding_keeps_gaps_and_shapes_apart():
  class Leaf:
    def __init__(self, *shape):
      self.shape, self.dtype = shape, inventory.jax.numpy.dtype('float32')

  flat = {f'b/{i}/w': Leaf(2, 3) for i in (0, 1, 2, 5, 10)} | {'b/3/w': Leaf(4)}
  assert inventory.text(flat | {'s': Leaf()}) == (
    'b/0-2,5,10/w float32 2x3\nb/3/w float32 4\ns float32 scalar\n'
  )
