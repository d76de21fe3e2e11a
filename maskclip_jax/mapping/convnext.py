"""CLIP's ConvNeXt image tower: the names of timm's trunk and open_clip's head.

Our paths are those of `nn.convnext.ConvNeXtTower`: `trunk/res4/0/conv_dw/kernel`
[fcclip 2.4].
"""

from maskclip_jax.mapping.layers import conv, dense, norm
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.mapping.transforms import LINEAR


def block(
  official: str,
  ours: str,
  names: tuple[str, str, str] = ('conv_dw', 'mlp.fc1', 'mlp.fc2'),
) -> Rules:
  """A block.

  Args:
    official: its name there.
    ours: its path here.
    names: what the convolution and the two linear layers are called there; timm's names
      by default.
  """
  depthwise, first, second = names
  return (
    *conv(f'{official}.{depthwise}', f'{ours}/conv_dw'),
    *norm(f'{official}.norm', f'{ours}/norm'),
    *dense(f'{official}.{first}', f'{ours}/mlp/fc1'),
    *dense(f'{official}.{second}', f'{ours}/mlp/fc2'),
    Rule(f'{official}.gamma', f'{ours}/gamma'),
  )


def _stage(index: int) -> Rules:
  """The blocks of a stage and, but for the first, the step down to it."""
  official, level = f'stages.{index}', index + 2
  blocks = block(f'{official}.blocks.{{b}}', f'res{level}/{{b}}')
  if index == 0:
    return blocks
  return (
    *norm(f'{official}.downsample.0', f'downsample{level}/norm'),
    *conv(f'{official}.downsample.1', f'downsample{level}/conv'),
    *blocks,
  )


TRUNK = (
  *conv('stem.0', 'stem/conv'),
  *norm('stem.1', 'stem/norm'),
  *(rule for index in range(4) for rule in _stage(index)),
)

# The norm before the head is the trunk's in their names.
TOWER = (
  *prefixed(TRUNK, 'trunk.', 'trunk/'),
  *norm('trunk.head.norm', 'head/norm'),
  *dense('head.mlp.fc1', 'head/mlp/fc1'),
  Rule('head.mlp.fc2.weight', 'head/mlp/fc2/kernel', LINEAR),
  Rule('head.proj.weight', 'head/proj/kernel', LINEAR),
)
