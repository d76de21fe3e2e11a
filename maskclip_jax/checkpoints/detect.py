"""Which network a checkpoint belongs to, told by keys that no other one has."""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.files import (
  OPENAI_CLIP_FILE,
  find_weights,
  read_checkpoint,
)
from maskclip_jax.checkpoints.restore import read_preset
from maskclip_jax.checkpoints.tensor_file import shapes_of, without_prefix
from maskclip_jax.mapping import resnet, rules, swin
from maskclip_jax.mapping.formats import Format
from maskclip_jax.mapping.rules import Rule, Rules
from maskclip_jax.names import an, cut, shown
from maskclip_jax.systems.clip.checkpoint import WITHOUT_SHAPE
from maskclip_jax.systems.system import all_systems, find_system, system_of

# The part of a system whose checkpoint `--clip` takes.
CLIP = 'clip'
# What the shapes of a CLIP in an official layout leave open.
_UNTOLD = (*WITHOUT_SHAPE, 'vision_heads', 'text_heads')

# Checkpoints people try that cannot be converted: a key they have, one they lack, and
# what to do instead.
_FOREIGN = (
  (
    'blocks.0.attn.qkv.weight',
    None,
    f"timm's image tower alone: take {OPENAI_CLIP_FILE} of the same repository",
  ),
  (
    'vision_model.embeddings.class_embedding',
    'text_model.embeddings.token_embedding.weight',
    'an image tower without its text tower: take the whole CLIPModel',
  ),
  (
    'sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight',
    'sem_seg_head.pixel_decoder.transformer.level_embed',
    'a MaskFormer with a transformer in its pixel decoder, which is not supported: '
    'take one with a Swin',
  ),
  (
    'conv1.0.weight',
    None,
    'a ResNet with three convolutions in its stem (ResNet-D), which is not supported: '
    'take a plain one',
  ),
  (
    'visual.trunk.blocks.0.attn.qkv.weight',
    'visual.trunk.attn_pool.latent',
    "a CLIP with one of timm's transformers as image tower, which is not supported: "
    "take one with open_clip's own, a ConvNeXt, EVA02 or SigLIP",
  ),
  (
    'text_decoder.transformer.resblocks.0.ln_1.weight',
    None,
    'CoCa, which is not supported: take a CLIP',
  ),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """An opened checkpoint.

  Attributes:
    path: the file, or the directory of a bundle.
    tensors: official key -> array.
    kind: the system it belongs to, or 'resnet' or 'swin' for a backbone alone.
    layout: which of the format's layouts; 'bundle' for a bundle.
    rules: from its keys to the paths of its own network.
    beside: fields of its config that are known without its tensors.
    preset_beside: likewise what `Format.preset_beside` gives.
  """

  path: pathlib.Path
  tensors: Mapping[str, np.ndarray]
  kind: str
  layout: str
  rules: Rules
  beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  preset_beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def title(self) -> str:
    """What messages call the file."""
    return title_of(self.kind)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Official key -> shape, where possible without reading a tensor."""
    return shapes_of(self.tensors)

  def known_shapes(self) -> dict[str, tuple[int, ...]]:
    """Our path -> shape, of those tensors whose layout needs no head count."""
    return rules.known_shapes(self.rules, self.shapes())

  def known_paths(self) -> set[str]:
    """Our paths that the file gives."""
    return rules.known_paths(self.rules, self.tensors)

  def as_part(self, inside: str, ours: str) -> 'Checkpoint':
    """The same file, its rules those of one part below another prefix."""
    return dataclasses.replace(self, rules=rules.part_of(self.rules, inside, ours))

  def __str__(self) -> str:
    layout = '' if self.layout in ('official', 'bundle') else f', {self.layout} layout'
    return f'{self.path}: {self.title}{layout}, {len(self.tensors)} tensors'


def formats() -> dict[str, Format]:
  """Every kind of official file: those of the systems, and backbones alone."""
  own = {system.name: system.format for system in all_systems() if system.format}
  return {**own, 'resnet': resnet.FORMAT, 'swin': swin.FORMAT}


def title_of(kind: str) -> str:
  """What messages call a kind of checkpoint."""
  known = formats()
  return known[kind].title if kind in known else find_system(kind).title


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
  """Opens an official file, or a bundle of proposals, and finds out what it is.

  Raises:
    FileNotFoundError, ValueError: see `read_checkpoint`; or the network is unknown.
  """
  path = bundle.locate(path)
  if bundle.is_bundle(path):
    opened = _open_bundle(path)
    system = find_system(opened.kind)
    if system.parts or not system.segments:
      raise ValueError(f'{path} is a bundle, converted already: give it to --model')
    return opened
  path = find_weights(path)
  tensors = read_checkpoint(path)
  if bundle.holds(tensors):
    raise ValueError(
      f'{path} is a file of a bundle, converted already: give the bundle directory to '
      '--model'
    )
  if prefix := _wrapper(tensors):
    tensors = without_prefix(tensors, prefix)
  kind, layout = detect(tensors, path)
  form = formats()[kind]
  table = form.read(layout, shapes_of(tensors))
  return Checkpoint(
    path,
    tensors,
    kind,
    layout,
    table,
    form.beside(path, layout),
    form.preset_beside(path, layout),
  )


def _open_bundle(path: pathlib.Path) -> Checkpoint:
  opened = bundle.load(path)
  table = tuple(Rule(name, name) for name in opened.parameters)
  preset = read_preset(opened)
  return Checkpoint(path, opened.parameters, preset.system, 'bundle', table)


def open_clip(path: str | os.PathLike, kinds: Sequence[str]) -> Checkpoint:
  """Opens a CLIP: an official file, or a bundle that holds one.

  Args:
    path: the file or the bundle.
    kinds: the systems that the CLIP may be.

  Raises:
    FileNotFoundError, ValueError: see `open_checkpoint`; or it is no such CLIP.
  """
  path = bundle.locate(path)
  if not bundle.is_bundle(path):
    checkpoint = open_checkpoint(path)
    segmenters = {system.name for system in all_systems() if system.segments}
    if checkpoint.kind in segmenters.difference(kinds):
      raise ValueError(
        f'{path} is {an(checkpoint.title)} checkpoint and holds no text tower: '
        '--clip takes a whole CLIP'
      )
    _check_kind(path, checkpoint.kind, kinds)
    return checkpoint
  checkpoint = _open_bundle(path)
  system = find_system(checkpoint.kind)
  inside = f'{CLIP}/' if system.segments else ''
  if f'{inside}logit_scale' not in checkpoint.tensors:
    raise ValueError(f'{path} is a bundle without a CLIP')
  config = read_preset(bundle.load(path)).config
  config = getattr(config, CLIP) if inside else config
  kind = system_of(config).name
  _check_kind(path, kind, kinds)
  return dataclasses.replace(
    checkpoint.as_part(inside, ''),
    kind=kind,
    beside={name: getattr(config, name) for name in _UNTOLD if hasattr(config, name)},
  )


def _check_kind(path: pathlib.Path, found: str, wanted: Sequence[str]) -> None:
  if found not in wanted:
    titles = ' or a '.join(map(title_of, wanted))
    raise ValueError(
      f'{path} holds a {title_of(found)} and a {titles} is needed: take the '
      'CLIP that the checkpoint was trained with, or put any two models together by '
      '--proposals and --classifier'
    )


def _wrapper(keys: Collection[str]) -> str:
  """What a wrapper put before every key of a known network: 'model.'; '' for nothing.

  Training frameworks name the attribute that holds the network.
  """
  known = any(form.layout_of(keys) for form in formats().values())
  if known or any(key in keys for key, _, _ in _FOREIGN):
    return ''
  for prefix in _prefixes(keys):
    if all(key.startswith(prefix) for key in keys):
      return prefix
  return ''


def _prefixes(keys: Collection[str]) -> list[str]:
  """Prefixes below which lie the keys of a known network, shortest first."""
  signatures = tuple(
    signature
    for form in formats().values()
    for layout in form.signatures.values()
    for signature in layout
  )
  found = {
    key.removesuffix(signature)
    for signature in signatures
    for key in keys
    if key.endswith(f'.{signature}')
  }
  return sorted(found, key=len)


def detect(keys: Iterable[str], path: str | os.PathLike) -> tuple[str, str]:
  """Kind and layout of the network that keys belong to.

  Raises:
    ValueError: none we know, or one that cannot be converted; `path` is named.
  """
  keys = set(keys)
  for key, absent, advice in _FOREIGN:
    if key in keys and absent not in keys:
      raise ValueError(f'{path} is {advice}')
  known = formats()
  matching = {
    kind: layout for kind, form in known.items() if (layout := form.layout_of(keys))
  }
  # A MasQCLIP file also holds everything that a Mask2Former's has.
  included = {name for kind in matching for name in known[kind].includes}
  for kind, layout in matching.items():
    if kind not in included:
      return kind, layout
  if prefixes := _prefixes(keys):
    raise ValueError(
      f'{path} holds a network we know below {shown(prefixes[0])}, and others '
      'beside it: save its tensors alone'
    )
  held = ', '.join(map(cut, sorted(keys)[:3])) or 'nothing'
  titles = ', '.join(form.title for form in known.values())
  raise ValueError(
    f'{path} is the checkpoint of a network we do not know: it holds {held}, ...; '
    f'known are {titles}'
  )
