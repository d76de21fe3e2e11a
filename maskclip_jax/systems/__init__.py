"""The systems, one folder each: `model(images, text) -> Outputs`."""

import pathlib
import pkgutil


def system_names() -> tuple[str, ...]:
  """The names of all systems, those of the folders that have presets.

  It imports none of them, so `--help` can name them too.
  """
  folders = (m for m in pkgutil.iter_modules(__path__) if m.ispkg)
  return tuple(
    sorted(
      folder.name
      for folder in folders
      if pathlib.Path(folder.module_finder.path, folder.name, 'presets.py').is_file()
    )
  )
