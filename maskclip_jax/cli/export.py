"""`python -m maskclip_jax export --model DIR --format official|bundle --to PLACE`."""

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
    choices=['official', 'bundle'],
    help="'official': the layout of the PyTorch code (.safetensors, or .pth); "
    "'bundle': of a bundle, or of a checkpoint in a workdir",
  )
  parser.add_argument(
    '--dtype',
    default='float32',
    choices=['float32', 'float16', 'bfloat16'],
    help='bundle: of the stored arrays; loading widens them again (%(default)s)',
  )
  parser.add_argument(
    '--layout',
    help="official: of a CLIP's file, 'openai' (default), 'open_clip_custom', "
    "'hugging_face', 'scenic', or 'mask_prompts' for these alone",
  )
  parser.add_argument('--step', help="bundle: which checkpoint, a number or 'best'")


def run(arguments: argparse.Namespace) -> int:
  """Writes the file or bundle and says what it holds."""
  if arguments.format == 'bundle':
    _export_bundle(arguments)
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


def _find(model: str) -> pathlib.Path:
  """The bundle of a directory, of a finished run or of a name."""
  from maskclip_jax.checkpoints.restore import find_bundle

  return find_bundle(model, default_cache())
