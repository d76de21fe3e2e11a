"""The models by name: what the systems' folders list, in one table.

Two models come with the package, for a generated world: `masqclip_miniature_192` and
`clip_baseline_miniature`.
The official weights are under licences of their own: fetch them from their authors and
`convert` them, which makes a bundle.
"""

import pathlib

from maskclip_jax.systems.system import ModelCard, Preset, all_systems

# What to fetch for photographs, if nothing else decides: good numbers, and a licence
# for any use.
FOR_PHOTOGRAPHS = 'fcclip_convnext_large'

_PACKAGE = pathlib.Path(__file__).parent


def presets() -> dict[str, Preset]:
  """Every preset by its name."""
  return {n: p for system in all_systems() for n, p in system.presets.items()}


def cards() -> dict[str, ModelCard]:
  """What is known of each listed model, by its name.

  Those that work at once come first, parts that make no masks last.
  """
  systems = sorted(all_systems(), key=lambda system: not system.segments)
  listed = {name: card for system in systems for name, card in system.cards.items()}
  return dict(sorted(listed.items(), key=lambda item: not item[1].shipped))


def shipped() -> dict[str, pathlib.Path]:
  """Models whose bundles are part of the package: name -> directory."""
  return {n: _PACKAGE / card.shipped for n, card in cards().items() if card.shipped}


def list_models() -> list[str]:
  """Names that `load` and the command line know."""
  return list(cards())


def find_preset(name: str) -> Preset:
  """The preset of a name.

  Raises:
    ValueError: there is none.
  """
  if name not in presets():
    raise ValueError(
      f'there is no model {name!r}: `maskclip_jax models list` names them all'
    )
  return presets()[name]
