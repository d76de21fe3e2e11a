"""Bundles back to the layout of the official code.

A float32 checkpoint comes back byte for byte; one in half precision comes back widened.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskclip_jax import atomic
from maskclip_jax.checkpoints import bundle
from maskclip_jax.checkpoints.restore import read_preset
from maskclip_jax.checkpoints.tensor_file import write_tensors
from maskclip_jax.mapping import rules
from maskclip_jax.systems.system import System, find_system, system_of

_TORCH = ('.pth', '.pt', '.bin')


def export_official(
  model: str | os.PathLike, to: str | os.PathLike, *, layout: str | None = None
) -> str:
  """Writes a bundle as a checkpoint that the official PyTorch code reads.

  The text tower of a system is left out, as in the official files.

  Args:
    model: the bundle's directory.
    to: the file: `.safetensors`, or `.pth`, `.pt`, `.bin` for PyTorch's own format
      (needs the `torch` extra); replaced if it exists.
    layout: one of `systems.clip.checkpoint.LAYOUTS` for a CLIP, 'openai' (also
      open_clip's) by default, or 'mask_prompts' for these alone. Most systems have one
      layout.

  Returns:
    One line that tells what was written.

  Raises:
    FileNotFoundError, ValueError: no bundle, or no such layout.
    OSError: the file cannot be written; nothing is left behind.
  """
  to = pathlib.Path(to)
  if to.suffix not in ('.safetensors', *_TORCH):
    raise ValueError(f'{to}: the name must end in .safetensors, or in .pth for PyTorch')
  if to.is_dir():
    raise ValueError(f'{to} is a directory: name a file')
  opened = bundle.load(model)
  preset = read_preset(opened)
  system = find_system(preset.system)
  table = _table(system, preset.config, layout, opened.source)
  left_out = (*system.format.left_out, *opened.source.get('left_out', ()))
  only = system.format.only.get(layout, '')
  stored = [
    path
    for path in opened.parameters
    if path.startswith(only) and not path.startswith(left_out)
  ]
  if not stored:
    raise ValueError(f'{model} has nothing of what a file of {layout} holds')
  tensors = rules.invert({path: opened.parameters[path] for path in stored}, table)
  with atomic.file(to) as partial:
    if to.suffix in _TORCH:
      _write_torch(partial, tensors, system.format.wrapper)
    else:
      # The mark by which the reference libraries know whose conventions these are.
      write_tensors(partial, tensors, {'format': 'pt'})
  return f'{to}: {len(tensors)} tensors in the official layout of {preset.system}'


def _table(
  system: System, config: Any, layout: str | None, source: Mapping[str, Any]
) -> rules.Rules:
  form = system.format
  if form is None or form.write is None:
    raise ValueError(
      f'{system.name} has no official layout: write it as a bundle (--format bundle), '
      'or export the models it is made of'
    )
  # Parts of a system without a rule are what its own files hold.
  for part, usual in system.parts.items() if system.rule else ():
    if (found := system_of(getattr(config, part))).name != usual:
      raise ValueError(
        f'the {part} of this model are of {found.title}, for which the official layout '
        f'of {system.title} has no place: write it as a bundle (--format bundle)'
      )
  if layout is not None and len(form.signatures) == 1:
    raise ValueError(f'{system.name} has one official layout: leave the layout out')
  layout = layout or next(iter(form.signatures))
  if layout not in form.signatures:
    known = ', '.join(form.signatures)
    raise ValueError(f'layout must be one of {known}: {layout!r}')
  return form.write(config, layout, source.get('criterion_classes') or form.classes)


def _write_torch(
  path: pathlib.Path, tensors: Mapping[str, np.ndarray], wrapper: str
) -> None:
  """PyTorch's format; detectors have their state dict below an entry, 'model'."""
  try:
    import torch
  except ImportError as error:
    raise ValueError(
      'PyTorch is not installed: pip install maskclip_jax[torch], or export to a name '
      'that ends in .safetensors'
    ) from error
  # A view must be copied: PyTorch would save the whole array it looks at.
  state = {k: torch.from_numpy(np.array(a, order='C')) for k, a in tensors.items()}
  torch.save({wrapper: state} if wrapper else state, path)
