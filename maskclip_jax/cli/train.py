"""`python -m maskclip_jax train --config NAME:ARG --workdir DIR [--config.a=value]`."""

import argparse
import os
import pathlib
import sys

from maskclip_jax import atomic
from maskclip_jax.cli.stopping import obeyed_at_once
from maskclip_jax.train import tpu_compiler

NAME, HELP = 'train', 'Train a stage, or a pipeline of stages.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `train`."""
  parser.add_argument(
    '--config',
    required=True,
    metavar='CONFIG[:ARG]',
    help='a name (masqclip:stage=masq) or a file (configs/masqclip.py:stage=masq); '
    'change fields by --config.optim.lr=3e-4',
  )
  parser.add_argument(
    '--workdir',
    type=pathlib.Path,
    metavar='DIR',
    help='directory of the run; the same command again resumes it',
  )
  parser.add_argument(
    '--distributed',
    action='store_true',
    help='join the other processes of a Slurm job or of a TPU pod',
  )
  parser.add_argument(
    '--coordinator', metavar='HOST:PORT', help='join other processes by hand'
  )
  parser.add_argument('--num_processes', type=int, help='how many there are')
  parser.add_argument('--process_id', type=int, help='which one this is, from 0')
  parser.add_argument(
    '--heartbeat_seconds',
    type=int,
    default=100,
    help='after which a silent process counts as dead (%(default)s)',
  )
  parser.add_argument(
    '--compile_only',
    action='store_true',
    help='compile the step, print its memory and its traffic, and end',
  )
  parser.add_argument(
    '--topology',
    metavar='v5e:16x16',
    help='with --compile_only: for a slice of TPUs, without having one',
  )
  parser.add_argument(
    '--quiet', action='store_true', help='only lines of progress, no notes'
  )
  parser.add_argument('--json', type=pathlib.Path, help='with --compile_only: a report')


def run(arguments: argparse.Namespace) -> int:
  """Trains; 143 or 130 if SIGTERM or Ctrl-C told the run to stop: it has saved and
  resumes when it is started again."""
  if arguments.topology is not None:
    os.environ |= tpu_compiler.ENVIRONMENT
  from maskclip_jax.train import config_files

  values = config_files.load(arguments.config, arguments.overrides)
  if arguments.compile_only:
    return _compile(arguments, values)
  if arguments.workdir is None:
    raise ValueError('--workdir DIR is needed: checkpoints and results go there')
  if arguments.distributed or arguments.coordinator is not None:
    from maskclip_jax.train.mesh import start_processes

    start_processes(
      arguments.coordinator,
      arguments.num_processes,
      arguments.process_id,
      heartbeat_seconds=arguments.heartbeat_seconds,
    )
  from maskclip_jax import jax_settings
  from maskclip_jax.train.config import read
  from maskclip_jax.train.loop import train
  from maskclip_jax.train.stages import run_pipeline

  jax_settings.check_devices()
  options = {
    'command': ['python', '-m', 'maskclip_jax', *sys.argv[1:]],
    'say': _nothing if arguments.quiet else print,
    'compiling': obeyed_at_once,
  }
  if config_files.is_pipeline(values):
    result = run_pipeline(values, arguments.workdir, **options)
  else:
    result = train(read(values), arguments.workdir, **options)
  if result is None or result.finished:
    print(f'done: {result.bundle if result else arguments.workdir}')
    return 0
  print(f'told to stop; saved at step {result.step}, start again to resume')
  return 128 + result.told_by


def _nothing(text: str) -> None:
  del text


def _compile(arguments: argparse.Namespace, values: dict) -> int:
  from maskclip_jax.train import config_files
  from maskclip_jax.train.compile_only import compile_step, devices_of

  if config_files.is_pipeline(values):
    raise ValueError('--compile_only takes one stage, not a pipeline')
  report = compile_step(values, devices_of(arguments.topology))
  print(report)
  if arguments.json is not None:
    atomic.write(arguments.json, report.to_json())
  return 0 if report.fits else 2
