"""Tokenizers that come as a file with their model: SigLIP's and SigLIP 2's.

The file is `tokenizer.json` of the library tokenizers, which the extra `siglip`
installs; it is read when the first text is cut.
"""

import functools
import os
import pathlib
import string
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from maskclip_jax.text import tokenizer

FILE = 'tokenizer.json'

# What the tokenizers of T5 and of Gemma call the end of a text.
_ENDS = ('</s>', '<eos>')
_WITHOUT_PUNCTUATION = str.maketrans('', '', string.punctuation)


def word_pieces(folder: str | os.PathLike, clip: Any) -> 'WordPieces | None':
  """The tokenizer of a CLIP whose files are in a folder.

  Args:
    folder: a repository or a bundle.
    clip: the config of the CLIP.

  Returns:
    None for a CLIP whose tokenizer is that of `text.tokenizer`.
  """
  if not has_own_tokenizer(clip):
    return None
  return WordPieces(
    pathlib.Path(folder) / FILE,
    context_length=clip.context_length,
    vocab_size=clip.vocab_size,
    pad_token=clip.pad_token,
    cleaning=clip.cleaning,
  )


def has_own_tokenizer(clip: Any) -> bool:
  """Whether a CLIP of some config needs a tokenizer file."""
  return hasattr(clip, 'pad_token')


class WordPieces:
  """Token ids of texts by a tokenizer file.

  Args:
    path: the file.
    context_length: tokens of a text, which is padded to as many.
    vocab_size: number of token ids that the text tower knows.
    pad_token: what it is padded with.
    cleaning: 'lower' lowers the case, 'canonical' takes the punctuation out as well.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    context_length: int,
    vocab_size: int,
    pad_token: int,
    cleaning: Literal['canonical', 'lower'],
  ):
    self.path = pathlib.Path(path)
    self.context_length, self.pad_token = context_length, pad_token
    self.vocab_size = vocab_size
    self.cleaning = cleaning

  def __call__(
    self, texts: str | Sequence[str], *, truncate: bool = False
  ) -> Int[np.ndarray, 'n t']:
    """Token ids of some texts, ready for the text tower.

    Args:
      texts: one text or several.
      truncate: cut a text that is too long, instead of raising.

    Returns:
      int32 rows: the text, the end token, padding.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a tokenizer's or another model's, the library is not
        installed, or a text is too long.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    library, end = self._library
    rows = np.full((len(texts), self.context_length), self.pad_token, np.int32)
    for text, row in zip(texts, rows, strict=True):
      ids = library.encode(self.clean(text), add_special_tokens=False).ids
      if len(ids) >= len(row) and not truncate:
        raise ValueError(
          f'the text {text[:40]!r}... has {len(ids) + 1} tokens, and the text tower '
          f'reads {len(row)}: shorten it or pass truncate=True'
        )
      ids = [*ids[: len(row) - 1], end]
      if max(ids) >= self.vocab_size:
        raise ValueError(
          f'{self.path} is the tokenizer of another model: it gives token '
          f'{max(ids)}, and the text tower knows {self.vocab_size}; take that of the '
          "weights' repository"
        )
      row[: len(ids)] = ids
    return rows

  def clean(self, text: str) -> str:
    """A text as the model was shown texts in training."""
    if self.cleaning == 'canonical':
      text = text.replace('_', ' ').translate(_WITHOUT_PUNCTUATION)
    return tokenizer.clean(text)

  @functools.cached_property
  def _library(self) -> tuple[Any, int]:
    """The library's tokenizer and the id of its end token."""
    if not self.path.is_file():
      raise FileNotFoundError(
        f'{self.path} does not exist: the words of this model need the tokenizer file '
        'of its repository beside the weights'
      )
    try:
      import tokenizers
    except ImportError as error:
      raise ValueError(
        f'{self.path} needs the library tokenizers, which is not installed: pip '
        'install maskclip_jax[siglip]'
      ) from error
    try:
      library = tokenizers.Tokenizer.from_file(str(self.path))
    except Exception as error:
      # The library raises this class and no other.
      raise ValueError(f'{self.path} is not a file of a tokenizer: {error}') from None
    library.no_truncation()
    library.no_padding()
    end = next((i for e in _ENDS if (i := library.token_to_id(e)) is not None), None)
    if end is None:
      raise ValueError(f'{self.path} has no end token {" or ".join(_ENDS)}')
    return library, end
