"""Sizes of a network, read off the shapes of a checkpoint.

What shapes cannot tell (the activation, heads of CLIP's towers where they are packed,
pixel statistics) comes from the preset the sizes are laid over.
"""

import dataclasses
import math
from collections.abc import Mapping

from maskclip_jax.nn.clip import CLIPConfig
from maskclip_jax.nn.resnet import BLOCKS
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig

Shapes = Mapping[str, tuple[int, ...]]

# Points per head of the deformable attention: three levels of four [masqclip 2.3].
_POINTS = 12
_HEAD_WIDTH = 64


class _Sizes:
  """Sizes below a path prefix; missing ones are None and leave the preset's value."""

  def __init__(self, shapes: Shapes, prefix: str):
    self._shapes = {
      path.removeprefix(prefix): shape
      for path, shape in shapes.items()
      if path.startswith(prefix)
    }

  def of(self, path: str, axis: int) -> int | None:
    shape = self._shapes.get(path, ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None

  def layers(self, template: str) -> int | None:
    """How many paths exist for i = 0, 1, ..."""
    count = 0
    while template.format(i=count) in self._shapes:
      count += 1
    return count or None


def _over(base, **sizes):
  return dataclasses.replace(
    base, **{name: size for name, size in sizes.items() if size is not None}
  )


def proposals_config(
  shapes: Shapes, base: Mask2FormerConfig, prefix: str = ''
) -> Mask2FormerConfig:
  """A proposal network of the sizes found below `prefix`."""
  found = _Sizes(shapes, prefix)
  encoder = 'pixel_decoder/transformer/encoder/layers/{i}/'
  offsets = found.of(f'{encoder.format(i=0)}self_attn/attention_weights/bias', 0)
  classes = found.of('predictor/class_embed/bias', 0)
  blocks = found.layers('backbone/res4/{i}/conv1/kernel')
  sized = _over(
    base,
    depth=next((d for d, n in BLOCKS.items() if n[2] == blocks), None),
    stem=found.of('backbone/stem/conv1/kernel', -1),
    width=found.of('backbone/res2/0/conv3/kernel', -1),
    hidden=found.of('predictor/query_feat/embedding', 1),
    mask_dim=found.of('pixel_decoder/mask_features/kernel', -1),
    heads=offsets and offsets // _POINTS,
    encoder_layers=found.layers(encoder + 'linear1/kernel'),
    encoder_ffn=found.of(f'{encoder.format(i=0)}linear1/kernel', -1),
    decoder_layers=found.layers('predictor/transformer_ffn_layers/{i}/linear1/kernel'),
    decoder_ffn=found.of('predictor/transformer_ffn_layers/0/linear1/kernel', -1),
    queries=found.of('predictor/query_feat/embedding', 0),
  )
  # No class head is a size too: None is what the file says, not what it leaves open.
  return dataclasses.replace(
    sized, num_classes=None if classes is None else classes - 1
  )


def clip_config(shapes: Shapes, base: CLIPConfig, prefix: str = '') -> CLIPConfig:
  """A CLIP of the sizes found below `prefix`."""
  found = _Sizes(shapes, prefix)
  block = 'transformer/resblocks/{i}/ln_1/scale'
  width, text_width = (
    found.of('visual/class_embedding', 0),
    found.of('text/token_embedding/embedding', 1),
  )
  patch = found.of('visual/conv1/kernel', 0)
  tokens = found.of('visual/positional_embedding', 0)
  return _over(
    base,
    embed_dim=found.of('visual/proj/kernel', 1),
    patch_size=patch,
    image_size=patch and tokens and patch * math.isqrt(tokens - 1),
    vision_width=width,
    vision_layers=found.layers(f'visual/{block}'),
    vision_heads=_heads(width, base.vision_width, base.vision_heads),
    text_width=text_width,
    text_layers=found.layers(f'text/{block}'),
    text_heads=_heads(text_width, base.text_width, base.text_heads),
    context_length=found.of('text/positional_embedding', 0),
    vocab_size=found.of('text/token_embedding/embedding', 0),
  )


def _heads(width: int | None, base_width: int, base_heads: int) -> int | None:
  """The preset's heads where its width is the file's, else heads 64 wide as CLIP's."""
  if width is None or width == base_width:
    return base_heads
  return max(1, width // _HEAD_WIDTH)
