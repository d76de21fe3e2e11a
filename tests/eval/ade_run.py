"""A generated ADE20K-150, built once, and a model to evaluate on it."""

import functools
import pathlib
import tempfile

import ade_scenes
import colour_model
import jax

from maskclip_jax.data.build import build
from maskclip_jax.eval.evaluator import Evaluator, Options
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import PROTOCOLS

PHOTOS = 10
# The model takes beds for cars.
WRONG = {ade_scenes.BED: ade_scenes.CAR}


@functools.cache
def data_dir() -> pathlib.Path:
  """Where the built dataset lies; the folder lives as long as the process."""
  root = pathlib.Path(_folder().name)
  build('ade20k_150', ade_scenes.write(root / 'raw', PHOTOS), root / 'built')
  return root / 'built'


@functools.cache
def _folder():
  return tempfile.TemporaryDirectory()


@functools.cache
def segmenter():
  return colour_model.segmenter(wrong=WRONG)


def source(name='ade150', **kwargs) -> ProtocolSource:
  return ProtocolSource(PROTOCOLS[name].for_system('masqclip'), data_dir(), **kwargs)


def evaluator(name='ade150', devices=1, **options) -> Evaluator:
  run = PROTOCOLS[name].for_system('masqclip')
  return Evaluator(
    segmenter(), run, Options(**options), devices=jax.local_devices()[:devices]
  )
