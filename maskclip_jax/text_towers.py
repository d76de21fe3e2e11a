"""What a model makes of words: vocabularies, vectors of prompts, banks of classes.

The part of `Segmenter` that knows no photos.
"""

import collections
import copy
import functools
import os
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax.checkpoints import params
from maskclip_jax.systems.contract import TextBank
from maskclip_jax.systems.system import Preset
from maskclip_jax.text.bank import TextCache, class_vectors, encode_prompts
from maskclip_jax.text.category import Category
from maskclip_jax.text.treatment import Treatment
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.text.word_pieces import WordPieces, has_own_tokenizer

Weights = dict[str, Array]


def read_vocabulary(
  preset: Preset, words: str | os.PathLike | Vocabulary | None
) -> Vocabulary:
  """The vocabulary that words, a file or a name stand for, as a model reads it.

  Args:
    preset: the model's.
    words: see `Vocabulary.parse`; None for the vocabulary that it alone knows.

  Raises:
    ValueError: the model knows one vocabulary only and another is asked for; or the
      words make none.
  """
  fixed = preset.vocabulary
  if fixed is not None:
    if words is not None and words != fixed:
      raise ValueError(
        f'this model knows only its own vocabulary, {fixed}: leave the words out, or '
        'use an open-vocabulary model'
      )
    if labels := preset.labels:
      return Vocabulary(tuple(Category(x.name, thing=x.thing) for x in labels), fixed)
    return Vocabulary.parse(fixed)
  if words is None:
    raise ValueError(
      "name what to look for by words, such as 'cat; stuff:floor', or a vocabulary "
      'such as ade20k-150'
    )
  if not isinstance(words, Vocabulary):
    words = Vocabulary.parse(words)
  return words.for_system(preset.words)


class TextTowers:
  """The text towers of a model, compiled, and the vectors that they have made.

  Weights come with every call, by the paths of `Segmenter.as_function`; banks are kept
  whatever the weights are, so a model of other weights takes `uncached()`.
  """

  def __init__(
    self,
    model: nnx.Module,
    preset: Preset,
    cache: TextCache | None,
    pieces: WordPieces | None,
    proposal_cache: TextCache | None,
  ):
    """Wraps a model; arguments as for `Segmenter`."""
    self._preset, self._pieces = preset, pieces
    self._cache, self._proposal_cache = cache, proposal_cache
    self._banks: collections.OrderedDict[tuple, TextBank] = collections.OrderedDict()
    whole, _ = params.split(model)

    def encode(weights, tokens):
      return whole(weights).clip.text(tokens)

    def encode_for_proposals(weights, tokens):
      return whole(weights).proposals.clip.text(tokens)

    self._encode = jax.jit(encode)
    self._encode_for_proposals = jax.jit(encode_for_proposals)

  def uncached(self) -> 'TextTowers':
    """The same towers, which have made nothing yet and keep nothing on disk."""
    other = copy.copy(self)
    other._banks = collections.OrderedDict()
    other._cache = other._proposal_cache = None
    return other

  def compilations(self) -> int:
    """How many programs were needed so far."""
    return self._encode._cache_size() + self._encode_for_proposals._cache_size()

  def bank(
    self,
    weights: Weights,
    vocabulary: Vocabulary,
    buckets: tuple[int, ...],
    kept: int,
  ) -> TextBank:
    """The class vectors of a vocabulary, of which the latest ones are kept.

    Args:
      weights: the model's.
      vocabulary: as `read_vocabulary` returns it.
      buckets: sizes to pad to, ascending; a closed model's bank has its own size.
      kept: how many are kept.

    Raises:
      ValueError: more classes than the largest bucket holds.
    """
    key = vocabulary.content_key(), buckets
    if key not in self._banks:
      self._banks[key] = self._new_bank(weights, vocabulary, buckets)
    self._banks.move_to_end(key)
    while len(self._banks) > kept:
      self._banks.popitem(last=False)
    return self._banks[key]

  def _new_bank(
    self, weights: Weights, vocabulary: Vocabulary, buckets: tuple[int, ...]
  ) -> TextBank:
    if self._preset.vocabulary is not None:
      columns = len(vocabulary) + 1
      return TextBank.build(
        np.zeros((columns, 0)), vocabulary.things, void_last=True, buckets=(columns,)
      )
    training = self._preset.training
    if isinstance(training, str):
      training = Vocabulary.named(training)
    return TextBank.build(
      self.class_vectors(weights, vocabulary),
      **vocabulary.columns(),
      seen=None if training is None else vocabulary.seen_in(training),
      proposal_embeddings=self._proposal_vectors(weights, vocabulary),
      buckets=buckets,
    )

  def _proposal_vectors(
    self, weights: Weights, vocabulary: Vocabulary
  ) -> Float[np.ndarray, 'n e'] | None:
    """Vectors by the text tower of the proposals, in templates of their own; None where
    that tower is not asked."""
    words = getattr(self._preset.config, 'proposal_words', '')
    if not words:
      return None
    own = Treatment.of(words)
    vocabulary = vocabulary.treated(
      None, templates=own.templates, normalise_first=own.normalise_first
    )
    tower = functools.partial(self._encode_for_proposals, weights)
    longest = self._preset.config.proposals.clip.context_length

    def encode(prompts: Sequence[str]) -> Float[np.ndarray, 'n e']:
      return encode_prompts(prompts, tower, longest)

    return class_vectors(vocabulary, encode, self._proposal_cache)

  def class_vectors(
    self, weights: Weights, vocabulary: Vocabulary, cache: TextCache | None = None
  ) -> Float[np.ndarray, 'n d']:
    """Unit vectors of a vocabulary's classes, those of `Vocabulary.pool`.

    Args:
      weights: the model's.
      vocabulary: as `read_vocabulary` returns it.
      cache: keeps the vectors of prompts where none are kept on disk.
    """
    encode = functools.partial(self.encode, weights)
    return class_vectors(vocabulary, encode, self._cache or cache)

  def encode(
    self, weights: Weights, prompts: Sequence[str]
  ) -> Float[np.ndarray, 'n d']:
    """CLIP vectors (not normalised) of prompts.

    Raises:
      ValueError: the CLIP's own tokenizer is not there.
    """
    tower = functools.partial(self._encode, weights)
    clip = self._preset.config.clip
    if self._pieces is None and has_own_tokenizer(clip):
      raise ValueError(
        'the CLIP of this model has a tokenizer of its own: load it from its bundle, '
        'or pass `pieces`'
      )
    return encode_prompts(prompts, tower, clip.context_length, pieces=self._pieces)
