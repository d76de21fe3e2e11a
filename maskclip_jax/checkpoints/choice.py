"""Which preset a checkpoint is converted by, and with which sizes.

The files tell their sizes; a preset adds what shapes cannot tell: thresholds, how names
become text vectors, pixel statistics.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from maskclip_jax import zoo
from maskclip_jax.checkpoints import sizes
from maskclip_jax.checkpoints.detect import Checkpoint
from maskclip_jax.mapping.problems import NAMED
from maskclip_jax.nn.clip import CLIPConfig
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.maskclip import checkpoint as maskclip

# Where the parts of a system lie among its parameters.
PROPOSALS, CLIP = 'proposals/', 'clip/'


def find_preset(preset: str | zoo.Preset) -> tuple[str, zoo.Preset]:
  """Name and preset, of a name or of a preset."""
  if isinstance(preset, str):
    return preset, zoo.find_preset(preset)
  return f'{preset.system} by a preset of its own', preset


def provides(kind: str, system: str, path: str) -> bool:
  """Whether the main file, of a kind, holds a parameter of a system."""
  if kind in ('clip', 'mask2former') or kind != system:
    return path.startswith(CLIP if kind == 'clip' else PROPOSALS)
  return not path.startswith((f'{CLIP}text/', f'{CLIP}logit_scale'))


@dataclasses.dataclass(frozen=True)
class Found:
  """What the files tell about the model.

  Attributes:
    path: the main file, for messages.
    shapes: our path -> shape of what each file provides.
    rma_blocks: blocks with relative mask attention.
    activation: CLIP's, where a config file tells.
  """

  path: pathlib.Path
  shapes: Mapping[str, tuple[int, ...]]
  rma_blocks: tuple[int, ...]
  activation: str | None

  @classmethod
  def of(cls, main: Checkpoint, second: Checkpoint | None, system: str) -> 'Found':
    files = [main] if second is None else [main, second]
    shapes = {
      path: shape
      for file in files
      for path, shape in file.known_shapes().items()
      if provides(main.kind, system, path) == (file is main)
    }
    clip = main if second is None else second
    blocks = maskclip.rma_blocks(main.tensors)
    return cls(main.path, shapes, blocks, clip.activation)

  def proposals(self, base: Mask2FormerConfig) -> Mask2FormerConfig:
    return sizes.proposals_config(self.shapes, base, PROPOSALS)

  def clip(self, base: CLIPConfig) -> CLIPConfig:
    sized = sizes.clip_config(self.shapes, base, CLIP)
    return dataclasses.replace(sized, activation=self.activation or base.activation)

  def sized(self, preset: zoo.Preset) -> zoo.Preset:
    """The preset with what the files tell."""
    config = preset.config
    match preset.system:
      case 'clip':
        config = self.clip(config)
      case 'mask2former':
        config = self.proposals(config)
      case _:
        found = {
          'proposals': self.proposals(config.proposals),
          'clip': self.clip(config.clip),
        }
        # A preset without relative mask attention asks to leave it out.
        if preset.system == 'maskclip' and config.rma_blocks:
          found['rma_blocks'] = self.rma_blocks
        config = dataclasses.replace(config, **found)
    return dataclasses.replace(preset, config=config)


def choose_preset(
  system: str, preset: str | zoo.Preset | None, found: Found
) -> tuple[str, zoo.Preset]:
  """The preset a model is made by, with the sizes of the files.

  Returns:
    Its name, or a description where the sizes are no published ones; and the preset.

  Raises:
    ValueError: the files do not have the sizes of the preset asked for, or a class
      head that no preset has names for.
  """
  if preset is not None:
    name, base = find_preset(preset)
    if base.system != system:
      raise ValueError(f'{name} is a preset of {base.system}, not of {system}')
    sized = found.sized(base)
    if differences := _differences(base.config, sized.config):
      shown = ', '.join(differences[:NAMED])
      raise ValueError(f'{found.path} does not fit {name}: {shown}')
    return name, sized
  candidates = {
    name: (base, found.sized(base))
    for name, base in zoo.PRESETS.items()
    if base.system == system
  }
  for name, (base, sized) in candidates.items():
    if not _differences(base.config, sized.config):
      return name, sized
  for name, (base, sized) in candidates.items():
    if _same_vocabulary(base, sized):
      return f'{system} of its own sizes, otherwise {name}', sized
  raise ValueError(
    f'{found.path} has a class head of its own, which no preset has names for: name a '
    'preset, or use the file for its proposals in another system'
  )


def _same_vocabulary(base: zoo.Preset, sized: zoo.Preset) -> bool:
  """False where a closed vocabulary would not fit the class head of the file."""
  if base.system != 'mask2former':
    return True
  return sized.config.num_classes in (base.config.num_classes, None)


def _differences(base: Any, sized: Any) -> list[str]:
  """Fields that differ, as 'patch_size is 14, not 16'; a class head may be extra."""
  lines = []
  for field in dataclasses.fields(base):
    ours, theirs = getattr(base, field.name), getattr(sized, field.name)
    if dataclasses.is_dataclass(ours):
      lines += _differences(ours, theirs)
    elif ours != theirs and (field.name, ours) != ('num_classes', None):
      lines.append(f'{field.name} is {theirs}, not {ours}')
  return lines
