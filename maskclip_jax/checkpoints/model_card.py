"""The text of a bundle's MODEL_CARD.md: what it is, whence it comes, what it may."""

from collections.abc import Mapping
from typing import Any

from maskclip_jax import zoo
from maskclip_jax.checkpoints.detect import formats, title_of
from maskclip_jax.systems.system import Preset, find_system


def model_card(
  name: str, preset: Preset, source: Mapping[str, Any], parameters: int
) -> str:
  """Markdown for people.

  Args:
    name: the preset's name, or a description where the sizes are others.
    preset: what the bundle is built by.
    source: the bundle's provenance, as `bundle.Bundle.source`.
    parameters: how many there are.
  """
  card = zoo.cards().get(name)
  sections = [
    f'# {name}\n\n{card.summary if card else find_system(preset.system).title}',
    f'System `{preset.system}`, {parameters:,} parameters, all float32.',
    _files(source['files']),
    _licence(source['files']),
  ]
  if card and card.numbers:
    sections.append(
      '## Published numbers\n\n'
      f'{card.numbers}\n\nThese are published results for the official weights, not '
      'measurements of this bundle.'
    )
  sections.append(
    '## Use\n\n```python\nimport maskclip_jax\n\n'
    "segmenter = maskclip_jax.load('this/directory')\n```"
  )
  return '\n\n'.join(sections) + '\n'


def _files(files) -> str:
  rows = [f'| `{f["name"]}` | {title_of(f["kind"])} | `{f["sha256"]}` |' for f in files]
  heading = '## Where the weights come from\n\n| file | kind | sha256 |\n|---|---|---|'
  return '\n'.join([heading, *rows])


def _licence(files) -> str:
  lines = dict.fromkeys(f'- {title_of(f["kind"])}: {_terms(f)}' for f in files)
  return '\n'.join(
    [
      '## Licence of the weights',
      '',
      *lines,
      '',
      'Changing the file format changes no licence: the bundle inherits the strictest '
      'of its parts.',
    ]
  )


def _terms(file: Mapping[str, str]) -> str:
  if file['layout'] == 'bundle':
    # It may hold anybody's weights: what they may is written in its own card.
    return f'the terms of `{file["name"]}`, see its MODEL_CARD.md'
  return formats()[file['kind']].licence
