"""The systems, one folder each: `model(images, text) -> Outputs`."""

import pkgutil


def system_names() -> tuple[str, ...]:
  """The names of all systems, those of the folders.

  It imports none of them, so `--help` can name them too.
  """
  modules = pkgutil.iter_modules(__path__)
  return tuple(sorted(module.name for module in modules if module.ispkg))
