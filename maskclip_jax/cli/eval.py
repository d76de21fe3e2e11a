"""`python -m maskclip_jax eval --model M --evals P,Q`, `eval --predictions DIR --evals
P`, `eval --compare A B`, `eval --list`."""

import argparse
import dataclasses

from maskclip_jax.cli.model import (
  add_model_flags,
  load_segmenter,
  told,
  watch_compilation,
)
from maskclip_jax.cli.stopping import obeyed_at_once

NAME, HELP = 'eval', 'Evaluate a model on published protocols.'
# Of the table of `--compare`, in letters.
WIDTH = 120


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `eval`."""
  parser.add_argument(
    '--evals',
    help='protocols, such as ade150,pc59, or a dataset of your own; --list names them',
  )
  parser.add_argument(
    '--model', help='bundle directory, that of a run, or a name of `models list`'
  )
  parser.add_argument(
    '--predictions', help='judge the predictions in this folder instead'
  )
  parser.add_argument(
    '--compare', nargs='+', metavar='RESULTS', help='only show a table'
  )
  parser.add_argument(
    '--everything',
    action='store_true',
    help='compare: not only the numbers that are quoted',
  )
  parser.add_argument('--list', action='store_true', help='only list the protocols')
  parser.add_argument(
    '--out', default='results', help='folder for results (%(default)s)'
  )
  parser.add_argument(
    '--data_dir', help='where built datasets lie (~/tensorflow_datasets)'
  )
  parser.add_argument('--batch_size', type=int, help='photos a call (one a device)')
  parser.add_argument('--limit', type=int, help='only the first so many photos')
  parser.add_argument('--tasks', help='some of panoptic,semantic,instance')
  parser.add_argument(
    '--flip', action='store_true', help='average with the mirror image'
  )
  parser.add_argument(
    '--scales', default='1', help='sizes to average, such as 0.75,1,1.25'
  )
  parser.add_argument(
    '--scores',
    help="'model': its own scores, not those tuned on the benchmark; or changes, such "
    'as unseen_weight=1,drop_empty=1',
  )
  parser.add_argument('--vocabulary', help="other words for the protocol's classes")
  parser.add_argument(
    '--save_predictions', action='store_true', help='write PNG and COCO JSON as well'
  )
  parser.add_argument(
    '--save_every', type=int, default=50, help='photos between savings (%(default)s)'
  )
  parser.add_argument(
    '--diagnose', action='store_true', help='find out what limits the model: a report'
  )
  parser.add_argument(
    '--distributed',
    action='store_true',
    help='one of several processes, on a pod or a cluster that jax recognises',
  )
  add_model_flags(parser)


def run(arguments: argparse.Namespace) -> int:
  """Evaluates, judges, compares or lists, whichever the flags ask for."""
  with obeyed_at_once():
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
  if arguments.list:
    print(_protocol_table(arguments.data_dir))
    return 0
  if arguments.compare:
    print(_comparison(arguments))
    return 0
  if arguments.evals is None:
    raise ValueError('which protocols? --evals ade150,pc59; `eval --list` names them')
  from maskclip_jax.eval.request import Request, judge_predictions

  names = [field.name for field in dataclasses.fields(Request)]
  request = Request(**{name: getattr(arguments, name) for name in names})
  if arguments.predictions is not None:
    judge_predictions(arguments.predictions, request, _console(arguments))
  else:
    _evaluate(arguments, request)
  return 0


def _evaluate(arguments: argparse.Namespace, request) -> None:
  if arguments.model is None:
    raise ValueError('what is to be evaluated? --model M, or --predictions DIR')
  import jax

  from maskclip_jax.eval.ledger import Subject
  from maskclip_jax.eval.request import run_evaluations

  if arguments.distributed:
    jax.distributed.initialize()
  compiled = watch_compilation(arguments.cache_dir)
  # By which the ledger knows a model, whatever type it computes in.
  segmenter = load_segmenter(arguments, float32_weights=True)
  subject = Subject(
    arguments.model,
    preset=None if arguments.random_weights is None else arguments.model,
    dtype=arguments.dtype,
    seed=arguments.random_weights,
  )
  run_evaluations(segmenter, subject, request, _console(arguments))
  if not arguments.quiet and jax.process_index() == 0:
    print(told(compiled))


def _console(arguments: argparse.Namespace):
  import rich.console

  return rich.console.Console(quiet=arguments.quiet)


def _comparison(arguments: argparse.Namespace) -> str:
  """The table of evaluations that lie at some places."""
  from maskclip_jax.eval import ledger
  from maskclip_jax.eval.compare import comparison

  entries = [e for place in arguments.compare for e in ledger.read_all(place)]
  return comparison(entries, everything=arguments.everything, width=WIDTH)


def _protocol_table(data_dir: str | None) -> str:
  """The protocols by name, those of the user's own datasets last, as text."""
  from maskclip_jax.data import described
  from maskclip_jax.eval.protocols import PROTOCOLS, find_protocols

  own = [find_protocols(name, data_dir)[0] for name in described.names(data_dir)]
  protocols = (*PROTOCOLS.values(), *own)
  longest = max(len(protocol.name) for protocol in protocols)
  return '\n'.join(f'{p.name:{longest}}  {p.about}' for p in protocols)
