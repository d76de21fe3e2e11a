"""Open-vocabulary image segmentation in JAX: a lazy façade over the public API.

Importing this package loads none of its heavy parts; each name is imported on first
use. See README.md for a tour.
"""

import importlib

from maskclip_jax._version import __version__

_HOME = {
  'load': 'maskclip_jax.segmenter',
  'Segmenter': 'maskclip_jax.segmenter',
  'list_models': 'maskclip_jax.zoo',
  'Vocabulary': 'maskclip_jax.text.vocabulary',
  'Prediction': 'maskclip_jax.results.prediction',
}

__all__ = [
  'Prediction',
  'Segmenter',
  'Vocabulary',
  '__version__',
  'list_models',
  'load',
]


def __getattr__(name: str):
  if name not in _HOME:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOME[name]), name)


def __dir__():
  return sorted(__all__)
