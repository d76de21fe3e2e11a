"""Crosses: the proposals of one model, and the CLIP of another that names them.

A cross is a model of the system whose rule it follows, with other parts. So all that
works with that system works with it: scores, protocols, training.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskclip_jax import plain
from maskclip_jax.checkpoints import bundle, convert, restore
from maskclip_jax.checkpoints.choice import Sources
from maskclip_jax.checkpoints.detect import CLIP, Checkpoint, open_checkpoint
from maskclip_jax.checkpoints.model_card import model_card
from maskclip_jax.checkpoints.tensor_file import Tensors, shapes_of
from maskclip_jax.mapping.sizes import KnownSizes
from maskclip_jax.names import an, unknown
from maskclip_jax.systems import system_names
from maskclip_jax.systems.contract import Scores, parse_scores
from maskclip_jax.systems.parts import idle_parts
from maskclip_jax.systems.system import (
  Naming,
  Preset,
  System,
  all_systems,
  find_system,
  system_of,
)

_PROPOSALS = 'proposals'
# Scores that weigh the proposals' own opinion on words against CLIP's.
_WEIGHTS = frozenset({'seen_weight', 'unseen_weight'})
# Our path -> where its array is, and the path there.
_Places = dict[str, tuple[Mapping[str, np.ndarray], str]]


@dataclasses.dataclass(frozen=True)
class Ingredient:
  """One of the two models of a cross.

  Attributes:
    name: what people call it.
    preset: everything but its weights.
    parameters: path -> array.
    files: what they come from, as in a bundle's `source`.
    text_fingerprint: that of its text tower, where a bundle tells it.
    tokenizer: the file of its tokenizer, if that is not CLIP's.
    notes: what neither its weights nor a file beside them told.
  """

  name: str
  preset: Preset
  parameters: Mapping[str, np.ndarray]
  files: tuple[Mapping[str, str], ...]
  text_fingerprint: str | None = None
  tokenizer: pathlib.Path | None = None
  notes: tuple[str, ...] = ()

  @property
  def system(self) -> System:
    """What it is."""
    return find_system(self.preset.system)

  def text_tower(self) -> str | None:
    """The fingerprint of its text tower; None without one."""
    if self.text_fingerprint is not None:
      return self.text_fingerprint
    tower = [path for path in self.parameters if '/text/' in f'/{path}']
    return bundle.fingerprints({path: self.parameters[path] for path in tower})[1]

  def below(self, prefix: str, to: str) -> _Places:
    """The parameters below a prefix, for those below another."""
    return {
      to + path.removeprefix(prefix): (self.parameters, path)
      for path in self.parameters
      if path.startswith(prefix)
    }


@dataclasses.dataclass(frozen=True)
class Cross:
  """A model made of two; printing it tells a person.

  Attributes:
    name: what is put together.
    preset: everything but the weights.
    parameters: path -> array, read when they are looked up.
    files: what they come from.
    text_fingerprint: that of the text tower, where a bundle tells it.
    tokenizer: the file of its tokenizer, if that is not CLIP's.
    notes: what neither the weights nor files beside them told.
    proposal_fingerprint: as `text_fingerprint`, of the proposals' model.
  """

  name: str
  preset: Preset
  parameters: Mapping[str, np.ndarray]
  files: tuple[Mapping[str, str], ...]
  text_fingerprint: str | None
  tokenizer: pathlib.Path | None
  notes: tuple[str, ...]
  proposal_fingerprint: str | None = None

  def save(self, to: str | os.PathLike) -> None:
    """Writes the cross as a bundle; errors as for `bundle.save`."""
    source = {'files': [dict(file) for file in self.files]}
    card = model_card(self.name, self.preset, source, self.count())
    bundle.save(
      to,
      self.preset.to_dict(),
      self.parameters,
      source=source,
      card=card,
      tokenizer=self.tokenizer,
    )

  def count(self) -> int:
    """How many parameters it has."""
    return sum(math.prod(shape) for shape in shapes_of(self.parameters).values())

  def __str__(self) -> str:
    return f'{self.name}, {self.count():,} parameters'


def rules() -> dict[str, System]:
  """The systems that name masks of any proposals, by the names of their rules."""
  return {system.rule.name: system for system in all_systems() if system.rule}


def open_ingredient(
  model: str | os.PathLike, cache_dir: str | os.PathLike | None = None
) -> Ingredient:
  """A model as `load` takes it, or an official file that holds a whole one.

  Raises:
    FileNotFoundError, ValueError: there is no such model, or its file lacks something.
  """
  path = pathlib.Path(model)
  if path.exists() and not bundle.is_bundle(bundle.locate(path)):
    main = open_checkpoint(path)
    if _lacks_clip(main):
      raise ValueError(
        f'{path} is {an(main.title)} checkpoint, which lacks some of its CLIP: make a '
        'bundle of it first, `convert FILE --clip CLIP --to DIR`, and give that'
      )
    read = convert.read_official(main)
    files = convert.provenance(read.sources)['files']
    return Ingredient(
      str(path),
      read.preset,
      read.parameters,
      tuple(files),
      tokenizer=convert.tokenizer_of(main, read.preset),
      notes=tuple(f'{path}: {note}' for note in read.notes),
    )
  opened, preset = restore.open_bundle(restore.find_bundle(model, cache_dir))
  own = {
    'name': opened.directory.name,
    'kind': preset.system,
    'layout': 'bundle',
    'sha256': opened.fingerprint,
  }
  files = opened.source.get('files') or [own]
  return Ingredient(
    str(model),
    preset,
    opened.parameters,
    tuple(files),
    opened.text_fingerprint,
    opened.tokenizer,
  )


def _lacks_clip(main: Checkpoint) -> bool:
  """Whether a file leaves some of its CLIP to another one."""
  if main.kind not in system_names():
    return False
  system = find_system(main.kind)
  left_out = system.format.left_out if system.format else ()
  return bool(left_out or Sources.of(main, None, system).lacking())


def cross(
  proposals: Ingredient,
  classifier: Ingredient,
  rule: str | None = None,
  score: Mapping[str, Any] | str | None = None,
) -> Cross:
  """Puts the proposals of one model before the CLIP of another.

  Args:
    proposals: a model that proposes masks.
    classifier: a CLIP, or a model that has one.
    rule: how masks are named, one of `rules()`; by default as the classifier does.
    score: fields of `Scores` to change, as a table or as 'coat=0.5,mask_threshold=0.4'.
      A weight asks the proposals' own opinion on words too, if they have one and their
      text tower is the classifier's.

  Raises:
    ValueError: no masks, no CLIP, no such rule, or a CLIP that the rule does not suit;
      a score that the rule does not read.
  """
  system, naming = _rule(classifier, rule)
  changes = parse_scores(score) if isinstance(score, str) else dict(score or {})
  opinion = _opinion(system, proposals, classifier, changes)
  joint, asked = (bool(opinion.get(x)) for x in ('joint', 'proposal_words'))
  masks, places = _proposals(proposals, asked)
  own, clip = classifier.preset, _clip(classifier)
  usual = next(iter(system.presets.values()))
  if not asked:
    usual = dataclasses.replace(usual, training=None)
  if reason := system.rule.suits(clip):
    raise ValueError(
      f'the rule {system.rule.name} is not for {classifier.name}: {reason}'
    )
  if own.system == system.name:
    # Words and thresholds of two opinions joined are those of other proposals.
    base = usual if own.config.joint or asked else own
    config = dataclasses.replace(own.config, proposals=masks, **opinion)
  else:
    base = usual
    fields = {**system.rule.untuned, **(naming or Naming()).fields}
    config = system.config(proposals=masks, clip=clip, **opinion, **fields)
  if naming is not None:
    words = naming.words or base.words
    base = dataclasses.replace(base, words=words, scores=own.scores)
  if joint:
    base = _joint(base, proposals.preset)
  if opinion.get('proposal_words') == '':
    base = dataclasses.replace(base, **system.rule.alone)
  base = dataclasses.replace(
    base,
    config=config,
    preprocessing=proposals.preset.preprocessing,
    postprocessing=_results(proposals.preset, base),
  )
  preset = dataclasses.replace(base, scores=_scores(system, base, changes))
  files = {file['sha256']: file for file in (*proposals.files, *classifier.files)}
  return Cross(
    f'{system.title}: masks of {proposals.name}, named by {classifier.name}',
    preset,
    _parameters(preset, places, classifier),
    tuple(files.values()),
    classifier.text_fingerprint,
    classifier.tokenizer,
    tuple(dict.fromkeys(proposals.notes + classifier.notes)),
    proposals.text_fingerprint,
  )


def cross_models(
  proposals: str | os.PathLike,
  classifier: str | os.PathLike,
  rule: str | None = None,
  *,
  score: Mapping[str, Any] | str | None = None,
  to: str | os.PathLike | None = None,
  cache_dir: str | os.PathLike | None = None,
) -> Cross:
  """Opens two models and puts them together; arguments and errors are those of
  `maskclip_jax.compose`."""
  if to is not None:
    bundle.check_target(to)
    taken = pathlib.Path(to).resolve()
    if taken in [bundle.locate(m).resolve() for m in (proposals, classifier)]:
      raise ValueError(f'{to} is one of the two models: write to another directory')
  models = (open_ingredient(model, cache_dir) for model in (proposals, classifier))
  made = cross(*models, rule, score)
  if to is not None:
    made.save(to)
  return made


def _opinion(
  system: System,
  proposals: Ingredient,
  classifier: Ingredient,
  changes: Mapping[str, Any],
) -> dict[str, Any]:
  """The field of a rule's config that says what the proposals are asked of words.

  Args:
    system: that of the rule.
    proposals, classifier: the two models.
    changes: scores asked for; a weight asks the proposals too, if they read words as
      the classifier does.
  """
  weights = _WEIGHTS.intersection(changes)
  if system.rule.alone is None:
    if weights:
      _check_joint(proposals, classifier)
    return {'joint': bool(weights)}
  words = _own_words(proposals)
  if weights and not words:
    raise ValueError(
      f'{proposals.name} is {an(proposals.system.title)}, whose proposals have no text '
      f'tower of their own to name masks by: leave {" and ".join(sorted(weights))} out'
    )
  return {'proposal_words': words}


def _own_words(model: Ingredient) -> str:
  """How a model's proposals read words by their own text tower; '' if they cannot."""
  if _PROPOSALS in model.system.parts:
    return getattr(model.preset.config, 'proposal_words', '')
  return model.preset.words if model.system.proposals_read_words else ''


def _proposals(model: Ingredient, reads_words: bool) -> tuple[Any, _Places]:
  """The config of what proposes a model's masks, and its parameters.

  Args:
    model: proposes masks, or has a part that does.
    reads_words: the proposals name masks by their own text tower.
  """
  system, to = model.system, f'{_PROPOSALS}/'
  if _PROPOSALS in system.parts:
    config = getattr(model.preset.config, _PROPOSALS)
    idle = tuple(f'{to}{part}/' for part in idle_parts(system_of(config), reads_words))
    places = model.below(to, to).items()
    return config, {path: x for path, x in places if not path.startswith(idle)}
  if system.proposes_without is None:
    raise ValueError(f'{model.name} is {an(system.title)}, which proposes no masks')
  idle = tuple(f'{part}/' for part in idle_parts(system, reads_words))
  shapes = {
    path: shape
    for path, shape in shapes_of(model.parameters).items()
    if not f'{path}/'.startswith(idle)
  }
  config = system.sized(model.preset.config, KnownSizes(shapes))
  return config, {to + path: (model.parameters, path) for path in shapes}


def _clip(model: Ingredient) -> Any:
  """The config of the CLIP that a model is or has."""
  if not model.system.segments:
    return model.preset.config
  if CLIP not in model.system.parts:
    raise ValueError(f'{model.name} is {an(model.system.title)}, which has no CLIP')
  return getattr(model.preset.config, CLIP)


def _rule(model: Ingredient, rule: str | None) -> tuple[System, Naming | None]:
  """The system of a rule, and how a model names masks by it, if it does."""
  known, others = rules(), model.system.names_by
  if rule is None:
    usual = [model.system.rule.name] if model.system.rule else list(others)
    if len(usual) != 1:
      raise ValueError(
        f'{model.name} is {an(model.system.title)}, which names no masks: say how it '
        f'should by a rule, one of {", ".join(known)}'
      )
    rule = usual[0]
  if rule not in known:
    raise unknown('rule', rule, known)
  return known[rule], others.get(rule)


def _results(proposals: Preset, base: Preset) -> Any:
  """Post-processing: of the classifier, whose scores it judges, but masks that divide a
  photo are not put together as overlapping ones are."""
  divided = proposals.postprocessing.objects == 'pieces'
  return (proposals if divided else base).postprocessing


def _check_joint(proposals: Ingredient, classifier: Ingredient) -> None:
  """Refuses to join two opinions on words where there is one, or where their vectors
  are of different spaces."""
  system = proposals.system
  if not _WEIGHTS.issubset(system.reads_scores):
    raise ValueError(
      f'{proposals.name} is {an(system.title)}, whose proposals are not named by words'
      f': there is nothing to weigh by {" or ".join(sorted(_WEIGHTS))}'
    )
  if proposals.text_tower() != classifier.text_tower():
    raise ValueError(
      f'{proposals.name} and {classifier.name} have different text towers, so their '
      f'opinions on words cannot be joined: leave {" and ".join(sorted(_WEIGHTS))} out'
    )


def _joint(base: Preset, proposals: Preset) -> Preset:
  """A preset that reads words, and combines what is said of them, as the proposals'
  own system does."""
  weights = {name: getattr(proposals.scores, name) for name in _WEIGHTS}
  return dataclasses.replace(
    base,
    words=proposals.words,
    training=proposals.training,
    postprocessing=proposals.postprocessing,
    scores=dataclasses.replace(base.scores, **weights),
  )


def _scores(system: System, preset: Preset, changes: Mapping[str, Any]) -> Scores:
  """The scores of a preset, changed where the system reads them."""
  read = {'coat', *system.scores_of(preset.config)}
  if unread := sorted(set(changes) - read):
    raise ValueError(
      f'the rule {system.rule.name} reads no score {", ".join(unread)}, only '
      f'{", ".join(sorted(read))}'
    )
  return plain.change(preset.scores, changes, 'score')


def _parameters(
  preset: Preset, masks: _Places, model: Ingredient
) -> Mapping[str, np.ndarray]:
  """Every parameter of a cross: of the masks, of the other model, or of its CLIP."""
  if model.preset.system == preset.system:
    own = model.below('', '').items()
    own = {path: place for path, place in own if not path.startswith(f'{_PROPOSALS}/')}
  else:
    prefix = f'{CLIP}/' if model.system.segments else ''
    own = model.below(prefix, f'{CLIP}/')
    derived = find_system(preset.system).rule.derived(Tensors(own))
    own |= {path: (derived, path) for path in derived}
  return Tensors(own | masks)
