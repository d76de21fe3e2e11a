"""Views: the vocabularies under which a stored dataset can be read.

A build keeps original ids; a view says which of them are classes and in which order.
So `coco` is built once and read as 133 panoptic classes, as the 48/17/65 classes of the
base/novel protocol, or as COCO-Stuff 171, and PASCAL Context as 459, 59 or 60 classes.
Sources: [masqclip 9], [ovseg 7.1], [segclip 4.5].
"""

import dataclasses
import functools
import os
from typing import Literal

import numpy as np
from jaxtyping import Int32

from maskclip_jax import places
from maskclip_jax.data import described
from maskclip_jax.names import unknown
from maskclip_jax.text.vocabulary import Vocabulary

# Class index of pixels that are not judged.
IGNORE = -1
BACKGROUND = 'background'
_KINDS = {'panoptic': 'panoptic', 'semantic': 'semantic', 'instances': 'instance'}


@dataclasses.dataclass(frozen=True)
class View:
  """A way to read a dataset.

  Attributes:
    name: dataset and view, 'coco/base48'.
    kind: what an example of it is. 'panoptic': segments of things and stuff;
      'semantic': a class per pixel; 'instance': masks that may overlap; 'caption':
      photo and text; 'pair': a masked region and a noun (`pairs.py`).
    field: the field of a stored record (`records.py`) that it reads.
    vocabulary: bundled vocabulary whose order is the class index, or the file of a
      dataset of one's own (`described.py`).
    offset: stored value = id in the vocabulary + offset.
    background: class 0 is everything else and judged; the vocabulary starts at 1.
    ignored: stored values that are not judged although there is a background.
    only: examples that count. 'all'; 'labelled': with a class of the view in the field;
      or the name of a subset.
    chosen: names of the classes of the vocabulary that it has; none stands for all.
  """

  name: str
  kind: Literal['panoptic', 'semantic', 'instance', 'caption', 'pair']
  field: Literal['segments', 'semantic', 'instances', 'captions']
  vocabulary: str = ''
  offset: int = 0
  background: bool = False
  ignored: tuple[int, ...] = ()
  only: str = 'all'
  chosen: tuple[str, ...] = ()

  @property
  def dataset(self) -> str:
    return self.name.partition('/')[0]

  def words(self) -> Vocabulary:
    """The classes with their words, without background.

    Raises:
      ValueError: a caption view has none.
    """
    if not self.vocabulary:
      raise ValueError(f'{self.name} has captions and no classes')
    bundled = self.vocabulary in Vocabulary.names()
    words = (Vocabulary.named if bundled else Vocabulary.load)(self.vocabulary)
    if not self.chosen:
      return words
    classes = tuple(one for one in words.classes if one.name in self.chosen)
    return dataclasses.replace(words, classes=classes)

  def class_names(self) -> tuple[str, ...]:
    """Names by class index, the background included where it is a class."""
    names = tuple(category.name for category in self.words().classes)
    return (BACKGROUND, *names) if self.background else names

  @functools.cached_property
  def lookup(self) -> Int32[np.ndarray, ' values']:
    """Class index of every stored value (`category_id` of a table), else `IGNORE`."""
    table = np.full(described.VALUES, 0 if self.background else IGNORE, np.int32)
    table[list(self.ignored)] = IGNORE
    ids = [category.id + self.offset for category in self.words().classes]
    table[ids] = np.arange(len(ids)) + self.background
    table.setflags(write=False)
    return table

  def __getstate__(self):
    # The table is cheap to make again and large to send to worker processes.
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def view_names(
  dataset: str | None = None, data_dir: str | os.PathLike | None = None
) -> tuple[str, ...]:
  """Names of all views of the benchmarks, or of one dataset's.

  Args:
    dataset: one of them, or one's own.
    data_dir: where built datasets lie; TFDS's own place by default.
  """
  found = tuple(v.name for v in _VIEWS if dataset in (None, v.dataset))
  return found or tuple(view.name for view in _own_views(dataset, data_dir))


def find_view(name: str, data_dir: str | os.PathLike | None = None) -> View:
  """The view of a name.

  Pairs of photo and text are built under any name, so NAME/captions is always a view.

  Args:
    name: 'coco/base48', or 'NAME/panoptic' of a dataset of one's own.
    data_dir: where that one lies; TFDS's own place by default.

  Raises:
    ValueError: there is none of that name.
  """
  table = {view.name: view for view in _VIEWS}
  dataset, _, kind = name.partition('/')
  if name in table:
    return table[name]
  own = {view.name: view for view in _own_views(dataset, data_dir)}
  if name in own:
    return own[name]
  if kind == 'captions' and dataset not in {view.dataset for view in _VIEWS}:
    return View(name, 'caption', 'captions')
  error = unknown('view', name, own or table)
  if dataset not in {view.dataset for view in _VIEWS} and not own:
    place = data_dir or places.DATA_DIR
    raise ValueError(f'{error} (and no dataset {dataset!r} of your own is in {place})')
  raise error


def main_view(dataset: str, data_dir: str | os.PathLike | None = None) -> View:
  """The first view of a dataset: its own vocabulary.

  Raises:
    ValueError: the dataset has no view.
  """
  return find_view(next(iter(view_names(dataset, data_dir)), dataset), data_dir)


def _own_views(dataset: str, data_dir: str | os.PathLike | None) -> tuple[View, ...]:
  """The views of a dataset of one's own; none if there is no such dataset.

  Photos without labels belong to it: nothing is to be found in them. Of each group of
  classes there are the same views, 'NAME/panoptic_seen', in which the others are void.
  """
  found = described.find(dataset, data_dir)
  if found is None:
    return ()
  fields, groups = found.contents.views, {'': (), **found.contents.groups}
  return tuple(
    View(
      f'{dataset}/{view}' + (f'_{group}' if group else ''),
      _KINDS[view],
      fields[view],
      found.path,
      chosen=chosen,
    )
    for group, chosen in groups.items()
    for view in described.VIEWS
    if view in fields
  )


_COCO = 'coco-panoptic-133'
_INSTANCES = functools.partial(
  View, kind='instance', field='instances', only='labelled'
)

_VIEWS = (
  View('coco/panoptic', 'panoptic', 'segments', _COCO),
  # The pixels' classes of the panoptic maps; crowd regions count [masqclip 9.1].
  View('coco/semantic', 'semantic', 'segments', _COCO),
  _INSTANCES('coco/instances80', vocabulary='coco-instances80'),
  _INSTANCES('coco/base48', vocabulary='coco-base48'),
  _INSTANCES('coco/novel17', vocabulary='coco-novel17'),
  _INSTANCES('coco/instances65', vocabulary='coco-instances65'),
  View('coco/stuff171', 'semantic', 'semantic', 'coco-stuff-171', -1, only='labelled'),
  # COCO-Object: stuff and unlabelled pixels are background, nothing is ignored.
  View(
    'coco/object81', 'semantic', 'semantic', 'coco-instances80', -1, background=True
  ),
  View('coco/captions', 'caption', 'captions'),
  View('coco/captions_karpathy', 'caption', 'captions', only='karpathy_train'),
  View('ade20k_150/panoptic', 'panoptic', 'segments', 'ade20k-150'),
  View('ade20k_150/semantic', 'semantic', 'semantic', 'ade20k-150', 1),
  _INSTANCES('ade20k_150/instance', vocabulary='ade20k-150', only='all'),
  View('ade20k_847/semantic', 'semantic', 'semantic', 'ade20k-847'),
  View('pascal_context/459', 'semantic', 'semantic', 'pascal-context-459'),
  View('pascal_context/59', 'semantic', 'semantic', 'pascal-context-59'),
  View('pascal_context/59_ovseg', 'semantic', 'semantic', 'pascal-context-59-ovseg'),
  View(
    'pascal_context/60', 'semantic', 'semantic', 'pascal-context-59', background=True
  ),
  View('voc2012/20', 'semantic', 'semantic', 'voc-20'),
  View('voc2012/21', 'semantic', 'semantic', 'voc-20', background=True, ignored=(255,)),
  # Background as a word like any other, with words of its own.
  View('voc2012/21_words', 'semantic', 'semantic', 'voc-21'),
  View('miniature/panoptic', 'panoptic', 'segments', 'miniature-116'),
  # Novel things are void: their pixels are neither learned nor judged.
  View('miniature/base', 'panoptic', 'segments', 'miniature-base'),
  View('miniature/far_base', 'panoptic', 'segments', 'miniature-far-base'),
  View('miniature/semantic', 'semantic', 'semantic', 'miniature-116'),
  _INSTANCES('miniature/instances', vocabulary='miniature-things'),
  _INSTANCES('miniature/base_instances', vocabulary='miniature-base-things'),
  _INSTANCES('miniature/novel_instances', vocabulary='miniature-novel'),
  View('miniature/captions', 'caption', 'captions'),
  # Windows that one thing fills.
  View('miniature/close_captions', 'caption', 'captions', only='close'),
  View('pairs/nouns', 'pair', 'captions'),
  # Datasets that TFDS prepared itself (`catalogue.py`).
  View('tfds_coco/panoptic', 'panoptic', 'segments', _COCO),
  View('tfds_coco/semantic', 'semantic', 'segments', _COCO),
  _INSTANCES('tfds_scene_parse150/instance', vocabulary='ade20k-150', only='all'),
)
