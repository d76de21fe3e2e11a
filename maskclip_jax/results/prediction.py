"""What was found in a photo: to look at, to compute with, and to save.

Files follow COCO: `<stem>.json` has categories, scores, boxes (x, y, width, height),
areas and run-length masks (`coco.py` says where); `<stem>.panoptic.png` codes segment
ids in RGB (id = red + 256 green + 65536 blue, 0 is void); `<stem>.semantic.png` holds
class indices (255 or, of more classes, 65535 is none) and `<stem>.instance.png` the
number of the best detection per pixel (0 is none), in 8 bits or, above 255, in 16. A
class index is the position in the vocabulary, counted from 0; category ids are the data
set's own where the vocabulary knows them.
"""

import collections
import dataclasses
import functools
import io
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table
import rich.text
from jaxtyping import Bool, Int, UInt8

from maskclip_jax import atomic
from maskclip_jax.postprocess import OutputKind, Results
from maskclip_jax.postprocess.instances import Instances
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.results import coco
from maskclip_jax.results import files as result_files
from maskclip_jax.results import overlay as drawing
from maskclip_jax.results.lettering import Wording, drawable
from maskclip_jax.results.palette import Color, class_colors, object_color

# Which result a picture shows where several were asked for.
_PREFERENCE: tuple[OutputKind, ...] = ('panoptic', 'instance', 'semantic')


@dataclasses.dataclass(frozen=True)
class Detection:
  """One scored mask.

  Attributes:
    class_index: position in the vocabulary.
    score: confidence, 0..1.
    area: in pixels.
    box: left, top, right, bottom; the last two exclusive.
    rle: the mask, COCO's compressed run lengths.
  """

  class_index: int
  score: float
  area: int
  box: tuple[int, int, int, int]
  rle: dict

  @property
  def mask(self) -> Bool[np.ndarray, 'height width']:
    """The mask, decoded."""
    return result_files.decode_rle(self.rle)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
  """The results for one photo; what was not asked for is None.

  Attributes:
    size: height and width of the photo.
    names: the names of the classes.
    things: which classes are countable.
    semantic: class index of every pixel, -1 where there is none.
    panoptic: segment id of every pixel, 0 where there is none.
    segments: what the ids are.
    instances: detections, best first.
    colors: a data set's own colours; None where a class has none.
    category_ids: a data set's own numbers of the classes; None where a class has none.
    photo: what `overlay` draws on.

  Raises:
    ValueError: no result, or names, flags, colours or maps that do not fit each other.
  """

  size: tuple[int, int]
  names: tuple[str, ...]
  things: tuple[bool, ...]
  semantic: Int[np.ndarray, 'height width'] | None = None
  panoptic: Int[np.ndarray, 'height width'] | None = None
  segments: tuple[Segment, ...] | None = None
  instances: tuple[Detection, ...] | None = None
  colors: tuple[Color | None, ...] | None = None
  category_ids: tuple[int | None, ...] | None = None
  photo: UInt8[np.ndarray, 'height width 3'] | None = None

  def __post_init__(self):
    names = tuple(str(name) for name in self.names)
    object.__setattr__(self, 'names', names)
    object.__setattr__(self, 'things', tuple(bool(thing) for thing in self.things))
    for what in (self.things, self.colors, self.category_ids):
      if what is not None and len(what) != len(names):
        raise ValueError(f'{len(what)} flags, colours or ids for {len(names)} classes')
    if not self.tasks:
      raise ValueError('a prediction needs a result: semantic, panoptic or instances')
    for name in ('semantic', 'panoptic', 'photo'):
      array = getattr(self, name)
      if array is not None and array.shape[:2] != tuple(self.size):
        raise ValueError(
          f'the {name} array is {array.shape[:2]}, the photo is {tuple(self.size)}'
        )

  @classmethod
  def from_results(
    cls,
    results: Results,
    names: Sequence[str],
    things: Sequence[bool],
    *,
    colors: Sequence[Color | None] | None = None,
    category_ids: Sequence[int | None] | None = None,
    photo: UInt8[np.ndarray, 'height width 3'] | None = None,
  ) -> 'Prediction':
    """A prediction from what post-processing found.

    Masks are encoded one at a time; empty ones are left out.
    """
    size = None
    for found in (results.semantic, results.panoptic):
      size = found.shape if found is not None else size
    if results.instances is not None:
      size = results.instances.masks.shape
    return cls(
      size=size,
      names=tuple(names),
      things=tuple(things),
      semantic=results.semantic,
      panoptic=results.panoptic,
      segments=results.segments,
      instances=_detections(results.instances),
      colors=None if colors is None else tuple(colors),
      category_ids=None if category_ids is None else tuple(category_ids),
      photo=photo,
    )

  @property
  def tasks(self) -> tuple[OutputKind, ...]:
    """The results that are here, the one a picture shows first."""
    here = {'semantic': self.semantic, 'panoptic': self.panoptic}
    here['instance'] = self.instances
    return tuple(task for task in _PREFERENCE if here[task] is not None)

  def semantic_areas(self) -> list[tuple[int, int]]:
    """Class and pixels of everything in the semantic map, largest first."""
    areas = np.bincount(self.semantic.ravel() + 1)[1:]
    order = np.argsort(-areas, kind='stable')
    return [(int(label), int(areas[label])) for label in order if areas[label]]

  def class_colors(self) -> UInt8[np.ndarray, 'k 3']:
    """Red, green and blue of every class."""
    return class_colors(self.names, self.colors)

  def category_numbers(self) -> tuple[int, ...]:
    """The data set's number of every class; its position where one has none."""
    if self.category_ids is None or None in self.category_ids:
      return tuple(range(len(self.names)))
    return self.category_ids

  def instance_map(
    self, score_threshold: float = 0.0
  ) -> Int[np.ndarray, 'height width']:
    """Number of the best detection per pixel, counted from 1; 0 where there is none."""
    ids = np.zeros(self.size, np.int32)
    for number in range(len(self.instances), 0, -1):
      one = self.instances[number - 1]
      if one.score >= score_threshold:
        ids[one.mask] = number
    return ids

  def overlay(
    self,
    task: OutputKind | None = None,
    *,
    score_threshold: float = 0.3,
    scale: int | None = None,
  ) -> UInt8[np.ndarray, 'height2 width2 3']:
    """The photo with the result drawn over it, and a panel that lists the classes.

    Args:
      task: which result; the first of `tasks` by default.
      score_threshold: detections that score less are not drawn.
      scale: the picture has this many times the photo's sides and no panel, so that
        with 1 it lies over the photo; by default small photos are enlarged and there
        is a panel.

    Raises:
      ValueError: no photo was given, there is no such result, or a scale below 1.
    """
    task = self.tasks[0] if task is None else task
    if task not in self.tasks:
      raise ValueError(f'there is no {task} result, only {", ".join(self.tasks)}')
    if self.photo is None:
      raise ValueError('this prediction has no photo to draw on')
    if task == 'semantic':
      ids = self.semantic + 1
      rows = [(label + 1, label, area, None) for label, area in self.semantic_areas()]
    elif task == 'panoptic':
      rows = [(s.id, s.class_index, s.area, None) for s in self.segments]
      ids = self.panoptic
    else:
      ids = self.instance_map(score_threshold)
      seen = np.bincount(ids.ravel(), minlength=len(self.instances) + 1)
      rows = [
        (number, one.class_index, int(seen[number]), one.score)
        for number, one in enumerate(self.instances, 1)
        if seen[number]
      ]
    regions, legend = self._regions(rows, count=task != 'semantic')
    return drawing.draw(self.photo, ids, regions, legend, scale=scale)

  def _regions(self, rows, *, count: bool):
    """Regions and legend of rows (id, class, area, score or None)."""
    colors = self.class_colors()
    wording = functools.cache(lambda label: drawable(self.names[label], label))
    areas, numbers = collections.Counter(), collections.Counter()
    ids, regions = collections.defaultdict(list), []
    total = collections.Counter(label for _, label, *_ in rows)
    for region_id, label, area, score in rows:
      color = object_color(colors[label], numbers[label] if count else 0)
      areas[label] += area
      numbers[label] += 1
      text, number = wording(label), None
      if count and total[label] > 1:
        text += f' {numbers[label]}'
        number = Wording.plain(str(numbers[label]))
      if score is not None:
        text += f', {score:.0%}'
      thing = self.things[label]
      regions.append(drawing.DrawnRegion(region_id, color, thing, text, number))
      ids[label].append(region_id)
    legend = []
    for label, area in areas.most_common():
      remark = _share(area, self.size[0] * self.size[1])
      if count and self.things[label] and numbers[label] > 1:
        remark = f'{numbers[label]}x  {remark}'
      color = tuple(int(v) for v in colors[label])
      row = drawing.LegendRow(color, wording(label), remark, tuple(ids[label]))
      legend.append(row)
    _tell_numbers({label: self.names[label] for label in areas}, wording)
    return regions, legend

  def to_coco(
    self,
    *,
    image_id: int = 1,
    file_name: str = '',
    panoptic_file: str = '',
  ) -> dict:
    """COCO's JSON, as `results.coco.prediction_json` describes it.

    Args:
      image_id: the image's number in a data set.
      file_name: the file name of the photo.
      panoptic_file: the name of the PNG with the segment ids.
    """
    image = {'id': image_id, 'file_name': file_name}
    return coco.prediction_json(self, image, panoptic_file)

  def json_files(
    self,
    stem: str,
    *,
    file_name: str = '',
    image_id: int | str = 1,
    info: Mapping[str, Any] | None = None,
  ) -> dict[str, bytes]:
    """The JSON files of `save`, by name; arguments as there."""
    image = {'id': image_id, 'file_name': file_name or stem}
    png = pathlib.PurePath(f'{stem}.panoptic.png').name
    head = {} if info is None else {'info': dict(info)}
    files = {f'{stem}.json': coco.prediction_json(self, image, png)}
    if self.panoptic is not None and self.instances is not None:
      files[f'{stem}.panoptic.json'] = coco.panoptic_json(self, image, png)
    return {
      name: result_files.json_bytes({**head, **content})
      for name, content in files.items()
    }

  def files(
    self,
    stem: str,
    *,
    file_name: str = '',
    image_id: int | str = 1,
    info: Mapping[str, Any] | None = None,
    overlay_scale: int | None = None,
  ) -> dict[str, bytes]:
    """What `save` writes, by name; arguments as there."""
    files = self.id_pictures(stem)
    if self.photo is not None:
      picture = self.overlay(scale=overlay_scale)
      files[f'{stem}.overlay.png'] = result_files.png_bytes(picture)
    # The last takes its place first: pictures without it would be taken for photos.
    files |= self.json_files(stem, file_name=file_name, image_id=image_id, info=info)
    return files

  def id_pictures(self, stem: str) -> dict[str, bytes]:
    """The PNGs of `save` that hold numbers, by name."""
    files = {}
    if self.panoptic is not None:
      rgb = result_files.panoptic_rgb(self.panoptic)
      files[f'{stem}.panoptic.png'] = result_files.png_bytes(rgb)
    if self.semantic is not None:
      void = 255 if len(self.names) <= 255 else 65535
      classes = np.where(self.semantic < 0, void, self.semantic)
      files[f'{stem}.semantic.png'] = result_files.png_bytes(classes)
    if self.instances is not None:
      files[f'{stem}.instance.png'] = result_files.png_bytes(self.instance_map())
    return files

  def save(
    self,
    directory: str | os.PathLike,
    stem: str,
    *,
    file_name: str = '',
    image_id: int | str = 1,
    info: Mapping[str, Any] | None = None,
    overlay_scale: int | None = None,
  ) -> list[pathlib.Path]:
    """Writes `<stem>.<task>.png`, `<stem>.json` and, with a photo, the overlay.

    Nothing is left half-written: files appear when all are complete.

    Args:
      directory: made if need be.
      stem: the photo's name without its ending; it may begin with folders.
      file_name: the file name of the photo, for the JSON; the stem by default.
      image_id: the photo's number, for the JSON.
      info: COCO's `info`, plain values.
      overlay_scale: `scale` of `overlay`.

    Returns:
      The files written.

    Raises:
      OSError: the directory cannot be written to, or the disk is full.
    """
    files = self.files(
      stem,
      file_name=file_name,
      image_id=image_id,
      info=info,
      overlay_scale=overlay_scale,
    )
    return atomic.write_together(directory, files)

  def summary(self, *, width: int = 80) -> str:
    """A table of what was found, as text.

    Args:
      width: the width of the text, in letters.
    """
    console = rich.console.Console(
      file=io.StringIO(), width=width, color_system=None, force_jupyter=False
    )
    for task in self.tasks:
      console.print(self._table(task))
    return console.file.getvalue()

  def _table(self, task: OutputKind) -> rich.table.Table:
    total = self.size[0] * self.size[1]
    if task == 'semantic':
      rows = [
        (self.names[label], 'thing' if self.things[label] else 'stuff', '', area)
        for label, area in self.semantic_areas()
      ]
    else:
      found = self.segments if task == 'panoptic' else self.instances
      rows = [
        (
          self.names[one.class_index],
          'thing' if self.things[one.class_index] else 'stuff',
          f'{one.score:.2f}',
          one.area,
        )
        for one in found
      ]
    table = rich.table.Table(title=f'{task}: {len(rows)} found', title_justify='left')
    table.add_column('class')
    table.add_column('kind')
    table.add_column('score', justify='right')
    table.add_column('share of the photo', justify='right')
    for name, kind, score, area in rows:
      # A name is shown as it is, also if it looks like markup.
      table.add_row(rich.text.Text(name), kind, score, _share(area, total))
    return table


def _detections(found: Instances | None) -> tuple[Detection, ...] | None:
  """Detections with their masks encoded; one mask may serve several of them."""
  if found is None:
    return None
  outline = functools.cache(lambda row: result_files.outline(found.masks[row]))
  return tuple(
    Detection(
      int(label),
      float(score),
      int(area),
      *reversed(outline(int(row))),
    )
    for label, score, area, row in zip(
      found.classes, found.scores, found.areas, found.rows, strict=True
    )
    if area
  )


def _tell_numbers(names: Mapping[int, str], wording) -> None:
  """Says which names a picture has numbers for, as no font has their letters."""
  lacking = [
    f'#{label} is {name}'
    for label, name in sorted(names.items())
    if not wording(label).spelled
  ]
  if lacking:
    warnings.warn(
      f'no font here has the letters of some names, so pictures have numbers for them '
      f"({', '.join(lacking)}): pip install 'maskclip_jax[fonts]'",
      UserWarning,
      stacklevel=4,
    )


def _share(area: int, total: int) -> str:
  """A part of the photo in percent."""
  share = 100 * area / total
  return f'{share:.0f}%' if share >= 0.95 else '<1%' if share < 0.5 else '1%'
