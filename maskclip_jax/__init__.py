"""Open-vocabulary image segmentation in JAX: a lazy façade over the public API.

To segment photos by words: `load`, `Segmenter`, `Vocabulary`, `Prediction`,
`list_models`. To build on the networks: `load_model`, `load_clip`, `Images`,
`TextBank`, `Outputs`.

Importing this package loads none of its heavy parts; each name is imported on first
use. See README.md for a tour.
"""

import importlib

from maskclip_jax._version import __version__

_HOME = {
  'ClipEncoder': 'maskclip_jax.clip',
  'Images': 'maskclip_jax.systems.contract',
  'Outputs': 'maskclip_jax.systems.contract',
  'Prediction': 'maskclip_jax.results.prediction',
  'Segmenter': 'maskclip_jax.segmenter',
  'TextBank': 'maskclip_jax.systems.contract',
  'Vocabulary': 'maskclip_jax.text.vocabulary',
  'compose': 'maskclip_jax.crosses',
  'list_models': 'maskclip_jax.zoo',
  'load': 'maskclip_jax.segmenter',
  'load_clip': 'maskclip_jax.clip',
  'load_model': 'maskclip_jax.checkpoints.restore',
}

__all__ = [*_HOME, '__version__']


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
  return sorted(__all__)
