"""`python -m maskclip_jax export --model DIR --format official|bundle --to PLACE`."""

import argparse
import pathlib

NAME, HELP = 'export', 'Write a bundle in another format.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `export`."""
  parser.add_argument('--model', required=True, help='bundle directory, or a workdir')
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

  print(export_official(arguments.model, arguments.to, layout=arguments.layout))
  return 0


def _export_bundle(arguments: argparse.Namespace) -> None:
  from maskclip_jax.checkpoints import bundle
  from maskclip_jax.checkpoints.repack import repack

  source = arguments.model
  if arguments.step is not None or not bundle.is_bundle(bundle.locate(source)):
    from maskclip_jax.train.export import export_checkpoint

    print(export_checkpoint(source, arguments.to, arguments.step))
    source = arguments.to
  if source != arguments.to or arguments.dtype != 'float32':
    print(repack(source, arguments.to, arguments.dtype))
