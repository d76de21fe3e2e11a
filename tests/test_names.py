"""Names in messages."""

import pytest

from maskclip_jax.names import an
from maskclip_jax.systems.system import all_systems

SAID = {
  'an': {'OVSeg', 'FC-CLIP', 'EVA02-CLIP'},
  'a': {
    *('CLIP', 'CLIP baseline', 'CLIP pooling', 'ConvNeXt-CLIP', 'ResNet-CLIP'),
    *('MaskCLIP', 'MaskCLIP++', 'MasQCLIP', 'SegCLIP', 'SigLIP'),
    *('Mask2Former', 'MaskFormer'),
  },
}


@pytest.mark.parametrize('article', SAID)
def test_articles_are_those_that_are_said(article):
  assert {an(name) for name in SAID[article]} == {
    f'{article} {n}' for n in SAID[article]
  }


def test_every_system_has_one():
  assert {system.title for system in all_systems()} <= SAID['a'] | SAID['an']
