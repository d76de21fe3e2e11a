"""`python -m maskclip_jax export --model DIR --format stablehlo --to PLACE`."""

import argparse
import pathlib

from maskclip_jax.cli.model import default_cache

NAME, HELP = 'export', 'Write a bundle in another format.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `export`."""
  parser.add_argument(
    '--model', required=True, help='bundle directory, that of a run, or a name'
  )
  parser.add_argument(
    '--to', required=True, type=pathlib.Path, help='file or directory to write'
  )
  parser.add_argument(
    '--format',
    default='official',
    choices=['official', 'bundle', 'stablehlo', 'savedmodel', 'onnx', 'words'],
    help="'official': the layout of the PyTorch code (.safetensors, or .pth); "
    "'bundle': of a bundle, or of a checkpoint in a workdir; 'stablehlo': programs "
    "that run without this package; 'savedmodel', 'onnx': the same for TensorFlow and "
    "for onnxruntime; 'words': a file of words for these",
  )
  parser.add_argument(
    '--dtype',
    default='float32',
    choices=['float32', 'float16', 'bfloat16'],
    help='bundle: of the stored arrays; loading widens them again. Programs: what is '
    'computed in, float32 or bfloat16 (%(default)s)',
  )
  parser.add_argument(
    '--layout',
    help="official: of a CLIP's file, 'openai' (default), 'open_clip_custom', "
    "'hugging_face', 'scenic', or 'mask_prompts' for these alone",
  )
  parser.add_argument('--step', help="bundle: which checkpoint, a number or 'best'")
  _add_artefact_flags(parser)


def _add_artefact_flags(parser: argparse.ArgumentParser) -> None:
  """Flags of the formats that run without this package."""
  group = parser.add_argument_group('stablehlo, savedmodel, onnx, words')
  group.add_argument(
    '--words', help='the vocabulary to write beside the programs, as for predict'
  )
  group.add_argument(
    '--bucket',
    type=int,
    default=256,
    help='most classes of a vocabulary, with one for void (%(default)s)',
  )
  group.add_argument(
    '--canvas',
    metavar='HxW,...',
    help='sizes a program is written for, multiples of 32; by default two that hold '
    "every photo of the model's preprocessing, lying and upright",
  )
  group.add_argument(
    '--result_canvas',
    metavar='HxW',
    default='2048x2048',
    help='holds ids of classes and segments at the size of the photo (%(default)s)',
  )
  group.add_argument(
    '--batch',
    default='1',
    help="photos of a call; 'any' for any number, stablehlo only (%(default)s)",
  )
  group.add_argument(
    '--platforms',
    default='cpu,cuda,tpu',
    help='what one file is to run on, also rocm; not for onnx (%(default)s)',
  )
  group.add_argument(
    '--weights',
    choices=['beside', 'inside'],
    default='beside',
    help='stablehlo, onnx: in files of their own, or constants of programs '
    '(%(default)s)',
  )


def run(arguments: argparse.Namespace) -> int:
  """Writes the file or bundle and says what it holds."""
  if arguments.format == 'bundle':
    _export_bundle(arguments)
    return 0
  if arguments.format in ('stablehlo', 'savedmodel', 'onnx', 'words'):
    print(_export_artefact(arguments))
    return 0
  from maskclip_jax.checkpoints.export_official import export_official

  source = _find(arguments.model)
  print(export_official(source, arguments.to, layout=arguments.layout))
  return 0


def _export_bundle(arguments: argparse.Namespace) -> None:
  from maskclip_jax.checkpoints import bundle
  from maskclip_jax.checkpoints.repack import repack

  source = pathlib.Path(arguments.model)
  unfinished = source.is_dir() and not bundle.is_bundle(bundle.locate(source))
  if arguments.step is None and not unfinished:
    print(repack(_find(arguments.model), arguments.to, arguments.dtype))
    return
  from maskclip_jax.train.export import export_checkpoint

  print(export_checkpoint(source, arguments.to, arguments.step))
  if arguments.dtype != 'float32':
    print(repack(arguments.to, arguments.to, arguments.dtype))


def _export_artefact(arguments: argparse.Namespace) -> str:
  """Writes programs, or words for them."""
  from maskclip_jax.checkpoints import bundle
  from maskclip_jax.deploy import artefact
  from maskclip_jax.deploy.canvases import parse_canvas
  from maskclip_jax.deploy.words import Words
  from maskclip_jax.segmenter import load

  directory = _find(arguments.model)
  if arguments.format == 'words':
    if arguments.to.suffix != '.npz':
      raise ValueError(f'{arguments.to}: the name must end in .npz')
    segmenter = load(directory, cache_dir=default_cache())
    words = Words.of(segmenter, arguments.words, arguments.bucket)
    words.save(arguments.to)
    return f'{arguments.to}: {len(words.names)} classes'
  canvases = arguments.canvas.split(',') if arguments.canvas else ()
  config = artefact.ArtefactConfig(
    canvases=tuple(map(parse_canvas, canvases)),
    result_canvas=parse_canvas(arguments.result_canvas),
    batch=_batch(arguments.batch),
    bucket=arguments.bucket,
    platforms=tuple(arguments.platforms.split(',')),
    weights_inside=arguments.weights == 'inside',
    format=arguments.format,
  )
  artefact.check_target(arguments.to)
  card = directory / bundle.CARD
  return artefact.export_artefact(
    load(directory, dtype=arguments.dtype, cache_dir=default_cache()),
    arguments.to,
    config,
    words=arguments.words,
    card=card.read_text() if card.is_file() else '',
  )


def _batch(text: str) -> int | None:
  """Photos of a call; None for any number."""
  if text == 'any':
    return None
  try:
    return int(text)
  except ValueError:
    raise ValueError(f"--batch is a number or 'any', not {text!r}") from None


def _find(model: str) -> pathlib.Path:
  """The bundle of a directory, of a finished run or of a name."""
  from maskclip_jax.checkpoints.restore import find_bundle

  return find_bundle(model, default_cache())
