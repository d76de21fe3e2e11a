"""`python -m maskclip_jax words check --vocabulary V`, `words suggest --model M --data
D`."""

import argparse

from maskclip_jax.cli.model import (
  add_model_flags,
  load_segmenter,
  told,
  watch_compilation,
)
from maskclip_jax.cli.stopping import obeyed_at_once

NAME, HELP = 'words', 'Check a vocabulary, or find words that a model reads better.'


def add_flags(parser: argparse.ArgumentParser) -> None:
  """The flags of `words`."""
  parser.add_argument('action', choices=['check', 'suggest'])
  parser.add_argument(
    '--vocabulary',
    help="words, a file or a name; suggest: to start from, for the data's classes",
  )
  parser.add_argument(
    '--model', help='suggest: bundle directory, or a name of `models list`'
  )
  parser.add_argument(
    '--data', help='suggest: a protocol, view or dataset: ade150, coco/base48, ...'
  )
  parser.add_argument(
    '--data_dir', help='where built datasets lie (~/tensorflow_datasets)'
  )
  parser.add_argument(
    '--split', help="suggest: of the dataset (the protocol's, or val)"
  )
  parser.add_argument(
    '--photos',
    type=int,
    default=50,
    help='suggest: how many, half of them held out (%(default)s)',
  )
  parser.add_argument(
    '--candidates', help='suggest: a vocabulary of more words to try, by class name'
  )
  parser.add_argument(
    '--templates',
    help='suggest: sets to try, of none,simple,vild_14,imagenet_80; keep for those '
    'that are in use (none,simple,vild_14)',
  )
  parser.add_argument(
    '--metric', choices=['PQ', 'mIoU'], help='suggest: what is to grow, on true masks'
  )
  parser.add_argument(
    '--whole',
    action='store_true',
    help="suggest: judge the model's own masks, too, with the words before and after",
  )
  parser.add_argument('--out', help='suggest: where the vocabulary goes, a .json file')
  add_model_flags(parser)


def run(arguments: argparse.Namespace) -> int:
  """Checks or suggests; 1 if a check found something."""
  if arguments.action == 'check':
    return _check(arguments)
  with obeyed_at_once():
    return _suggest(arguments)


def _check(arguments: argparse.Namespace) -> int:
  if arguments.vocabulary is None:
    raise ValueError('which words? --vocabulary "cat; sofa, couch", a file or a name')
  vocabulary = _parse(arguments.vocabulary, arguments.data_dir)
  found = vocabulary.check()
  for line in found:
    print(line)
  if not found and not arguments.quiet:
    print(f'{len(vocabulary)} classes: nothing to say against these words')
  return 1 if found else 0


def _parse(words: str, data_dir: str | None):
  """The vocabulary of words, of a file or a name, or of a dataset of one's own."""
  from maskclip_jax.data.described import named_words
  from maskclip_jax.text.vocabulary import Vocabulary

  return Vocabulary.parse(named_words(words, data_dir))


def _suggest(arguments: argparse.Namespace) -> int:
  for flag in ('model', 'data'):
    if getattr(arguments, flag) is None:
      raise ValueError('which model and data? words suggest --model M --data D')
  if arguments.out is not None and not arguments.out.lower().endswith('.json'):
    raise ValueError(f'--out {arguments.out} is to be a vocabulary: end it in .json')
  import rich.console

  from maskclip_jax import atomic
  from maskclip_jax.cli.data_report import progress_bars
  from maskclip_jax.eval.examples import ProtocolSource
  from maskclip_jax.eval.wording.report import report
  from maskclip_jax.eval.wording.suggest import TEMPLATES, find_data, suggest

  templates = arguments.templates
  names = (
    [] if templates == 'keep' else [n.strip() for n in (templates or '').split(',')]
  )
  words, candidates = (
    None if spec is None else _parse(spec, arguments.data_dir)
    for spec in (arguments.vocabulary, arguments.candidates)
  )
  # What is refused needs no model.
  data = find_data(arguments.data, '', arguments.split, arguments.data_dir)
  ProtocolSource(data, arguments.data_dir)
  if arguments.out is not None:
    atomic.check_place(arguments.out)
  compiled = watch_compilation(arguments.cache_dir)
  segmenter = load_segmenter(arguments)
  system = segmenter.preset.system
  data = find_data(arguments.data, system, arguments.split, arguments.data_dir)
  console = rich.console.Console(quiet=arguments.quiet, stderr=True)
  with progress_bars(console) as advance:
    found = suggest(
      segmenter,
      data,
      data_dir=arguments.data_dir,
      photos=arguments.photos,
      words=words,
      candidates=candidates,
      templates=TEMPLATES if templates is None else names,
      metric=arguments.metric,
      whole=arguments.whole,
      on_progress=advance,
    )
  print(report(found))
  if arguments.out is not None:
    found.vocabulary.save(arguments.out)
    print(f'the vocabulary: {arguments.out} (for --vocabulary)')
  if not arguments.quiet:
    console.print(told(compiled), highlight=False)
  return 0
