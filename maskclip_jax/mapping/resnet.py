"""Residual networks with frozen batch norm: names of detectron2, torchvision (which are
timm's too) and Hugging Face.

Our paths are those of `nn.resnet.ResNet`: `stem/conv1/kernel`, `res2/0/conv1/norm/var`.
Source: [masqclip 2.2].
"""

from maskclip_jax.mapping import classifier
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.rules import Ignore, Rule, Rules, prefixed
from maskclip_jax.mapping.transforms import CONV

_COUNTER = 'how many batches the statistics saw; frozen norms do not count'


def _norm(official: str, ours: str) -> Rules:
  """Batch norm: two parameters, two statistics and a counter we do not keep."""
  names = {
    'weight': 'scale',
    'bias': 'bias',
    'running_mean': 'mean',
    'running_var': 'var',
  }
  return (
    *(Rule(f'{official}.{theirs}', f'{ours}/{name}') for theirs, name in names.items()),
    Ignore(f'{official}.num_batches_tracked', _COUNTER),
  )


def _conv(conv: str, norm: str, ours: str) -> Rules:
  """A convolution without bias and its norm."""
  return (
    Rule(f'{conv}.weight', f'{ours}/kernel', CONV),
    *_norm(norm, f'{ours}/norm'),
  )


def _bottlenecks(official: str, ours: str) -> Rules:
  """The blocks of one stage in torchvision's names."""
  rules = _conv(
    f'{official}.{{b}}.downsample.0',
    f'{official}.{{b}}.downsample.1',
    f'{ours}/{{b}}/shortcut',
  )
  for n in (1, 2, 3):
    rules += _conv(
      f'{official}.{{b}}.conv{n}', f'{official}.{{b}}.bn{n}', f'{ours}/{{b}}/conv{n}'
    )
  return rules


def _classifier(prefix: str) -> Rules:
  return tuple(
    Ignore(f'{prefix}fc.{name}', 'the ImageNet classifier')
    for name in ('weight', 'bias')
  )


DETECTRON2 = (
  # The second and the third are DeepLab's.
  *(
    rule
    for name in ('conv1', 'conv2', 'conv3')
    for rule in _conv(f'stem.{name}', f'stem.{name}.norm', f'stem/{name}')
  ),
  *(
    rule
    for stage in (2, 3, 4, 5)
    for name in ('conv1', 'conv2', 'conv3', 'shortcut')
    for rule in _conv(
      f'res{stage}.{{b}}.{name}',
      f'res{stage}.{{b}}.{name}.norm',
      f'res{stage}/{{b}}/{name}',
    )
  ),
  *_classifier('stem.'),
)

TORCHVISION = (
  *_conv('conv1', 'bn1', 'stem/conv1'),
  *(
    rule
    for layer in (1, 2, 3, 4)
    for rule in _bottlenecks(f'layer{layer}', f'res{layer + 1}')
  ),
  *_classifier(''),
)


def _hugging_face(official: str, ours: str) -> Rules:
  """A convolution and its norm, which stand below one name."""
  return _conv(f'{official}.convolution', f'{official}.normalization', ours)


# Of transformers' `ResNetBackbone`.
HUGGING_FACE = (
  *_hugging_face('embedder.embedder', 'stem/conv1'),
  *(
    rule
    for stage in range(4)
    for theirs, ours in (
      ('shortcut', 'shortcut'),
      *((f'layer.{n}', f'conv{n + 1}') for n in range(3)),
    )
    for rule in _hugging_face(
      f'encoder.stages.{stage}.layers.{{b}}.{theirs}', f'res{stage + 2}/{{b}}/{ours}'
    )
  ),
)

# The trunk of OpenAI's CLIPs: a deeper stem, otherwise torchvision's names.
CLIP_TRUNK = (
  *(rule for n in (1, 2, 3) for rule in _conv(f'conv{n}', f'bn{n}', f'stem/conv{n}')),
  *(
    rule
    for layer in (1, 2, 3, 4)
    for rule in _bottlenecks(f'layer{layer}', f'res{layer + 1}')
  ),
)

LAYOUTS: dict[str, Rules] = {
  'torchvision': TORCHVISION,
  'detectron2': DETECTRON2,
  # `ResNetForImageClassification`.
  'hugging_face': (
    *prefixed(HUGGING_FACE, 'resnet.'),
    *(
      Ignore(f'classifier.1.{name}', 'the ImageNet classifier')
      for name in ('weight', 'bias')
    ),
  ),
}

# Weights of a backbone alone, by paths below `backbone/`.
FORMAT = Format(
  title='ResNet',
  signatures={
    'torchvision': ('layer1.0.conv1.weight',),
    'detectron2': ('res2.0.conv1.weight',),
    'hugging_face': ('resnet.embedder.embedder.convolution.weight',),
  },
  read=lambda layout, keys: prefixed(LAYOUTS[layout], ours='backbone/'),
  beside=classifier.beside,
)
