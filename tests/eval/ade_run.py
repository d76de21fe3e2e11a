"""A generated ADE20K-150, built once, and a model to evaluate on it."""

import dataclasses
import functools
import pathlib
import tempfile

import ade_scenes
import colour_model
import jax

from maskclip_jax.data.build import build
from maskclip_jax.eval.evaluator import Evaluator, Options
from maskclip_jax.eval.examples import ProtocolSource
from maskclip_jax.eval.protocols import PROTOCOLS, ProtocolRun

PHOTOS = 10
# What evaluations of all of them are called, as the published split has more.
SHARE = f'{PHOTOS} of 2000'
# Photos stay about as large as they are: the papers' sizes would only cost time.
SIZE = {'short_edge': 96, 'long_edge': 256}
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


def run(name='ade150') -> ProtocolRun:
  found = PROTOCOLS[name].for_system('masqclip')
  return ProtocolRun(found.protocol, dataclasses.replace(found.settings, **SIZE))


def source(name='ade150', **kwargs) -> ProtocolSource:
  return ProtocolSource(run(name), data_dir(), **kwargs)


def evaluator(name='ade150', devices=1, **options) -> Evaluator:
  return Evaluator(
    segmenter(), run(name), Options(**options), devices=jax.local_devices()[:devices]
  )
