"""Which network a checkpoint belongs to, told by keys that no other one has."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.files import OPENAI_CLIP_FILE, read_checkpoint
from maskclip_jax.checkpoints.tensor_file import TensorFile
from maskclip_jax.mapping import resnet, rules
from maskclip_jax.mapping.rules import Rule, Rules, prefixed
from maskclip_jax.systems.clip import checkpoint as clip
from maskclip_jax.systems.mask2former import checkpoint as mask2former
from maskclip_jax.systems.maskclip import checkpoint as maskclip
from maskclip_jax.systems.masqclip import checkpoint as masqclip

# What each kind of file is called in messages.
TITLES = {
  'clip': 'CLIP',
  'mask2former': 'Mask2Former',
  'maskclip': 'MaskCLIP',
  'masqclip': 'MasQCLIP',
  'resnet': 'ResNet',
}

# Keys that give a checkpoint away: kind, layout, key. The first that is there counts:
# a MasQCLIP file also holds everything a Mask2Former's has.
_SIGNATURES = (
  ('masqclip', 'official', masqclip.SIGNATURE),
  ('maskclip', 'official', maskclip.SIGNATURE),
  *(('mask2former', layout, key) for layout, key in mask2former.SIGNATURES.items()),
  *(('clip', layout, key) for layout, key in clip.SIGNATURES.items()),
  ('clip', 'scenic', 'text/transformer/resblocks.0/ln_1/scale'),
  *(('resnet', layout, key) for layout, key in resnet.SIGNATURES.items()),
)

_CONVERTED = (
  'a file of a bundle, converted already: give the bundle directory to --model'
)
# Checkpoints people try that cannot be converted: a key they have, one they lack, and
# what to do instead.
_FOREIGN = (
  (
    'visual.layer1.0.conv1.weight',
    None,
    'a CLIP with a ResNet image tower, which has no patches to look at: take a ViT',
  ),
  (
    'blocks.0.attn.qkv.weight',
    None,
    f"timm's image tower alone: take {OPENAI_CLIP_FILE} of the same repository",
  ),
  (
    'vision_model.embeddings.class_embedding',
    clip.SIGNATURES['hugging_face'],
    'an image tower without its text tower: take the whole CLIPModel',
  ),
  (
    'backbone.layers.0.blocks.0.attn.qkv.weight',
    None,
    'a detector with a Swin backbone, which is not supported',
  ),
  ('proposals/backbone/stem/conv1/kernel', None, _CONVERTED),
  ('backbone/stem/conv1/kernel', None, _CONVERTED),
  ('visual/transformer/resblocks/0/ln_1/scale', None, _CONVERTED),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """An opened checkpoint.

  Attributes:
    path: the file, or the directory of a bundle.
    tensors: official key -> array.
    kind: a key of `TITLES`.
    layout: which of the kind's layouts.
    rules: from its keys to the paths of a system, `proposals/...` and `clip/...`.
    activation: of a CLIP, where a config file beside it tells.
  """

  path: pathlib.Path
  tensors: Mapping[str, np.ndarray]
  kind: str
  layout: str
  rules: Rules
  activation: str | None = None

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Official key -> shape, where possible without reading a tensor."""
    if isinstance(self.tensors, TensorFile):
      return self.tensors.shapes()
    return {key: array.shape for key, array in self.tensors.items()}

  def known_shapes(self) -> dict[str, tuple[int, ...]]:
    """Our path -> shape, of those tensors whose layout needs no head count."""
    return rules.known_shapes(self.rules, self.shapes())

  def __str__(self) -> str:
    layout = '' if self.layout in ('official', 'bundle') else f', {self.layout} layout'
    return f'{self.path}: {TITLES[self.kind]}{layout}, {len(self.tensors)} tensors'


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
  """Opens an official file, or a bundle of proposals, and finds out what it is.

  Raises:
    FileNotFoundError, ValueError: see `read_checkpoint`; or the network is unknown.
  """
  path = bundle.locate(path)
  if bundle.is_bundle(path):
    return _open_proposals(path)
  tensors = read_checkpoint(path)
  kind, layout = detect(tensors, path)
  activation = _activation_beside(path) if kind == 'clip' else None
  table = table_of(kind, layout, tensors)
  return Checkpoint(path, tensors, kind, layout, table, activation)


def _open_proposals(path: pathlib.Path) -> Checkpoint:
  opened = bundle.load(path)
  if opened.config.get('system') != 'mask2former':
    raise ValueError(f'{path} is a bundle, converted already: give it to --model')
  table = tuple(Rule(name, f'proposals/{name}') for name in opened.parameters)
  return Checkpoint(path, opened.parameters, 'mask2former', 'bundle', table)


def open_clip(path: str | os.PathLike) -> Checkpoint:
  """Opens a CLIP: an official file, or a bundle that holds one.

  Raises:
    FileNotFoundError, ValueError: see `open_checkpoint`; or it is no CLIP.
  """
  path = bundle.locate(path)
  if not bundle.is_bundle(path):
    checkpoint = open_checkpoint(path)
    if checkpoint.kind != 'clip':
      raise ValueError(
        f'{path} is a {TITLES[checkpoint.kind]} checkpoint and holds no text tower: '
        '--clip takes a whole CLIP'
      )
    return checkpoint
  opened = bundle.load(path)
  names = set(opened.parameters)
  inside = '' if opened.config.get('system') == 'clip' else 'clip/'
  if f'{inside}logit_scale' not in names:
    raise ValueError(f'{path} is a bundle without a CLIP')
  table = tuple(Rule(name, name if inside else f'clip/{name}') for name in names)
  config = opened.config['config']
  return Checkpoint(
    path,
    opened.parameters,
    'clip',
    'bundle',
    table,
    (config['clip'] if inside else config)['activation'],
  )


def _activation_beside(path: pathlib.Path) -> str | None:
  """The activation that the config file of open_clip or Hugging Face names.

  Weights do not tell it, and with the wrong one a CLIP works badly without failing
  [masqclip 1.6].
  """
  file = path.with_name('open_clip_config.json')
  if path.name.startswith('open_clip') and file.is_file():
    model = _read_json(file).get('model_cfg', {})
    return 'quick_gelu' if model.get('quick_gelu') else 'gelu'
  file = path.with_name('config.json')
  if file.is_file():
    config = _read_json(file)
    if config.get('model_type') == 'clip':
      # Files leave out what equals the library's default.
      return config.get('vision_config', {}).get('hidden_act', 'quick_gelu')
  return None


def _read_json(file: pathlib.Path) -> dict:
  try:
    return json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(f'{file} is not valid JSON: {error}') from error


def detect(keys: Iterable[str], path: str | os.PathLike) -> tuple[str, str]:
  """Kind and layout of the network that keys belong to.

  Raises:
    ValueError: none we know, or one that cannot be converted; `path` is named.
  """
  keys = set(keys)
  for key, absent, advice in _FOREIGN:
    if key in keys and absent not in keys:
      raise ValueError(f'{path} is {advice}')
  for kind, layout, key in _SIGNATURES:
    if key in keys:
      return kind, layout
  shown = ', '.join(sorted(keys)[:3]) or 'nothing'
  raise ValueError(
    f'{path} is the checkpoint of a network we do not know: it holds {shown}, ...; '
    f'known are {", ".join(TITLES.values())}'
  )


def table_of(kind: str, layout: str, keys: Iterable[str]) -> Rules:
  """The rules of a kind of checkpoint, to the paths of a system."""
  match kind:
    case 'clip':
      return prefixed(clip.LAYOUTS[layout], ours='clip/')
    case 'mask2former':
      return prefixed(mask2former.LAYOUTS[layout], ours='proposals/')
    case 'maskclip':
      return maskclip.rules(maskclip.rma_blocks(keys))
    case 'masqclip':
      return masqclip.rules()
    case 'resnet':
      return prefixed(resnet.LAYOUTS[layout], ours='backbone/')
  raise ValueError(f'unknown kind of checkpoint {kind!r}')
