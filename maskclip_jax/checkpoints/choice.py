"""Which preset a checkpoint is converted by, and with which sizes.

The files tell their sizes; a preset adds what shapes cannot tell: thresholds, how names
become text vectors, pixel statistics.
"""

import dataclasses
from typing import Any

from maskclip_jax import zoo
from maskclip_jax.checkpoints.detect import CLIP, Checkpoint
from maskclip_jax.checkpoints.labels import closed_vocabulary
from maskclip_jax.mapping.problems import NAMED
from maskclip_jax.mapping.sizes import KnownSizes, differences
from maskclip_jax.systems.system import Preset, System, all_systems, find_system


def find_preset(preset: str | Preset) -> tuple[str, Preset]:
  """Name and preset, of a name or of a preset."""
  if isinstance(preset, str):
    return preset, zoo.find_preset(preset)
  return f'{preset.system} by a preset of its own', preset


@dataclasses.dataclass(frozen=True)
class Sources:
  """The files of a conversion, and what each gives to the model.

  Attributes:
    system: what is made.
    main: the file that decides; its rules lead to the paths of the system.
    clip: the CLIP beside it, likewise; None if the system needs none.
    main_part: the prefix of the paths that the main file gives, where it is not a file
      of this system; '' if it gives all of them.
    held: the paths that the main file gives, where it is one of this system.
    replaced: prefixes of those that the CLIP gives instead.
  """

  system: System
  main: Checkpoint
  clip: Checkpoint | None
  main_part: str = ''
  held: frozenset[str] = frozenset()
  replaced: tuple[str, ...] = ()

  @classmethod
  def of(cls, main: Checkpoint, clip: Checkpoint | None, system: System) -> 'Sources':
    """The files, their rules turned to the paths of the system."""
    if clip is not None:
      clip = clip.as_part('', f'{CLIP}/')
    if main.kind == system.name:
      held = frozenset(main.known_paths())
      return cls(system, main, clip, '', held, _replaced(system, clip))
    theirs = {kind: f'{part}/' for part, kind in find_system(main.kind).parts.items()}
    if system.name in theirs:
      return cls(system, main.as_part(theirs[system.name], ''), clip)
    part, kind = next(iter(system.parts.items()))
    inside = theirs.get(kind, '')
    return cls(system, main.as_part(inside, f'{part}/'), clip, f'{part}/')

  def from_main(self, path: str) -> bool:
    """Whether the main file gives a parameter of the system."""
    if self.main.kind != self.system.name:
      return path.startswith(self.main_part)
    form = self.system.format
    if self.clip is not None and path.startswith(form.may_lack):
      return path in self.held
    return not path.startswith(form.left_out + self.replaced)

  def lacking(self) -> tuple[str, ...]:
    """Prefixes of our paths that the main file lacks and others of its kind hold."""
    may_lack = self.system.format.may_lack if self.system.format else ()
    return tuple(
      prefix
      for prefix in may_lack
      if not any(path.startswith(prefix) for path in self.held)
    )

  def found(self) -> KnownSizes:
    """What the files tell about the sizes of the model."""
    files = [self.main] if self.clip is None else [self.main, self.clip]
    shapes = {
      path: shape
      for file in files
      for path, shape in file.known_shapes().items()
      if self.from_main(path) == (file is self.main)
    }
    told = (self.clip or self.main).beside
    own = {} if self.main.kind == CLIP else self.main.beside
    return KnownSizes(shapes, frozenset(self.main.tensors), told, own)


def _replaced(system: System, clip: Checkpoint | None) -> tuple[str, ...]:
  """Prefixes of what a CLIP gives in place of a file that holds it too."""
  allowed = system.format.may_replace if system.format else ()
  if clip is None or not allowed:
    return ()
  held = find_system(clip.kind).format.only.get(clip.layout, ('',))
  return tuple(prefix + part for prefix in allowed for part in held)


def choose_preset(sources: Sources, preset: str | Preset | None) -> tuple[str, Preset]:
  """The preset a model is made by, with the sizes of the files.

  Returns:
    Its name, or a description where the sizes are no published ones; and the preset.

  Raises:
    ValueError: the files do not have the sizes of the preset asked for, or a class
      head that no preset has names for.
  """
  system, found, path = sources.system, sources.found(), sources.main.path
  files = path if sources.clip is None else f'{path} and {sources.clip.path}'

  def sized(base: Preset) -> Preset:
    try:
      config = system.sized(base.config, found)
    except ValueError as error:
      raise ValueError(f'{files}: {error}') from None
    told = _told(sources, config) if base.vocabulary is not None else {}
    return dataclasses.replace(base, config=config, **told)

  if preset is not None:
    name, base = find_preset(preset)
    if base.system != system.name:
      raise ValueError(f'{name} is a preset of {base.system}, not of {system.name}')
    chosen = sized(base)
    if lines := differences(base.config, chosen.config):
      shown = ', '.join(lines[:NAMED])
      raise ValueError(f'{path} does not fit {name}: {shown}')
    return name, chosen
  candidates = {name: (base, sized(base)) for name, base in system.presets.items()}
  for name, (base, chosen) in candidates.items():
    same = base.vocabulary == chosen.vocabulary
    if same and not differences(base.config, chosen.config):
      return name, chosen
  fitting = [
    (_same_parts(base.config, chosen.config), name, chosen)
    for name, (base, chosen) in candidates.items()
    if _same_vocabulary(base, chosen)
  ]
  if fitting:
    # The first of those with the same parts, where there is one.
    _, name, chosen = max(fitting, key=lambda one: one[0])
    return f'{system.name} of its own sizes, otherwise {name}', chosen
  advice = 'put a config.json beside it whose id2label names its classes'
  if made := made_of(system.name):
    advice += (
      ', or take its proposals alone, for any words, by --system '
      f'{" or ".join(made)} with --clip FILE'
    )
  raise ValueError(
    f'{path} has a class head of its own, which no preset has names for: {advice}'
  )


def made_of(proposals: str) -> tuple[str, ...]:
  """The systems that proposals of a system, and a CLIP, make without more."""
  return tuple(
    system.name
    for system in all_systems()
    if system.from_parts and next(iter(system.parts.values())) == proposals
  )


def _told(sources: Sources, config: Any) -> dict[str, Any]:
  """Fields of a preset with a closed vocabulary that the main file and those beside it
  tell.

  Raises:
    ValueError: as many names are not as many classes.
  """
  main = sources.main
  if main.kind != sources.system.name or config.num_classes is None:
    return {}
  told = {k: v for k, v in main.preset_beside.items() if k == 'preprocessing'}
  names = main.preset_beside.get('labels')
  if names is None:
    known = sources.system.format.vocabularies.get(config.num_classes)
    return told if known is None else told | {'vocabulary': known}
  if len(names) != config.num_classes:
    raise ValueError(
      f'the config beside {main.path} names {len(names)} classes, and its class head '
      f'has {config.num_classes}: put the config there that belongs to it, or none'
    )
  return told | closed_vocabulary(names)


def _same_vocabulary(base: Preset, sized: Preset) -> bool:
  """False where a closed vocabulary would not fit the class head of the file."""
  if base.vocabulary is None:
    return True
  if base.vocabulary != sized.vocabulary:
    # The file's own; proposals are not a segmenter of one class.
    return base.config.num_classes != 1
  return sized.config.num_classes in (base.config.num_classes, None)


def _same_parts(base: Any, sized: Any) -> bool:
  """False where one config has a part, such as a backbone, that the other lacks."""
  for field in dataclasses.fields(base):
    ours, theirs = getattr(base, field.name), getattr(sized, field.name)
    parts = [dataclasses.is_dataclass(part) for part in (ours, theirs)]
    if any(parts) and not (type(ours) is type(theirs) and _same_parts(ours, theirs)):
      return False
  return True
