"""Tokenizers that come as a file with their model."""

import numpy as np
import pytest
import tiny_tokenizer

from maskclip_jax.nn.siglip import SIGLIP_SIZES
from maskclip_jax.text.word_pieces import FILE, WordPieces, word_pieces

pytest.importorskip('tokenizers')


@pytest.fixture
def folder(tmp_path):
  """A repository with its tokenizer."""
  return tiny_tokenizer.write(tmp_path).parent


def pieces(folder, **changes) -> WordPieces:
  sizes = {'context_length': 6, 'vocab_size': 7, 'pad_token': 1}
  return WordPieces(folder / FILE, **sizes | {'cleaning': 'canonical'} | changes)


def test_words_an_end_and_padding(folder):
  ids = pieces(folder)(['A  CAT.', 'a_dog'])
  np.testing.assert_array_equal(ids, [[3, 4, 1, 1, 1, 1], [3, 5, 1, 1, 1, 1]])
  assert ids.dtype == np.int32


def test_punctuation_stays_where_only_the_case_is_lowered(folder):
  ids = pieces(folder, cleaning='lower', pad_token=0)('A cat.')
  np.testing.assert_array_equal(ids, [[3, 4, 6, 1, 0, 0]])


def test_long_texts_are_refused_or_cut_before_the_end(folder):
  with pytest.raises(ValueError, match='has 8 tokens, and the text tower reads 6'):
    pieces(folder)('a cat a cat a cat a')
  ids = pieces(folder)('a cat a cat a cat a', truncate=True)
  np.testing.assert_array_equal(ids, [[3, 4, 3, 4, 3, 1]])


def test_what_is_no_tokenizer(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'tokenizer\.json does not exist'):
    pieces(tmp_path)('a')
  (tmp_path / FILE).write_text('{}')
  with pytest.raises(ValueError, match='is not a file of a tokenizer') as error:
    pieces(tmp_path)('a')
  assert '\n' not in str(error.value)


def test_the_tokenizer_of_another_model_is_refused(folder):
  with pytest.raises(ValueError, match='gives token 5, and the text tower knows 5'):
    pieces(folder, vocab_size=5)('a dog')


def test_a_clip_with_the_tokenizer_of_clip_needs_no_file(tmp_path):
  from maskclip_jax.nn.clip import CLIP_SIZES

  assert word_pieces(tmp_path, CLIP_SIZES['vit_b16']) is None
  assert word_pieces(tmp_path, SIGLIP_SIZES['siglip2_b16']).pad_token == 0
