"""Official checkpoints to bundles and back.

A system's parameters come from one or two files: the official checkpoints of MaskCLIP
and MasQCLIP leave out CLIP's text tower, so that one comes from a CLIP the user names;
in those of OVSeg a CLIP that was tuned on masked crops can take the place of the one
inside. A proposal network, or a whole CLIP, can be taken out.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskclip_jax import plain
from maskclip_jax.checkpoints import bundle, params
from maskclip_jax.checkpoints.choice import (
  Sources,
  choose_preset,
  find_preset,
  made_of,
)
from maskclip_jax.checkpoints.detect import CLIP, Checkpoint, open_checkpoint, open_clip
from maskclip_jax.checkpoints.files import shards
from maskclip_jax.checkpoints.image_size import resize_bundle, with_image_size
from maskclip_jax.checkpoints.model_card import model_card
from maskclip_jax.mapping import rules
from maskclip_jax.names import an
from maskclip_jax.systems import system_names
from maskclip_jax.systems.clip.beside import CLIP_VOCABULARY
from maskclip_jax.systems.system import Preset, System, all_systems, find_system
from maskclip_jax.text.word_pieces import has_own_tokenizer

# Two files hold the same CLIP if a matrix agrees to rounding in half precision;
# different CLIPs differ by about as much as their values.
_SAME = 1e-2


@dataclasses.dataclass(frozen=True)
class Conversion:
  """What `convert_checkpoint` did; printing it tells a person."""

  directory: pathlib.Path
  system: str
  preset: str
  parameters: int
  notes: tuple[str, ...]

  def __str__(self) -> str:
    done = f'{self.directory}: {self.preset}, {self.parameters:,} parameters'
    return '\n'.join([*self.notes, done])


def convert_checkpoint(
  source: str | os.PathLike,
  to: str | os.PathLike,
  *,
  system: str | None = None,
  preset: str | Preset | None = None,
  clip: str | os.PathLike | None = None,
  image_size: int | None = None,
) -> Conversion:
  """Makes a bundle of an official checkpoint.

  Args:
    source: the checkpoint; or a bundle or run of proposals, to put a CLIP beside them;
      or any, with an image size alone.
    to: the bundle's directory.
    system: what to make of it, the name of a system; by default what the keys of the
      file say.
    preset: thresholds and what shapes do not tell; by default the published one of
      these sizes.
    clip: the CLIP (an official file or a bundle) a system was trained with, where its
      file lacks some of it; or what replaces the CLIP inside, or its mask prompts.
    image_size: side of the squares that its CLIP is shown, in pixels; what its file
      says by default.

  Raises:
    FileNotFoundError, ValueError: what is wrong with which file, and what to do.
  """
  bundle.check_target(to)
  if image_size is not None and not (system or preset or clip):
    path = bundle.locate(source)
    if bundle.is_bundle(path):
      preset, count, note = resize_bundle(path, to, image_size)
      title = find_system(preset.system).title
      return Conversion(pathlib.Path(to), preset.system, title, count, (note,))
  read = read_official(
    open_checkpoint(source),
    system=system,
    preset=preset,
    clip=clip,
    image_size=image_size,
  )
  origin, count = provenance(read.sources), params.count(read.parameters)
  card = model_card(read.name, read.preset, origin, count)
  config = read.preset.to_dict()
  bundle.save(
    to,
    config,
    read.parameters,
    source=origin,
    card=card,
    tokenizer=tokenizer_of(read.sources.clip or read.sources.main, read.preset),
  )
  notes = (*_files(read), *read.notes)
  return Conversion(pathlib.Path(to), read.preset.system, read.name, count, notes)


@dataclasses.dataclass(frozen=True)
class OfficialModel:
  """A model as its official files give it.

  Attributes:
    sources: the files.
    name: the name of the preset, or a description.
    preset: everything but the weights.
    parameters: path -> array.
    notes: what neither the weights nor a file beside them told.
  """

  sources: Sources
  name: str
  preset: Preset
  parameters: Mapping[str, np.ndarray]
  notes: tuple[str, ...]


def read_official(
  main: Checkpoint,
  *,
  system: str | None = None,
  preset: str | Preset | None = None,
  clip: str | os.PathLike | None = None,
  image_size: int | None = None,
) -> OfficialModel:
  """A model of official files, in memory; see `convert_checkpoint`."""
  chosen_system = _choose_system(main, system, preset)
  second = _choose_clip(main, chosen_system, clip)
  sources = Sources.of(main, second, chosen_system)
  name, chosen = choose_preset(sources, preset)
  parameters, notes = _gather(sources, chosen), _untold(sources, chosen)
  if image_size is not None:
    chosen, parameters = with_image_size(chosen, parameters, image_size)
  return OfficialModel(sources, name, chosen, parameters, notes)


def read_clip(path: str | os.PathLike) -> OfficialModel:
  """The CLIP that an official file is, or that the file of a system holds whole.

  Raises:
    FileNotFoundError, ValueError: see `open_checkpoint`; or there is no whole CLIP.
  """
  main = open_checkpoint(path)
  kinds = [n for n in _possible(main.kind) if not find_system(n).segments]
  if not kinds:
    raise ValueError(
      f'{main.path} is {an(main.title)} checkpoint and holds no whole CLIP: give the '
      'file of a CLIP, or a bundle of a system'
    )
  return read_official(main, system=kinds[0])


def _possible(kind: str) -> tuple[str, ...]:
  """What a file of some kind can be converted into: what it is, a part of it, or what
  can be made of its proposals and a CLIP."""
  if kind not in system_names():
    return ()
  parts, form = find_system(kind).parts, find_system(kind).format
  proposals = [system for part, system in parts.items() if part != CLIP] or [kind]
  lacking = form.left_out + form.may_lack if form else (f'{CLIP}/',)
  clips = [
    system
    for part, system in parts.items()
    if part == CLIP and not any(prefix.startswith(f'{CLIP}/') for prefix in lacking)
  ]
  made = (name for part in proposals for name in made_of(part))
  return tuple(dict.fromkeys((kind, *proposals, *clips, *made)))


def _choose_system(
  main: Checkpoint, system: str | None, preset: str | Preset | None
) -> System:
  possible = _possible(main.kind)
  if not possible:
    raise ValueError(
      f'{main.path} is {an(main.title)}, which is a part of a model: it initialises '
      'the training of a proposal network'
    )
  form = find_system(main.kind).format
  if form is not None and main.layout in form.only:
    raise ValueError(
      f'{main.path} holds the {main.layout.replace("_", " ")} of {an(main.title)} '
      'alone: give it by --clip beside the file of a whole model'
    )
  if system is None and preset is not None:
    system = find_preset(preset)[1].system
  system = system or possible[0]
  chosen = find_system(system)
  if main.layout == 'bundle' and system == main.kind:
    raise ValueError(
      f'{main.path} is a bundle, converted already: give it to --model, or choose by '
      f'--system what its proposals go into: {", ".join(possible[1:])}'
    )
  if system not in possible:
    raise ValueError(
      f'{main.path} looks like {an(main.title)} checkpoint and cannot become {system}: '
      f'use --system {possible[0]}'
    )
  return chosen


def _choose_clip(
  main: Checkpoint, system: System, clip: str | os.PathLike | None
) -> Checkpoint | None:
  kind, form = system.parts.get(CLIP), system.format
  own = main.kind == system.name
  if kind is None or (own and not form.left_out + form.may_lack + form.may_replace):
    if clip is not None:
      raise ValueError(f'--clip is not used for {system.name}: leave it out')
    return None
  if clip is not None:
    return open_clip(clip, _clip_kinds(system))
  if own and not form.left_out:
    # It may hold all; if not, reading it tells.
    return None
  raise ValueError(
    f"{main.path} does not hold CLIP's text tower: name the CLIP it was trained with "
    f'by --clip FILE (the published models: {_published_clip(kind)})'
  )


def _clip_kinds(system: System) -> tuple[str, ...]:
  """The systems that the CLIP of a system may be, the usual one first."""
  usual = system.parts[CLIP]
  allowed = plain.members(plain.field_type(system.config, [CLIP]))
  others = (other.name for other in all_systems() if other.config in allowed)
  return tuple(dict.fromkeys((usual, *others)))


def _published_clip(kind: str) -> str:
  """Where the CLIP is that the published models of the systems stand on."""
  return list(find_system(kind).cards.values())[-1].weights


def tokenizer_of(clip: Checkpoint, preset: Preset) -> pathlib.Path | None:
  """The file of the tokenizer that a CLIP needs; None if it has CLIP's own.

  Raises:
    ValueError: it is not where the weights are.
  """
  if not has_own_tokenizer(getattr(preset.config, CLIP, preset.config)):
    return None
  folder = clip.path if clip.path.is_dir() else clip.path.parent
  path = folder / bundle.TOKENIZER
  if not path.is_file():
    raise ValueError(
      f'{path} is missing, without which {an(clip.title)} reads no words: fetch it '
      'from the same repository and put it beside the weights'
    )
  return path


def _files(read: OfficialModel) -> list[str]:
  """What the files of a conversion are, and what was taken of them."""
  main, second = read.sources.main, read.sources.clip
  notes = [str(main), *rules.left_out(main.rules, main.tensors)]
  if main.kind != read.preset.system:
    masks = find_system(read.preset.system).segments
    taken = 'proposal network' if masks else 'CLIP'
    notes.append(f'took the {taken} out of {main.path.name}')
  return notes if second is None else [*notes, str(second)]


def _untold(sources: Sources, preset: Preset) -> tuple[str, ...]:
  """What the files do not tell, or tell and is done otherwise."""
  notes = tuple(sources.main.preset_beside.get('notes', ()))
  if sources.main.kind == preset.system and preset.vocabulary is not None:
    notes += tuple(_class_notes(sources.main, preset))
  clip = sources.clip or sources.main
  if clip.kind != CLIP:
    return notes + tuple(_family_notes(clip))
  return notes + tuple(_clip_notes(clip, getattr(preset.config, CLIP, preset.config)))


def _family_notes(clip: Checkpoint) -> list[str]:
  """What of a CLIP without a ViT of open_clip's own no file told."""
  if find_system(clip.kind).segments or clip.layout == 'bundle' or clip.beside:
    return []
  return [
    f'heads, activation and pixel statistics as in the published {clip.title}: no '
    'config beside the weights tells them'
  ]


def _class_notes(main: Checkpoint, preset: Preset) -> list[str]:
  """Where the names of a closed vocabulary come from."""
  if preset.labels:
    return [f'its {len(preset.labels)} classes are named by the config beside it']
  classes = preset.config.num_classes or 1
  if classes > 1 and 'labels' not in main.preset_beside:
    return [f'its {classes} classes are taken for {preset.vocabulary}, by their number']
  return []


def _clip_notes(clip: Checkpoint, config: Any) -> list[str]:
  """What of a CLIP neither its weights nor a file beside them told."""
  notes = []
  if 'activation' not in clip.beside:
    notes.append(
      "activation quick_gelu, as in OpenAI's weights: most other CLIPs need 'gelu', "
      'which their open_clip_config.json or config.json beside the weights tells'
    )
  if clip.layout != 'scenic' and 'vision_heads' not in clip.beside:
    notes.append(
      f'attention heads: {config.vision_heads} of {config.vision_width} channels and '
      f'{config.text_heads} of {config.text_width} for text, as in published CLIPs; '
      'nothing beside the weights tells them'
    )
  if config.vocab_size < CLIP_VOCABULARY:
    notes.append(
      f'its token table has {config.vocab_size} rows and the tokenizer '
      f'{CLIP_VOCABULARY} words: most words will mean nothing'
    )
  return notes


def _gather(sources: Sources, preset: Preset) -> dict[str, np.ndarray]:
  """Every parameter of the model, from the file that provides it."""
  main, second = sources.main, sources.clip
  model = params.abstract_model(preset.system, preset.config)
  expected = params.flatten(model)
  own = {path: leaf for path, leaf in expected.items() if sources.from_main(path)}
  flat = rules.convert(
    main.tensors,
    main.rules,
    own,
    partial=main.kind != preset.system
    or bool(sources.replaced)
    or sources.system.takes_part(preset.config),
    source=str(main.path),
    hint=_hint(sources),
  )
  if second is not None:
    rest = {path: leaf for path, leaf in expected.items() if path not in own}
    hint = f'is it the CLIP that {main.path.name} was trained with?'
    # One matrix is read of both, to see that they hold the same CLIP.
    if (witness := _witness(own, rest, sources)) is not None:
      only = {witness: expected[witness]}
      ours, theirs = _read(main, only), _read(second, only, hint)
      _check_same_clip(ours[witness], theirs[witness], sources)
    flat = _read(second, rest, hint) | flat
  return {path: flat[path] for path in expected}


def _read(
  file: Checkpoint, wanted: Mapping[str, Any], hint: str = ''
) -> dict[str, np.ndarray]:
  """Some of the parameters that a file holds."""
  return rules.convert(
    file.tensors, file.rules, wanted, partial=True, source=str(file.path), hint=hint
  )


def _hint(sources: Sources) -> str:
  """What to do where the main file lacks tensors."""
  system = sources.system
  lacking = sources.clip is None and sources.main.kind == system.name
  if not (lacking and system.format.may_lack):
    return ''
  where = _published_clip(system.parts[CLIP])
  return f'what is missing of its CLIP comes from --clip FILE ({where})'


def _witness(
  own: Mapping[str, Any], rest: Mapping[str, Any], sources: Sources
) -> str | None:
  """A matrix that both files hold alike if their CLIPs go together.

  One of the image tower that the main file gives. Where the CLIP replaces the one
  inside, one of the text tower: tuning on masked crops leaves that as it was, and the
  proposals were trained with its words. None if there is no such matrix.
  """
  if sources.replaced:
    text = f'{CLIP}/text/text_projection/kernel'
    return text if text in rest else None
  tower = f'{CLIP}/visual/'
  return next(
    (p for p in own if p.startswith(tower) and p.endswith('/proj/kernel')), None
  )


def _check_same_clip(ours: np.ndarray, theirs: np.ndarray, sources: Sources) -> None:
  # Written so that NaN in either file counts as a difference.
  if not np.abs(ours - theirs).max() <= _SAME * np.abs(ours).max():
    compared, other = 'image', 'text'
    if sources.replaced:
      compared, other = other, compared
    raise ValueError(
      f'{sources.clip.path} is not the CLIP that {sources.main.path} was trained with: '
      f'their {compared} towers differ, so its {other} tower would not fit'
    )


def provenance(sources: Sources) -> dict[str, Any]:
  """Where the weights of some files come from, for a bundle's config and card."""
  main, second = sources.main, sources.clip
  files = [main] if second is None else [main, second]
  criterion = main.shapes().get('criterion.empty_weight')
  return {
    'files': [
      {
        'name': f.path.name,
        'kind': f.kind,
        'layout': f.layout,
        'sha256': _sha256(f.path),
      }
      for f in files
    ],
    # The length of a buffer that official code insists on; nothing else tells it.
    'criterion_classes': criterion[0] - 1 if criterion else None,
    # What the main file left to the other one, and an export of it leaves out again.
    'left_out': list(sources.lacking()),
  }


def _sha256(path: pathlib.Path) -> str:
  """The hash of a file, of several after each other, or of a bundle's tensors."""
  digest = hashlib.sha256()
  for part in [path / bundle.TENSORS] if path.is_dir() else shards(path):
    with part.open('rb') as file:
      hashlib.file_digest(file, lambda: digest)
  return digest.hexdigest()
