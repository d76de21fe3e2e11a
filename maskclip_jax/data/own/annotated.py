"""Photos with labels, whatever tool wrote them: what every reader of them returns.

A reader finds the files, names the classes, and says of each photo how its labels are
read; that happens only when its record is made, so a dataset may be larger than memory.
`builders/own.py` makes the records, and from objects the maps, or the other way round.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from maskclip_jax.data.builders.raw import RawFile
from maskclip_jax.data.described import Field
from maskclip_jax.data.own.files import stamps
from maskclip_jax.text.vocabulary import Vocabulary

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class OwnData:
  """What a person gives to have a dataset built.

  Attributes:
    form: how the labels are written, a name of `own.READERS`.
    images: folder (or archive) of the photos, with subfolders.
    annotations: files or folders with the labels.
    masks: folder of label maps, a PNG for each photo.
    classes: vocabulary file, or words, that names the classes; None where the labels
      name them.
    val: share of the photos that becomes the split 'val'; 0 leaves the splits as given.
    seed: of that draw.
    ignore: values of label maps that are not judged.
    seen: classes that numbers are also reported over, as 'seen'; the others are then
      'unseen'.
    unseen: the same the other way round.
  """

  form: str
  images: str | os.PathLike
  annotations: tuple[str | os.PathLike, ...] = ()
  masks: str | os.PathLike | None = None
  classes: str | os.PathLike | None = None
  val: float = 0.0
  seed: int = 0
  ignore: tuple[int, ...] = (255,)
  seen: tuple[str, ...] = ()
  unseen: tuple[str, ...] = ()

  def __post_init__(self):
    if not 0 <= self.val < 1:
      raise ValueError(
        f'--val is a share of the photos, such as 0.1, and not {self.val:g}'
      )
    unread = 'annotations' if self.form == 'masks' else 'masks'
    if getattr(self, unread):
      raise ValueError(f'--from {self.form} does not read --{unread}: leave it out')


@dataclasses.dataclass(frozen=True)
class LabelMap:
  """A label map: PNG, its values, and of segments their table.

  Attributes:
    png: as it is stored.
    values: ids of segments, 0 where there is none; or of a semantic map ids of classes.
    rows: of segments, see `row`.
  """

  png: bytes
  values: Int32[np.ndarray, 'h w']
  rows: Sequence[Row] = ()


@dataclasses.dataclass(frozen=True)
class Labels:
  """The labels of one photo; what the dataset does not have is None.

  Attributes:
    size: height and width of the picture that was labelled; None where that is not
      told.
    objects: outlines or masks of things and of stuff, which may overlap; see `row`.
    segments: each pixel belongs to one of them at most.
    semantic: the class of each pixel.
    upright: whether a photo was labelled as its camera's note turns it. Counts where
      the size does not tell: for half turns, mirror images and squares.
  """

  size: tuple[int, int] | None = None
  objects: Sequence[Row] | None = None
  segments: LabelMap | None = None
  semantic: LabelMap | None = None
  upright: bool = False


@dataclasses.dataclass(frozen=True)
class LabelledPhoto:
  """A photo whose labels can be read.

  Attributes:
    key: its name, unique in its split.
    file: the photo.
    read: reads its labels, from any thread; raises ValueError naming a damaged file.
  """

  key: str
  file: RawFile
  read: Callable[[], Labels]


@dataclasses.dataclass(frozen=True)
class Annotated:
  """A dataset as it was labelled.

  Attributes:
    classes: each with its id, which rows and semantic maps hold.
    splits: the photos, in a fixed order.
    fields: what every photo has labels in.
    sources: files and folders that all of this was read from.
    ignore: values of semantic maps that are not judged.
    notes: what was guessed or left out, for people; a line each.
  """

  classes: Vocabulary
  splits: Mapping[str, Sequence[LabelledPhoto]]
  fields: tuple[Field, ...]
  sources: tuple[str | os.PathLike, ...]
  ignore: tuple[int, ...] = ()
  notes: tuple[str, ...] = ()

  def fingerprint(self) -> str:
    """Changes when a file is edited, appears or goes, and with what was asked for."""
    splits = {name: [photo.key for photo in rows] for name, rows in self.splits.items()}
    said = self.classes.to_json(), splits, self.fields, self.ignore
    content = [repr(said), *map(repr, stamps(self.sources).items())]
    return hashlib.sha256('\n'.join(content).encode()).hexdigest()


Mask = list[list[float]] | dict[Literal['size', 'counts'], Any]


def row(
  number: int,
  category_id: int,
  mask: Mask | None = None,
  *,
  crowd: bool = False,
  area: float | None = None,
  bbox: Sequence[float] | None = None,
) -> Row:
  """One row of a table of objects or segments.

  Args:
    number: its id, unique in its photo; of a segment also the value in the map.
    category_id: id of its class.
    mask: of an object: polygons [[x, y, x, y, ...], ...] in pixels, or COCO's run
      lengths {'size': [height, width], 'counts': ...}.
    crowd: whether it is a region of many objects, or one not to be judged.
    area: pixels; measured where it is None.
    bbox: x, y, width, height in pixels; measured where it is None.
  """
  values = {
    'id': number,
    'category_id': category_id,
    'crowd': crowd,
    'area': area,
    'bbox': bbox,
  }
  if mask is not None:
    values['segmentation'] = json.dumps(mask, separators=(',', ':'))
  return values
