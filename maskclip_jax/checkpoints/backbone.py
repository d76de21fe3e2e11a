"""ImageNet weights for the backbone of a proposal network [masqclip 2.2]."""

import os

import numpy as np

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.detect import open_checkpoint
from maskclip_jax.mapping import rules
from maskclip_jax.nn.resnet import BLOCKS, ResNet

# Depths that ImageNet weights are published for.
_PUBLISHED = (50, 101)


def read_backbone(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The parameters of `Mask2Former.backbone` from a ResNet-50 or -101 checkpoint.

  The published models start from torchvision's ResNet-50 V1 weights: RGB, normalised
  by mean and deviation, the stride in the 3x3 convolutions.

  Args:
    path: torchvision's or detectron2's names, in any format `read_checkpoint` opens.

  Returns:
    `backbone/stem/conv1/kernel`, ... -> float32 array.

  Raises:
    FileNotFoundError, ValueError: what is wrong with the file.
  """
  checkpoint = open_checkpoint(path)
  if checkpoint.kind != 'resnet':
    raise ValueError(
      f'{path} is a {checkpoint.title} checkpoint, not a ResNet backbone'
    )
  shapes = checkpoint.known_shapes()
  blocks = sum(f'backbone/res4/{i}/conv1/kernel' in shapes for i in range(100))
  depth = next((depth for depth in _PUBLISHED if BLOCKS[depth][2] == blocks), None)
  if depth is None:
    raise ValueError(
      f'{path} has {blocks} blocks in its third stage: expected a ResNet of '
      f'{" or ".join(map(str, _PUBLISHED))} layers'
    )
  rngs = params.ConstantRngs()
  model = params.abstract(lambda: ResNet(depth, rngs=rngs))
  expected = {f'backbone/{path}': leaf for path, leaf in params.flatten(model).items()}
  return rules.convert(
    checkpoint.tensors, checkpoint.rules, expected, source=str(checkpoint.path)
  )
