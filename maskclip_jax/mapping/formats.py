"""Formats: which official files a network has, and how to tell and read them."""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from maskclip_jax.mapping.rules import Rules
from maskclip_jax.mapping.transforms import Shape


def _nothing_beside(path: pathlib.Path, layout: str) -> Mapping[str, Any]:
  return {}


@dataclasses.dataclass(frozen=True)
class Format:
  """The official files of a network.

  Attributes:
    title: what messages call such a file: 'MasQCLIP'.
    signatures: by layout, official keys that only files of this layout have; one of
      them is enough. A '*' stands for any text.
    read: the rules of a layout, given the official keys with their shapes, to the paths
      of the network.
    write: the rules of a layout for a config and a number of training classes (the
      length of a buffer that official code insists on); None if no file is written.
    licence: the terms of the published weights, for model cards.
    left_out: prefixes of our paths that no official file holds.
    may_lack: prefixes of our paths that some official files hold and others leave to
      the file of that part.
    may_replace: prefixes of our paths that official files hold, and that a file of that
      part may give instead.
    includes: systems whose signatures these files bear too: this format wins.
    only: by layout, prefixes of our paths for files that hold nothing else.
    classes: length of the buffer of training classes where no file tells it; that of
      COCO panoptic by default.
    wrapper: the entry of a `.pth` file that holds the state dict; '' for none.
    beside: fields of the config that a file beside the weights tells, given the weights
      and their layout.
    preset_beside: likewise 'labels', the names of the classes of a class head, the
      'preprocessing' of photos, and 'notes' for people; what is not told is left out.
    vocabularies: by classes of a class head, the vocabulary it was trained on where no
      file beside the weights names its classes.
  """

  title: str
  signatures: Mapping[str, tuple[str, ...]]
  read: Callable[[str, Mapping[str, Shape]], Rules]
  write: Callable[[Any, str, int], Rules] | None = None
  licence: str = ''
  left_out: tuple[str, ...] = ()
  may_lack: tuple[str, ...] = ()
  may_replace: tuple[str, ...] = ()
  includes: tuple[str, ...] = ()
  only: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  classes: int = 133
  wrapper: str = ''
  beside: Callable[[pathlib.Path, str], Mapping[str, Any]] = _nothing_beside
  preset_beside: Callable[[pathlib.Path, str], Mapping[str, Any]] = _nothing_beside
  vocabularies: Mapping[int, str] = dataclasses.field(default_factory=dict)

  def layout_of(self, keys: Collection[str]) -> str | None:
    """The layout that keys belong to; None if they belong to another network."""
    for layout, signature in self.signatures.items():
      if any(_holds(keys, key) for key in signature):
        return layout
    return None


def _holds(keys: Collection[str], signature: str) -> bool:
  """Whether one of the keys is a signature."""
  if '*' in signature:
    return bool(fnmatch.filter(keys, signature))
  return signature in keys
