"""A tokenizer's file that knows few words."""

import json
import pathlib

from maskclip_jax.text.word_pieces import FILE

WORDS = {'<pad>': 0, '</s>': 1, '<unk>': 2, 'a': 3, 'cat': 4, 'dog': 5, '.': 6}


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes the file, which adds ends of its own where they are not refused."""
  content = {
    'version': '1.0',
    'truncation': {
      'direction': 'Right',
      'max_length': 2,
      'strategy': 'LongestFirst',
      'stride': 0,
    },
    'padding': None,
    'added_tokens': [],
    'normalizer': None,
    'pre_tokenizer': {'type': 'Whitespace'},
    'post_processor': None,
    'decoder': None,
    'model': {'type': 'WordLevel', 'vocab': WORDS, 'unk_token': '<unk>'},
  }
  folder.mkdir(exist_ok=True)
  (folder / FILE).write_text(json.dumps(content))
  return folder / FILE
