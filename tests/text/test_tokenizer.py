"""The tokenizer gives OpenAI's ids: recorded outputs of the official code."""

import json
import pathlib
import time

import numpy as np
import pytest

from maskclip_jax.text import tokenizer
from maskclip_jax.text.vocabulary import Vocabulary

GOLDEN = pathlib.Path(__file__).parents[1] / 'goldens' / 'clip_tokens.json'


@pytest.fixture(scope='module')
def recorded():
  return json.loads(GOLDEN.read_text('utf-8'))


def test_ids_of_recorded_strings(recorded):
  tokens = tokenizer.tokenize(recorded['strings'])
  assert tokens.dtype == np.int32
  assert tokens.shape == (200, 77)
  np.testing.assert_array_equal(tokens, recorded['ids'])


def test_long_texts_are_cut_only_on_request(recorded):
  tokens = tokenizer.tokenize(recorded['long_strings'], truncate=True)
  np.testing.assert_array_equal(tokens, recorded['long_ids_truncate_true'])
  assert (tokens[:, -1] == tokenizer.END).all()
  for text in recorded['long_strings']:
    with pytest.raises(ValueError, match='tokens, and the text tower reads 77'):
      tokenizer.tokenize(text)


def test_ids_stay_in_the_vocabulary_for_any_bytes():
  every = ''.join(map(chr, [*range(32, 0x250), 0x3042, 0x1F436]))
  ids = tokenizer.encode(every)
  assert min(ids) >= 0
  assert max(ids) < tokenizer.VOCABULARY_SIZE
  assert tokenizer.encode('') == []


def test_a_text_that_fills_the_context_is_not_too_long():
  tokens = tokenizer.tokenize('cat ' * 75)
  assert tokens[0, -1] == tokenizer.END
  with pytest.raises(ValueError, match='78 tokens'):
    tokenizer.tokenize('cat ' * 76)


def test_shorter_contexts_hold_the_same_ids():
  texts = ['cat', 'a photo of a small ' + 'very ' * 12 + 'cat']
  for some, length in ((texts[:1], 16), (texts, 32), (['cat ' * 40], 77)):
    short = tokenizer.tokenize(some, tokenizer.CONTEXTS)
    assert short.shape == (len(some), length)
    full = tokenizer.tokenize(some)
    np.testing.assert_array_equal(full[:, :length], short)
    assert not full[:, length:].any()
  with pytest.raises(ValueError, match='reads 16'):
    tokenizer.tokenize(texts, 16)


def test_blanks_around_a_word_and_before_a_stop_do_not_matter():
  assert tokenizer.encode('window ') == tokenizer.encode('window')
  spaced = tokenizer.encode('a photo of a window .')
  assert spaced == tokenizer.encode('A  photo of a WINDOW.')


def test_a_large_vocabulary_takes_a_fraction_of_a_second():
  prompts = Vocabulary.parse('ade20k-847', 'masqclip').prompts()[0]
  tokenizer.tokenize(prompts[:1])
  start = time.perf_counter()
  tokenizer.tokenize(prompts)
  # About 0.04 s alone on one core; the rest allows for a busy machine.
  assert time.perf_counter() - start < 1.0
