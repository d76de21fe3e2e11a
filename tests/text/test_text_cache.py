"""Prompt vectors are computed once, and a bad cache file is never trusted."""

import dataclasses
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

from maskclip_jax import zoo
from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.text import tokenizer
from maskclip_jax.text.bank import (
  TextCache,
  class_vectors,
  encode_prompts,
  proposal_cache,
  text_cache,
)
from maskclip_jax.text.vocabulary import Vocabulary


class Tower:
  """A text tower that remembers what it was asked."""

  def __init__(self, width=8):
    self.width = width
    self.calls = []

  def __call__(self, prompts):
    self.calls.append(list(prompts))
    return np.stack([self.vector(prompt) for prompt in prompts])

  def vector(self, prompt):
    seed = int.from_bytes(prompt.encode(), 'little') % (1 << 32)
    return np.random.default_rng(seed).normal(size=self.width).astype(np.float32)


@pytest.fixture
def tower():
  return Tower()


@pytest.fixture(autouse=True)
def _no_unexpected_warnings():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    yield


def _file(directory) -> pathlib.Path:
  [path] = directory.iterdir()
  return path


def test_class_vectors_are_pooled_and_unit(tower):
  vocabulary = Vocabulary.parse('cat; sofa, couch', 'masqclip')
  vectors = class_vectors(vocabulary, tower)
  mean = (tower.vector('sofa') + tower.vector('couch')) / 2
  assert vectors.shape == (3, 8)
  np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), rtol=1e-6)
  void = tower.vector('background')
  np.testing.assert_allclose(vectors[2], void / np.linalg.norm(void), rtol=1e-6)
  assert tower.calls == [['cat', 'sofa', 'couch', 'background']]


def test_only_new_prompts_are_encoded(tower):
  cache = TextCache()
  class_vectors(Vocabulary.parse('cat; dog'), tower, cache)
  class_vectors(Vocabulary.parse('dog; cat'), tower, cache)
  class_vectors(Vocabulary.parse('dog; fox; cat'), tower, cache)
  assert tower.calls == [['cat', 'dog'], ['fox']]


def test_a_later_run_reads_the_file(tower, tmp_path):
  vocabulary = Vocabulary.parse('cat; chien à poil; 犬', 'ovseg')
  first = class_vectors(vocabulary, tower, TextCache(tmp_path / 'a' / 'b', 'weights'))
  again = class_vectors(vocabulary, tower, TextCache(tmp_path / 'a' / 'b', 'weights'))
  np.testing.assert_array_equal(first, again)
  assert len(tower.calls) == 1
  _file(tmp_path / 'a' / 'b')


def test_files_of_different_weights_do_not_mix(tower, tmp_path):
  other = Tower(width=4)
  prompts = ['cat', 'dog']
  TextCache(tmp_path, 'one').vectors(prompts, tower)
  assert TextCache(tmp_path, 'two').vectors(prompts, other).shape == (2, 4)
  assert TextCache(tmp_path, 'one').vectors(prompts, tower).shape == (2, 8)
  assert len(tower.calls) == len(other.calls) == 1
  assert len(list(tmp_path.iterdir())) == 2
  with pytest.raises(ValueError, match='needs the fingerprint'):
    TextCache(tmp_path)


@pytest.mark.parametrize(
  'damage',
  [
    lambda content: b'',
    lambda content: content[:-1],
    lambda content: content[: len(content) // 2],
    lambda content: content + b'\0',
    lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    lambda content: content.replace(b'"cat"', b'"cow"'),
    lambda content: b'\xff\n' * 100,
  ],
)
def test_a_damaged_file_is_ignored_and_written_anew(damage, tower, tmp_path):
  expected = TextCache(tmp_path, 'weights').vectors(['cat', 'dog'], tower)
  path = _file(tmp_path)
  good = path.read_bytes()
  path.write_bytes(damage(good))
  with pytest.warns(RuntimeWarning, match='is damaged: it is ignored and written anew'):
    vectors = TextCache(tmp_path, 'weights').vectors(['cat', 'dog'], tower)
  np.testing.assert_array_equal(vectors, expected)
  assert len(tower.calls) == 2
  assert _file(tmp_path).read_bytes() == good


def test_a_file_of_other_weights_in_this_place_is_ignored(tower, tmp_path):
  TextCache(tmp_path / 'one', 'one').vectors(['cat'], tower)
  TextCache(tmp_path / 'two', 'two').vectors(['cat'], tower)
  foreign = _file(tmp_path / 'one').read_bytes()
  _file(tmp_path / 'two').write_bytes(foreign)
  with pytest.warns(RuntimeWarning, match='belongs to other weights'):
    TextCache(tmp_path / 'two', 'two').vectors(['cat'], tower)
  assert len(tower.calls) == 3
  assert _file(tmp_path / 'two').read_bytes() != foreign
  TextCache(tmp_path / 'two', 'two').vectors(['cat'], tower)
  assert len(tower.calls) == 3


def test_vectors_of_another_length_are_ignored(tower, tmp_path):
  TextCache(tmp_path, 'weights').vectors(['cat'], tower)
  wide = Tower(width=16)
  with pytest.warns(RuntimeWarning, match='holds vectors of another length'):
    vectors = TextCache(tmp_path, 'weights').vectors(['cat', 'dog'], wide)
  np.testing.assert_array_equal(vectors[0], wide.vector('cat'))
  assert TextCache(tmp_path, 'weights').vectors(['dog', 'cat'], wide).shape == (2, 16)
  assert wide.calls == [['dog'], ['cat', 'dog']]

  # Another process replaces the file by one of another length.
  cache = TextCache(tmp_path, 'weights')
  cache.vectors(['cat'], wide)
  _file(tmp_path).unlink()
  TextCache(tmp_path, 'weights').vectors(['cat', 'fox'], tower)
  with pytest.warns(RuntimeWarning, match='holds vectors of another length'):
    assert cache.vectors(['cow'], wide).shape == (1, 16)


def test_a_directory_that_cannot_be_written_warns_once(tower, tmp_path):
  # A file where the directory should be: fails for root too.
  (tmp_path / 'file').write_text('')
  cache = TextCache(tmp_path / 'file' / 'cache', 'weights')
  with pytest.warns(RuntimeWarning) as caught:
    cache.vectors(['cat'], tower)
  [warning] = caught
  assert 'text vectors is not kept' in str(warning.message)
  assert warning.filename == __file__
  assert cache.vectors(['cat', 'dog'], tower).shape == (2, 8)
  assert tower.calls == [['cat'], ['dog']]


def test_processes_writing_at_once_leave_a_good_file(tower, tmp_path):
  script = """if True:
    import sys, warnings
    sys.path[:0] = sys.argv[3:]
    warnings.simplefilter('error')
    from test_text_cache import Tower
    from maskclip_jax.text.bank import TextCache
    cache = TextCache(sys.argv[1], 'weights')
    for i in range(60):
      cache.vectors([f'{sys.argv[2]} {i}', f'shared {i}'], Tower())
  """
  here = pathlib.Path(__file__)
  paths = [str(here.parent), str(here.parents[2])]
  writers = [
    subprocess.Popen([sys.executable, '-c', script, str(tmp_path), name, *paths])
    for name in ('left', 'right')
  ]
  assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
  cache = TextCache(tmp_path, 'weights')
  prompts = [f'{name} {i}' for name in ('left', 'right', 'shared') for i in range(60)]
  vectors = cache.vectors(prompts, tower)
  np.testing.assert_array_equal(vectors, Tower()(prompts))
  # Whoever wrote last had all of its own.
  encoded = [name for call in tower.calls for name in call]
  assert not any(name.startswith('shared') for name in encoded)
  assert len({name.split()[0] for name in encoded}) <= 1
  _file(tmp_path)


@pytest.mark.parametrize(
  ('result', 'message'),
  [
    (np.zeros((1, 8)), r'returned an array \(1, 8\) for 2 prompts'),
    (np.zeros(2), r'returned an array \(2,\) for 2 prompts'),
    (np.array([[0.0, 1.0], [np.nan, 1.0]]), "not finite for 'dog'"),
  ],
)
def test_a_wrong_text_tower_is_told(result, message, tmp_path):
  cache = TextCache(tmp_path, 'weights')
  with pytest.raises(ValueError, match=message):
    cache.vectors(['cat', 'dog'], lambda prompts: result)
  assert not list(tmp_path.iterdir())


def test_prompts_run_one_program_whatever_their_number():
  shapes = []

  def tower(tokens):
    shapes.append(tokens.shape)
    return np.repeat(tokens[:, 1:2], 4, axis=1).astype(np.float32)

  words = [f'{"a" if i % 2 else "b"} cat' for i in range(37)]
  vectors = encode_prompts(words, tower, 77)
  assert vectors.shape == (37, 4)
  assert set(shapes) == {(16, 16)}
  np.testing.assert_array_equal(vectors[0], vectors[2])
  assert (vectors[0] != vectors[1]).any()
  assert encode_prompts(['cat ' * 100], tower, 32).shape == (1, 4)
  with pytest.raises(ValueError, match='has 102 tokens, and the text tower reads 32'):
    encode_prompts(['cat ' * 100], tower, 32, truncate=False)


def test_long_prompts_make_no_others_long():
  shapes = []

  def tower(tokens):
    shapes.append(tokens.shape)
    return tokens[:, 1:2].astype(np.float32)

  # Of 16, 32 and 77 tokens: two, three and forty.
  prompts = ['a cat'] * 20 + ['b ' * 60, 'c ' * 20] + ['d dog'] * 20
  prompts += ['e ' * 20, 'f ' * 60, 'g ' * 20]
  vectors = encode_prompts(prompts, tower, 77)
  assert shapes == [(16, 77), (16, 16), (16, 16)]
  first = [tokenizer.encode(prompt)[0] for prompt in prompts]
  np.testing.assert_array_equal(vectors[:, 0], first)


def test_no_prompt_is_told():
  with pytest.raises(ValueError, match='there is no text to encode'):
    encode_prompts([], lambda tokens: tokens, 77)


def test_vectors_on_disk_are_those_of_one_text_tower_in_one_type(tmp_path):
  """The same weights with another activation, or in another type, are another tower."""
  config = CLIP_SIZES['vit_tiny']
  gelu = dataclasses.replace(config, activation='gelu')
  for number, (clip, dtype) in enumerate(
    [(config, 'float32'), (gelu, 'float32'), (config, 'bfloat16')]
  ):
    cache = text_cache(tmp_path, 'weights', clip, dtype)
    (vector,) = cache.vectors(['cat'], lambda prompts, n=number: np.full((1, 2), n))
    assert vector.tolist() == [number] * 2
  assert text_cache(None, 'weights', config, 'float32') is None


def test_proposals_that_read_words_have_vectors_of_their_own_on_disk(tmp_path):
  config = zoo.find_preset('maskclippp_tiny').config
  caches = (
    text_cache(tmp_path, 'weights', config.clip, 'float32'),
    proposal_cache(tmp_path, 'weights', config, 'float32'),
  )
  for number, cache in enumerate(caches):
    (vector,) = cache.vectors(['cat'], lambda prompts, n=number: np.full((1, 2), n))
    assert vector.tolist() == [number] * 2
  alone = dataclasses.replace(config, proposal_words='')
  assert proposal_cache(tmp_path, 'weights', alone, 'float32') is None
