"""Photos and classes of one's own, in any form of `data.own`, as records.

A build under a name of your own, read as the views NAME/panoptic, NAME/semantic and
NAME/instances, as far as its labels allow: objects with outlines give all three, and so
does a panoptic map; a semantic map gives only itself.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from maskclip_jax.data import described, registry
from maskclip_jax.data.builders.base import Sample, SegmentationBuilder
from maskclip_jax.data.builders.files import (
  check_size,
  make_record,
  measured_objects,
  measured_segments,
)
from maskclip_jax.data.own import Annotated, OwnData, groups, open_own
from maskclip_jax.data.own.annotated import LabelledPhoto, LabelMap, Row
from maskclip_jax.data.own.painting import lifted, painted
from maskclip_jax.data.own.photos import stored_photo
from maskclip_jax.data.records import Record


class OwnPhotos(SegmentationBuilder):
  """A dataset of one's own."""

  name = 'own'

  def __init__(self, *, name: str, given: OwnData, **kwargs):
    """Makes a builder.

    Args:
      name: of the dataset that is built.
      given: where its photos and labels lie.
      **kwargs: for `SegmentationBuilder`.
    """
    self.name, self._given = name, given
    self._data: Annotated | None = None
    super().__init__(**kwargs)

  @property
  def card(self) -> registry.DatasetCard:
    title = f'{self.name}, photos and classes of your own'
    builder = f'{__name__}:{type(self).__name__}'
    return registry.DatasetCard(self.name, title, '', '', (), {}, builder)

  def open_raw(self, root: str | os.PathLike | None) -> Annotated:
    """Lists the photos and their labels; `root` is part of what was given."""
    del root
    self._data = open_own(self._given)
    return self._data

  def splits(self, raw: Annotated) -> dict[str, list[Sample]]:
    table = np.zeros((2, described.VALUES), np.int32)
    for index, category in enumerate(raw.classes.classes):
      table[:, category.id] = index, category.thing
    make = functools.partial(
      _record, fields=raw.fields, classes=table[0], things=table[1] > 0
    )
    return {
      split: [Sample(p.key, functools.partial(make, p)) for p in photos]
      for split, photos in raw.splits.items()
    }

  def describe(
    self, shards: Mapping[str, Sequence[tuple[int, int]]], folder: os.PathLike
  ) -> None:
    super().describe(shards, folder)
    contents = described.Contents(
      views=_views(self._data),
      splits={split: sum(n for n, _ in rows) for split, rows in shards.items()},
      ignore=self._data.ignore,
      groups=groups(self._given, self._data),
    )
    places = ', '.join(str(path) for path in self._data.sources)
    words = dataclasses.replace(
      self._data.classes, provenance=f'{self._given.form}: {places}'
    )
    described.Description(self.name, words, contents).save(folder)


def _views(data: Annotated) -> dict[str, described.Field]:
  """By the last part of a view's name, the field that it reads."""
  semantic: described.Field = 'semantic' if 'semantic' in data.fields else 'segments'
  if set(data.fields) == {'semantic'}:
    return {'semantic': semantic}
  views: dict[str, described.Field] = {'panoptic': 'segments', 'semantic': semantic}
  if data.classes.things.any():
    views['instances'] = 'instances'
  return views


def _record(
  photo: LabelledPhoto,
  fields: Sequence[described.Field],
  classes: Int32[np.ndarray, ' ids'],
  things: Bool[np.ndarray, ' ids'],
) -> Record:
  """Reads a photo and its labels.

  Args:
    photo: the photo.
    fields: what the dataset has labels in.
    classes: class index by id.
    things: which ids are of things.

  Raises:
    ValueError: a file is damaged, or labels do not fit their photo; names it.
  """
  labels = photo.read()
  data, size = stored_photo(photo.file, labels.size, labels.upright)
  found: dict[str, Any] = {}
  objects, segments = labels.objects, labels.segments
  if 'instances' in fields:
    objects = measured_objects(photo.file, objects or (), size, correct=True)
  if segments is not None:
    check_size(photo.file, segments.values.shape, size)
    rows = measured_segments(segments.rows, segments.values)
    segments = LabelMap(segments.png, segments.values, rows)
  elif 'instances' in fields or 'segments' in fields:
    segments = painted(objects if 'segments' not in fields else (), size, things)
  if segments is not None:
    if objects is None:
      objects = lifted(segments, things)
    objects = [row for row in objects if things[row['category_id']]]
    found |= {
      'segments': segments.png,
      'segments_info': _with_classes(segments.rows, classes),
      'instances': _with_classes(objects, classes),
    }
  if labels.semantic is not None:
    check_size(photo.file, labels.semantic.values.shape, size)
    found['semantic'] = labels.semantic.png
  return make_record(photo.file, photo.key, data, size, **found)


def _with_classes(rows: Sequence[Row], classes: Int32[np.ndarray, ' ids']) -> list[Row]:
  return [{**row, 'class': int(classes[row['category_id']])} for row in rows]
