"""What the page shows before anything was asked: the model, its limits, words."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from maskclip_jax import zoo
from maskclip_jax.deploy.server.request_form import count_words
from maskclip_jax.deploy.server.settings import Settings
from maskclip_jax.postprocess import OUTPUT_KINDS
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Shown:
  """Plain values for the page.

  Attributes:
    model: what the model is and what the server takes.
    words: names of classes, to suggest.
  """

  model: dict[str, Any]
  words: list[str]


def describe(
  segmenter: Segmenter,
  model: str,
  settings: Settings,
  words: Mapping[str, Vocabulary],
) -> Shown:
  """What the page shows of a model.

  Args:
    segmenter: the model.
    model: its name.
    settings: the limits.
    words: vocabularies of the start, by what the operator wrote.
  """
  preset, card = segmenter.preset, zoo.cards().get(model)
  sizes = {
    name: len(found)
    for name, found in _bundled().items()
    if count_words(found.for_system(preset.words)) <= settings.max_words
  }
  return Shown(
    {
      'model': model,
      'limits': card.limits if card else '',
      'tasks': list(OUTPUT_KINDS),
      'vocabulary': preset.vocabulary,
      'vocabularies': {} if preset.vocabulary else sizes,
      'words': next((_shown(*item) for item in words.items()), ''),
      'object_threshold': preset.postprocessing.object_threshold,
      'overlap_threshold': preset.postprocessing.overlap_threshold,
      'max_bytes': settings.max_bytes,
      'max_pixels': settings.max_pixels,
      'max_files': settings.max_files,
      'max_words': settings.max_words,
      'canvases': [list(canvas) for canvas in settings.canvases],
    },
    [] if preset.vocabulary else list(_names()),
  )


def _shown(written: str, found: Vocabulary) -> str:
  """A name as it is, and a file or words as a person would type them."""
  if written in Vocabulary.names():
    return written
  kinds = {True: '', False: 'stuff:'}
  return '; '.join(kinds[one.thing] + ', '.join(one.words) for one in found.classes)


@functools.cache
def _bundled() -> dict[str, Vocabulary]:
  return {name: Vocabulary.named(name) for name in Vocabulary.names()}


@functools.cache
def _names() -> tuple[str, ...]:
  """Names of classes, each once, those of smaller vocabularies first."""
  found = sorted(_bundled().values(), key=len)
  return tuple(dict.fromkeys(one.name for v in found for one in v.classes))
