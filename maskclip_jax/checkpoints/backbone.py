"""ImageNet weights of the backbone of proposals [masqclip 2.2], [ovseg 1.7]."""

import os
import re

import numpy as np

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.detect import open_checkpoint
from maskclip_jax.mapping import rules, swin
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.names import an
from maskclip_jax.nn.resnet import BLOCKS, ResNet
from maskclip_jax.nn.swin import Swin, SwinConfig

# Depths that ImageNet weights are published for.
_PUBLISHED = (50, 101)
# What leaves a Swin for the pixel decoder; it starts as (1, 0).
_STAGE_NORM = re.compile(r'norm\d/')


def read_backbone(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The parameters of a proposal network's backbone from a checkpoint of its own.

  The published Mask2Formers start from torchvision's ResNet-50 V1 weights: RGB,
  normalised by mean and deviation, the stride in the 3x3 convolutions. OVSeg's start
  from a ResNet-101 of DeepLab, or from a Swin, whose classifier holds no norms of the
  four stages.

  Args:
    path: names of torchvision (and timm), detectron2, transformers or the authors, in
      any format that `read_checkpoint` opens; a folder as a repository is fetched.

  Returns:
    `backbone/stem/conv1/kernel`, ... -> float32 array.

  Raises:
    FileNotFoundError, ValueError: what is wrong with the file.
  """
  checkpoint = open_checkpoint(path)
  if checkpoint.kind not in ('resnet', 'swin'):
    raise ValueError(
      f'{path} is {an(checkpoint.title)} checkpoint, not a ResNet or Swin backbone'
    )
  found = KnownSizes(checkpoint.known_shapes()).below('backbone')
  if checkpoint.kind == 'swin':
    config = SwinConfig(**swin.sizes(found))
    model = params.abstract(lambda: Swin(config, rngs=params.ConstantRngs()))
  else:
    model = _resnet(path, found)
  expected = {
    f'backbone/{path}': leaf
    for path, leaf in params.flatten(model).items()
    if checkpoint.kind == 'resnet' or not _STAGE_NORM.match(path)
  }
  return rules.convert(
    checkpoint.tensors, checkpoint.rules, expected, source=str(checkpoint.path)
  )


def _resnet(path: str | os.PathLike, found: KnownSizes) -> ResNet:
  """The network that a file fits.

  Raises:
    ValueError: weights of its depth are not published.
  """
  blocks = found.layers('res4/{i}/conv1/kernel')
  depth = next((depth for depth in _PUBLISHED if BLOCKS[depth][2] == blocks), None)
  if depth is None:
    raise ValueError(
      f'{path} has {blocks or 0} blocks in its third stage: expected a ResNet of '
      f'{" or ".join(map(str, _PUBLISHED))} layers'
    )
  deeplab = found.size('stem/conv3/kernel', 0) is not None
  rngs = params.ConstantRngs()
  return params.abstract(lambda: ResNet(depth, deeplab=deeplab, rngs=rngs))
