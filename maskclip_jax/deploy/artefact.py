"""Artefacts: a model as programs that run without this package.

An artefact is a directory: programs for photos on canvases of fixed sizes and one for
prompts, their weights, `manifest.json`, words to begin with, and a short script that
segments a photo and needs neither this package nor its networks.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Collection
from typing import Any, Literal

import jax
import numpy as np

from maskclip_jax import atomic, jax_settings, plain
from maskclip_jax._version import __version__
from maskclip_jax.deploy import onnx_file, savedmodel, stablehlo
from maskclip_jax.deploy.canvases import check_canvas, rounded_up
from maskclip_jax.deploy.parity import local_platform, parity
from maskclip_jax.deploy.programs import (
  Program,
  number_inputs,
  photo_program,
  text_program,
)
from maskclip_jax.deploy.run_artefact import load_program, sha256
from maskclip_jax.deploy.words import Words
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import STRIDE

FORMAT = 'maskclip_jax artefact 1'
MANIFEST, WORDS_FILE, CARD = 'manifest.json', 'words.npz', 'MODEL_CARD.md'
RUNNER = 'run_artefact.py'
FORMATS = ('stablehlo', 'savedmodel', 'onnx')
# What one program runs on unless others are asked for.
PLATFORMS = ('cpu', 'cuda', 'tpu')
# Words of an artefact that is exported without any.
SOME_WORDS = 'cat; dog; person; stuff:sky; stuff:grass'


@dataclasses.dataclass(frozen=True)
class ArtefactConfig:
  """What an artefact is made for.

  Attributes:
    canvases: (height, width) of the photos' canvases, multiples of 32; empty for those
      that hold every photo of the preset's preprocessing, lying or upright.
    result_canvas: (height, width) that holds ids of the photo's own size; those of
      larger photos have the size that the network sees.
    batch: photos of a call; None for any number, in StableHLO.
    bucket: columns for words: classes, and the void column if the model has one.
    platforms: what one program is to run on, some of `stablehlo.PLATFORMS`; ONNX runs
      on those of its runtime.
    weights_inside: the weights are constants of the programs, not files beside them.
    format: of the programs, one of `FORMATS`.

  Raises:
    ValueError: a number below 1, a canvas that cannot be, an unknown platform or
      format, or a format that this installation cannot write.
  """

  canvases: tuple[tuple[int, int], ...] = ()
  result_canvas: tuple[int, int] = (2048, 2048)
  batch: int | None = 1
  bucket: int = 256
  platforms: tuple[str, ...] = PLATFORMS
  weights_inside: bool = False
  format: Literal['stablehlo', 'savedmodel', 'onnx'] = 'stablehlo'

  def __post_init__(self):
    for name in ('batch', 'bucket', 'result_canvas'):
      if (value := getattr(self, name)) is not None and np.min(value) < 1:
        raise ValueError(f'{name} must be at least 1, not {value}')
    for canvas in self.canvases:
      check_canvas(canvas)
    stablehlo.check_platforms(self.platforms)
    if self.format not in FORMATS:
      raise ValueError(f'format is {", ".join(FORMATS)}, not {self.format!r}')
    if self.batch is None and self.format != 'stablehlo':
      raise ValueError(
        f'--batch any is for stablehlo: {self.format} takes a number of photos'
      )
    if self.format == 'onnx':
      onnx_file.check_installed()
      if self.platforms != PLATFORMS:
        raise ValueError('ONNX runs on what its runtime does: leave --platforms out')
    if self.format == 'savedmodel':
      savedmodel.check_installed()
      if self.weights_inside:
        raise ValueError('a SavedModel has variables: leave --weights inside out')


def preset_canvases(short: int, long: int) -> tuple[tuple[int, int], ...]:
  """Canvases that hold every photo whose edges are at most these."""
  short, long = rounded_up(short), rounded_up(long)
  return tuple(dict.fromkeys([(short, long), (long, short)]))


@jax_settings.own()
def export_artefact(
  segmenter: Segmenter,
  to: str | os.PathLike,
  config: ArtefactConfig | None = None,
  *,
  words: str | None = None,
  card: str = '',
) -> str:
  """Writes an artefact; one that is there is replaced once the new one is whole.

  Args:
    segmenter: the model.
    to: the directory.
    config: sizes and platforms.
    words: the vocabulary to put beside the programs, as for `Segmenter.vocabulary`; a
      few by default.
    card: the text of MODEL_CARD.md, with the licence of the weights.

  Returns:
    What was written, in one line.

  Raises:
    ValueError: something else is at `to`, or the words do not fit.
    OSError: it cannot be written; nothing is left behind.
  """
  config, to = config or ArtefactConfig(), pathlib.Path(to).absolute()
  check_target(to)
  preset = segmenter.preset
  if words is None and preset.vocabulary is None:
    words = SOME_WORDS
  vocabulary = Words.of(segmenter, words, config.bucket)
  edges = preset.preprocessing.short_edge, preset.preprocessing.long_edge
  canvases = config.canvases or preset_canvases(*edges)
  with atomic.directory(to) as part:
    # One canvas is compared with the model; the others are the same at another size.
    first, *others = sorted(canvases, key=np.prod)
    photo = [_write_photo(segmenter, vocabulary, first, part, config, compare=True)]
    for canvas in others:
      photo.append(_write_photo(segmenter, vocabulary, canvas, part, config))
    text = text_program(segmenter)
    entries = {'photo': photo}
    if text is not None:
      entries['text'] = _write(text, 'text', part, config)
    content = _manifest(segmenter, config, entries)
    (part / MANIFEST).write_text(json.dumps(content, indent=1) + '\n')
    vocabulary.save(part / WORDS_FILE)
    shutil.copy(pathlib.Path(__file__).with_name(RUNNER), part / RUNNER)
    if card:
      (part / CARD).write_text(card)
  return _summary(to, content)


def check_target(to: pathlib.Path) -> None:
  """Fails early where an artefact cannot be put.

  Raises:
    ValueError: something else is there.
    OSError: the place is not writable.
  """
  atomic.check_folder(to, 'artefact', is_artefact)


def is_artefact(directory: pathlib.Path) -> bool:
  """True where a directory holds what `export_artefact` writes."""
  try:
    content = plain.read_json(directory / MANIFEST)
  except (OSError, ValueError):
    return False
  return isinstance(content, dict) and content.get('format') == FORMAT


def _write_photo(
  segmenter: Segmenter,
  words: Words,
  canvas: tuple[int, int],
  directory: pathlib.Path,
  config: ArtefactConfig,
  *,
  compare: bool = False,
) -> dict[str, Any]:
  """Writes the program of a canvas; `compare` it where this machine can run it."""
  # It holds at least what the network sees.
  result_canvas = tuple(map(max, canvas, config.result_canvas))
  program = photo_program(segmenter, words.arrays, canvas, result_canvas, config.batch)
  name = 'photo_{}x{}'.format(*canvas)
  entry = _write(program, name, directory, config)
  entry |= {
    'canvas': list(canvas),
    'result_canvas': list(result_canvas),
    'batch': config.batch,
  }
  if compare and (config.format == 'onnx' or local_platform() in config.platforms):
    run = load_program(entry, directory)
    entry['parity'] = parity(segmenter, words.bank, program, run)
  return entry


def _write(
  program: Program, name: str, directory: pathlib.Path, config: ArtefactConfig
) -> dict[str, Any]:
  """Writes a program, and says what it takes and gives."""
  file, weights = name, None
  if config.format == 'savedmodel':
    savedmodel.write(program, directory / file, config.platforms)
  else:
    if not config.weights_inside:
      # One file of weights serves the programs of all canvases.
      weights = f'{name.partition("_")[0]}_weights.safetensors'
    if config.format == 'onnx':
      file += onnx_file.SUFFIX
      onnx_file.write(program, directory / file, weights)
    else:
      file += stablehlo.SUFFIX
      stablehlo.write(program, directory / file, config.platforms, weights)
  outputs = jax.eval_shape(program.function, program.weights, program.inputs)
  return {
    'file': file,
    'weights': weights,
    'weights_sha256': weights and sha256(directory / weights),
    'inputs': _described(program.inputs, program.free),
    'outputs': _described(outputs, tuple(outputs) if program.free else ()),
  }


def _described(arrays, free: Collection[str]) -> dict[str, dict[str, Any]]:
  """Shapes and types; the first side of `free` ones is any number."""
  return {
    name: {
      'shape': ['n', *a.shape[1:]] if name in free else list(a.shape),
      'dtype': np.dtype(a.dtype).name,
    }
    for name, a in arrays.items()
  }


def _manifest(
  segmenter: Segmenter, config: ArtefactConfig, programs: dict[str, Any]
) -> dict[str, Any]:
  preset, onnx = segmenter.preset, config.format == 'onnx'
  return {
    'format': FORMAT,
    'library_version': __version__,
    'jax_version': jax.__version__,
    'system': preset.system,
    'platforms': ['onnxruntime'] if onnx else list(config.platforms),
    **({'opset': onnx_file.OPSET} if onnx else {}),
    'preprocessing': {
      **plain.to_dict(preset.preprocessing),
      'stride': STRIDE,
      'pixels': 'RGB 0..255 in the top left corner of the canvas, zeros beside; the '
      'program subtracts the mean and divides by the standard deviation',
    },
    'numbers': {name: a.item() for name, a in number_inputs(segmenter).items()},
    'programs': programs,
  }


def _summary(to: pathlib.Path, manifest: dict[str, Any]) -> str:
  """What was written, in one line."""
  photo = manifest['programs']['photo']
  canvases = ', '.join('{}x{}'.format(*entry['canvas']) for entry in photo)
  columns = photo[0]['inputs']['valid']['shape'][0]
  size = sum(file.stat().st_size for file in to.rglob('*'))
  if 'parity' in photo[0]:
    far = photo[0]['parity']['class_probabilities']
    compared = f'class probabilities within {far:.0e} of the model'
  else:
    compared = 'not compared with the model, as this machine is none of these'
  return (
    f'{to}: photos on canvases {canvases}, {columns} columns of words, for '
    f'{", ".join(manifest["platforms"])}; {size / 1e6:.1f} MB; {compared}'
  )
