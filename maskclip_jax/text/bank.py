"""Class vectors of a vocabulary, each prompt encoded once.

The text tower is a function of the model layer; here are the averaging [masqclip 6],
[ovseg 6.2], and a cache of prompt vectors, in memory and in a file that later runs
read.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from maskclip_jax import atomic
from maskclip_jax.text import tokenizer
from maskclip_jax.text.vocabulary import Vocabulary
from maskclip_jax.text.word_pieces import WordPieces

Encode = Callable[[list[str]], Float[np.ndarray, 'n d']]
# Token ids, (n, t), to vectors, (n, d).
Tower = Callable[[Int[np.ndarray, 'n t']], ArrayLike]

_FORMAT = 'text vectors 1'
# Prompts that go through a text tower at a time: any vocabulary runs the same programs.
_PROMPTS = 16
# Fields of a CLIP's config, besides 'text_...', that vectors of prompts depend on.
_OF_TEXT = 'activation', 'cleaning', 'pad_token'


def encode_prompts(
  prompts: Sequence[str],
  tower: Tower,
  longest: int,
  *,
  truncate: bool = True,
  pieces: WordPieces | None = None,
) -> Float[np.ndarray, 'n d']:
  """Vectors of prompts, as many at a time as one compiled program takes.

  Prompts go in the order of their lengths, so that a few long ones do not make all the
  others as long: each call is cut to the shortest of `tokenizer.contexts` that holds
  its prompts, and no more programs than contexts are ever compiled. What a prompt is
  padded to moves its vector by rounding alone.

  Args:
    prompts: any number of them.
    tower: token ids to vectors, not normalised; called with equally many rows each
      time.
    longest: most tokens that the tower reads.
    truncate: cut a prompt that is longer, instead of raising.
    pieces: the tokenizer, where it is not CLIP's.

  Returns:
    One vector a prompt, in the order of the prompts.

  Raises:
    ValueError: no prompts; or one that is longer and is not to be cut.
  """
  if not prompts:
    raise ValueError('there is no text to encode')
  if pieces is None:
    tokens = tokenizer.tokenize(prompts, longest, truncate=truncate)
    lengths, contexts = tokenizer.lengths(tokens), tokenizer.contexts(longest)
  else:
    # Nothing is known of its padding.
    tokens = pieces(prompts, truncate=truncate)
    lengths, contexts = np.full(len(tokens), tokens.shape[1]), tokens.shape[1:]
  order = np.argsort(-lengths, kind='stable')
  calls = np.pad(order, (0, -len(order) % _PROMPTS), mode='edge').reshape(-1, _PROMPTS)
  # All calls are sent off before the first result is waited for.
  vectors = [
    tower(tokens[call, : next(c for c in contexts if c >= lengths[call].max())])
    for call in calls
  ]
  ordered = np.concatenate([np.asarray(v) for v in vectors])[: len(prompts)]
  restored = np.empty_like(ordered)
  restored[order] = ordered
  return restored


def class_vectors(
  vocabulary: Vocabulary, encode: Encode, cache: 'TextCache | None' = None
) -> Float[np.ndarray, 'k d']:
  """Vectors of a vocabulary's classes, for the similarity with image regions.

  Args:
    vocabulary: with the treatment it is to have.
    encode: the text tower: prompts to vectors, not normalised.
    cache: vectors that are known already; takes the new ones.

  Returns:
    float32 unit rows, those of `Vocabulary.pool`; `Vocabulary.columns` tells which
    belong to which class.

  Raises:
    ValueError: `encode` does not return one finite vector per prompt.
  """
  prompts, _ = vocabulary.prompts()
  return vocabulary.pool((cache or TextCache()).vectors(prompts, encode))


class TextCache:
  """Vectors of prompts, in memory and, if there is a directory, in one file there.

  The file is replaced as a whole, so readers and other writers never see half of it.
  Of two processes that write at once the later wins: the other's prompts are encoded
  again some day. A file that is damaged, or of other weights, is ignored with a warning
  and replaced; a directory that cannot be written is warned about once.
  """

  def __init__(self, directory: str | os.PathLike | None = None, fingerprint: str = ''):
    """Opens a cache; nothing is read before it is needed.

    Args:
      directory: where to keep the file; None keeps vectors in memory only.
      fingerprint: identifies the weights of the text tower, e.g. their hash.

    Raises:
      ValueError: a directory without a fingerprint.
    """
    if directory is not None and not fingerprint:
      raise ValueError('a text cache on disk needs the fingerprint of its text tower')
    self._fingerprint = fingerprint
    self._vectors: dict[str, Float[np.ndarray, ' d']] = {}
    self._path: pathlib.Path | None = None
    self._read_stamp: tuple[int, int] | None = None
    if directory is not None:
      name = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
      self._path = pathlib.Path(directory) / f'text-{name}.vectors'

  def vectors(self, prompts: Sequence[str], encode: Encode) -> Float[np.ndarray, 'n d']:
    """Vectors of some prompts; those not known yet are encoded, once and together.

    Raises:
      ValueError: `encode` does not return one finite vector per prompt.
    """
    missing = self._missing(prompts)
    if missing:
      self._read()
      missing = self._missing(prompts)
    if missing:
      new = _checked(encode(missing), missing)
      if _lengths(self._vectors) not in (set(), {new.shape[1]}):
        self._warn('holds vectors of another length')
        self._vectors.clear()
        return self.vectors(prompts, encode)
      self._vectors.update(zip(missing, new, strict=True))
      self._write()
    return np.stack([self._vectors[prompt] for prompt in prompts])

  def _missing(self, prompts: Sequence[str]) -> list[str]:
    return [p for p in dict.fromkeys(prompts) if p not in self._vectors]

  def _warn(self, what: str) -> None:
    where = self._path or 'in memory'
    warnings.warn(
      f'the text cache {where} {what}: it is ignored and written anew',
      RuntimeWarning,
      stacklevel=4,
    )

  def _read(self) -> None:
    """Takes over what the file holds, if it has changed since the last look."""
    if self._path is None:
      return
    try:
      stamp = _stamp(self._path)
      if stamp == self._read_stamp:
        return
      self._read_stamp = stamp
      content = self._path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
      return
    except OSError as error:
      self._warn(f'cannot be read ({error.strerror})')
      return
    loaded = _unpack(content, self._fingerprint)
    if isinstance(loaded, str):
      self._warn(loaded)
    elif len(_lengths(loaded) | _lengths(self._vectors)) > 1:
      self._warn('holds vectors of another length')
    else:
      self._vectors = loaded | self._vectors

  def _write(self) -> None:
    """Replaces the file by one with all vectors, those of other processes too."""
    if self._path is None:
      return
    self._read()
    try:
      with atomic.file(self._path) as part:
        part.write_bytes(_pack(self._vectors, self._fingerprint))
        self._read_stamp = _stamp(part)
    except OSError as error:
      warnings.warn(
        f'{error} (the cache of text vectors is not kept, so the next run encodes the '
        'prompts again)',
        RuntimeWarning,
        stacklevel=3,
      )
      self._path = None


def text_cache(
  cache_dir: str | os.PathLike | None,
  fingerprint: str | None,
  clip: Any,
  dtype: str,
) -> TextCache | None:
  """The vectors of prompts that are kept on disk; None where none are.

  Args:
    cache_dir: where they are, in the folder 'text'.
    fingerprint: that of the weights of the text tower; None without one.
    clip: the config of its CLIP, which tells what else its vectors depend on; None
      without one.
    dtype: compute type.
  """
  if cache_dir is None or clip is None or not fingerprint:
    return None
  told = [
    f'{field.name}={getattr(clip, field.name)}'
    for field in dataclasses.fields(clip)
    if field.name.startswith('text_') or field.name in _OF_TEXT
  ]
  key = ' '.join([fingerprint, dtype, *told])
  return TextCache(pathlib.Path(cache_dir) / 'text', key)


def proposal_cache(
  cache_dir: str | os.PathLike | None,
  fingerprint: str | None,
  config: Any,
  dtype: str,
) -> TextCache | None:
  """`text_cache` of the text tower that a model's proposals have for themselves; None
  where they are not asked for words.

  Args:
    cache_dir: where it is, in the folder 'text'.
    fingerprint: one that differs where that tower does; None without one.
    config: the model's.
    dtype: compute type.
  """
  if not fingerprint or not getattr(config, 'proposal_words', ''):
    return None
  return text_cache(cache_dir, f'proposals {fingerprint}', config.proposals.clip, dtype)


def _lengths(vectors: dict[str, Float[np.ndarray, ' d']]) -> set[int]:
  return {len(vector) for vector in vectors.values()}


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  """What changes when a file is replaced; a renamed file keeps its own."""
  stat = path.stat()
  return stat.st_mtime_ns, stat.st_size


def _checked(
  vectors: Float[np.ndarray, 'n d'], prompts: list[str]
) -> Float[np.ndarray, 'n d']:
  vectors = np.asarray(vectors, np.float32)
  if vectors.ndim != 2 or len(vectors) != len(prompts):
    raise ValueError(
      f'the text tower returned an array {vectors.shape} for {len(prompts)} prompts'
    )
  finite = np.isfinite(vectors).all(-1)
  if not finite.all():
    bad = prompts[int(np.argmin(finite))]
    raise ValueError(f'the text tower returned numbers that are not finite for {bad!r}')
  return vectors


def _pack(vectors: dict[str, Float[np.ndarray, ' d']], fingerprint: str) -> bytes:
  """A line with the hash of the rest, a line of JSON, and rows of float32."""
  header = {'format': _FORMAT, 'fingerprint': fingerprint, 'prompts': list(vectors)}
  rows = np.stack(list(vectors.values())).astype('<f4')
  body = json.dumps(header).encode() + b'\n' + rows.tobytes()
  return hashlib.sha256(body).hexdigest().encode() + b'\n' + body


def _unpack(
  content: bytes, fingerprint: str
) -> dict[str, Float[np.ndarray, ' d']] | str:
  """The vectors of a file, or why they cannot be used."""
  digest, _, body = content.partition(b'\n')
  if digest != hashlib.sha256(body).hexdigest().encode():
    return 'is damaged'
  header, _, rows = body.partition(b'\n')
  header = json.loads(header)
  if header['format'] != _FORMAT or header['fingerprint'] != fingerprint:
    return 'belongs to other weights'
  prompts = header['prompts']
  vectors = np.frombuffer(rows, '<f4').reshape(len(prompts), -1)
  return dict(zip(prompts, vectors.astype(np.float32), strict=True))
