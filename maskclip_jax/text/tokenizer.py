"""CLIP's tokenizer: byte pair encoding over cleaned, lower-case text.

Implements [masqclip 1.3] (Radford et al., 2021): ids agree with OpenAI's tokenizer.
The merges are read on first use (about 30 ms).
"""

import functools
import gzip
import heapq
import html
import importlib.resources
from collections.abc import Sequence

import ftfy
import numpy as np
import regex
from jaxtyping import Int

VOCABULARY_SIZE = 49408
START, END = 49406, 49407
# Lengths a batch may be cut to. The text tower is causal and reads the end token, so
# the padding behind it cannot matter: 16 holds nearly every class name.
CONTEXTS = (16, 32, 77)

_SPECIAL = {'<|startoftext|>': START, '<|endoftext|>': END}
_PIECES = regex.compile(
  r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
  r'|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+',
  regex.IGNORECASE,
)
_SPACE = regex.compile(r'\s+')
_WORD_END = '</w>'


def clean(text: str) -> str:
  """Repairs encoding errors and HTML entities, collapses blanks, lowers the case."""
  text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
  return _SPACE.sub(' ', text).strip().lower()


def encode(text: str) -> list[int]:
  """Token ids of a text of any length, without the start and end tokens."""
  return [i for piece in _PIECES.findall(clean(text)) for i in _encode_piece(piece)]


def tokenize(
  texts: str | Sequence[str],
  context: int | Sequence[int] = CONTEXTS[-1],
  *,
  truncate: bool = False,
) -> Int[np.ndarray, 'n context']:
  """Token ids of some texts, ready for the text tower.

  Args:
    texts: one text or several.
    context: length of a row; of several lengths, the smallest that holds all texts.
    truncate: cut a text that is too long, instead of raising.

  Returns:
    int32 rows: start token, the text, end token, zeros.

  Raises:
    ValueError: a text is longer than the (largest) context.
  """
  texts = [texts] if isinstance(texts, str) else list(texts)
  contexts = sorted([context] if isinstance(context, int) else context)
  rows = [[START, *encode(text), END] for text in texts]
  longest = max(map(len, rows), default=0)
  length = next((c for c in contexts if c >= longest), contexts[-1])
  tokens = np.zeros((len(rows), length), np.int32)
  for text, row, ids in zip(texts, tokens, rows, strict=True):
    if len(ids) > length:
      if not truncate:
        raise ValueError(
          f'the text {text[:40]!r}... has {len(ids)} tokens, and the text tower reads '
          f'{length}: shorten it or pass truncate=True'
        )
      ids = [*ids[: length - 1], END]
    row[: len(ids)] = ids
  return tokens


def lengths(tokens: Int[np.ndarray, 'n t']) -> Int[np.ndarray, ' n']:
  """Tokens of each row up to its end token, which has the largest id."""
  return tokens.argmax(-1) + 1


def contexts(longest: int) -> tuple[int, ...]:
  """The lengths of `CONTEXTS` for a text tower that reads at most `longest` tokens."""
  return (*(length for length in CONTEXTS if length < longest), longest)


@functools.cache
def _byte_symbols() -> tuple[dict[int, str], dict[str, int]]:
  """One printable character for every byte, and the ids of the one-byte symbols.

  Printable Latin-1 stands for itself and takes the first ids; the other bytes follow,
  written with the characters from 256 on. Ids 256 to 511 are the same at a word's end.
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  other = [byte for byte in range(256) if byte not in printable]
  symbols = {byte: chr(byte) for byte in printable}
  symbols |= {byte: chr(256 + i) for i, byte in enumerate(other)}
  ids = {symbol: i for i, symbol in enumerate(symbols.values())}
  ids |= {symbol + _WORD_END: 256 + i for symbol, i in ids.items()}
  return symbols, ids


@functools.cache
def _merges() -> dict[str, int]:
  """Rank of every merge, keyed by its line in the file: 'left right'."""
  packed = importlib.resources.files(__package__).joinpath('merges.txt.gz').read_bytes()
  lines = gzip.decompress(packed).decode().splitlines()
  return {line: rank for rank, line in enumerate(lines)}


@functools.lru_cache(maxsize=1 << 16)
def _encode_piece(piece: str) -> tuple[int, ...]:
  """Byte pair encoding of one piece: the lowest-ranked merge first, of equals the left.

  Neighbours that can merge wait in a heap, so that a piece of any length takes time in
  proportion to it, but for a logarithm.
  """
  if piece in _SPECIAL:
    return (_SPECIAL[piece],)
  byte_symbols, byte_ids = _byte_symbols()
  merges = _merges()
  symbols = [byte_symbols[byte] for byte in piece.encode('utf-8', 'replace')]
  symbols[-1] += _WORD_END
  ids = [byte_ids[symbol] for symbol in symbols]
  # The symbols are a chain: a merge keeps the left place and takes out the right one.
  after = [*range(1, len(symbols)), None]
  before = [None, *range(len(symbols) - 1)]
  waiting = []

  def offer(left: int | None, right: int | None) -> None:
    if left is not None and right is not None:
      rank = merges.get(f'{symbols[left]} {symbols[right]}')
      if rank is not None:
        heapq.heappush(waiting, (rank, left, right, symbols[left], symbols[right]))

  for left in range(len(symbols) - 1):
    offer(left, left + 1)
  while waiting:
    rank, left, right, one, two = heapq.heappop(waiting)
    # Either may have merged with another in the meantime.
    if symbols[left] != one or symbols[right] != two or after[left] != right:
      continue
    symbols[left], symbols[right] = one + two, None
    # Merges are listed in the order of the vocabulary, behind the one-byte symbols.
    ids[left] = len(byte_ids) + rank
    after[left] = after[right]
    if after[right] is not None:
      before[after[right]] = left
    offer(before[left], left)
    offer(left, after[left])
  return tuple(i for i, symbol in zip(ids, symbols, strict=True) if symbol is not None)
