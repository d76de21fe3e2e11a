"""How words become vectors: template sentences, averaging, and an extra void word.

Each published system has its own treatment ([masqclip 6], [ovseg 6], [segclip 4.1]),
kept in treatments.json; changing it silently changes every number. Template sets are in
templates.json.
"""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from maskclip_jax import plain
from maskclip_jax.names import shown, unknown


@functools.cache
def _read(file: str) -> dict:
  return json.loads(importlib.resources.files(__package__).joinpath(file).read_bytes())


def template_sets() -> tuple[str, ...]:
  """Names of the template sets: none, simple, vild_14, imagenet_80."""
  return tuple(_read('templates.json'))


def systems() -> tuple[str, ...]:
  """Names of the published treatments, and 'clean', which adds nothing."""
  return tuple(_read('treatments.json'))


Synonyms = Literal['mean', 'max']


@dataclasses.dataclass(frozen=True)
class Treatment:
  """How the words of a class become its vector.

  Attributes:
    system: whose exact prompts to prefer where a class lists them.
    void: word of an extra last column, which takes part in the softmax and is never a
      result; None for no such column.
    templates: sentences with one '{}' each, or the name of a set of them.
    normalise_first: whether each prompt's vector is normalised before averaging. The
      average is normalised in any case.
    wordless: name of a class that no word stands for, if the vocabulary has it. Its
      vector is zero; what all words fit too little belongs to it.
    synonyms: what several words of a class become: 'mean', one vector; or 'max', a
      vector each, of which the one that fits a region best counts.
    learned_void: whether the model has a vector of its own for the extra last column.

  Raises:
    ValueError: an unknown template set, a template without exactly one '{}', an unknown
      rule for synonyms, or a void word beside a learned vector.
  """

  system: str = 'clean'
  void: str | None = None
  templates: str | Sequence[str] = ('{}',)
  normalise_first: bool = False
  wordless: str | None = None
  synonyms: Synonyms = 'mean'
  learned_void: bool = False

  def __post_init__(self):
    templates = self.templates
    if isinstance(templates, str) and '{}' not in templates:
      if templates not in template_sets():
        raise unknown('template set', templates, template_sets())
      templates = _read('templates.json')[templates]
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    for template in templates:
      if not isinstance(template, str):
        raise ValueError(f'the template {shown(template)} must be a text')
      if template.count('{}') != 1:
        raise ValueError(
          f"the template {shown(template)} must hold '{{}}' once, in the word's place"
        )
    if not templates:
      raise ValueError("no templates: give at least '{}'")
    if self.void is not None and not self.void.strip():
      raise ValueError('the void word is empty: give a word, or None for no column')
    if self.void is not None and self.learned_void:
      raise ValueError(f'the void column is {shown(self.void)} or learned, not both')
    if self.synonyms not in get_args(Synonyms):
      raise ValueError(
        f'synonyms must be one of {get_args(Synonyms)}, not {shown(self.synonyms)}'
      )
    object.__setattr__(self, 'templates', templates)

  @classmethod
  def of(cls, system: str) -> 'Treatment':
    """The treatment of a published system.

    Raises:
      ValueError: an unknown system.
    """
    if system not in systems():
      raise unknown('treatment', system, systems())
    fields = dict(_read('treatments.json')[system])
    del fields['about']
    return cls(**{'system': system, **fields})

  @classmethod
  def from_json(cls, data: str | Mapping[str, Any]) -> 'Treatment':
    """A treatment from its name or its fields.

    Raises:
      ValueError: an unknown name or field.
    """
    if isinstance(data, str):
      return cls.of(data)
    fields = [field.name for field in dataclasses.fields(cls)]
    if not isinstance(data, Mapping):
      raise ValueError(f'a treatment is a name or an object, not {shown(data)}')
    for key in data:
      if key not in fields:
        raise unknown('part of a treatment', key, fields)
    return plain.read(cls, data, 'treatment')

  def fill(self, words: Iterable[str]) -> list[str]:
    """The prompts for some words of one class: every word in every template."""
    words = [word.strip() for word in words]
    return [t.replace('{}', word) for word in words for t in self.templates]
