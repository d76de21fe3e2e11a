"""From mask logits and class scores to what was asked for [masqclip 8].

One image at a time, at the size of the original photo. The work runs tile by tile
(`tiles.py`), in one pass for everything that is asked for (`one_pass.py`): memory is
bounded whatever the photo and the vocabulary, and neither of them compiles anything.
The tasks are `semantic.py`, `panoptic.py` and `instances.py`; this file holds their
common configuration and entry point.
"""

import dataclasses
from collections.abc import Collection
from typing import Literal, get_args

import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from maskclip_jax.postprocess.best_regions import NO_CLASS, best_regions
from maskclip_jax.postprocess.class_scores import ClassScores, class_probabilities
from maskclip_jax.postprocess.instances import InstanceCollector, Instances, instances
from maskclip_jax.postprocess.one_pass import Collector, one_pass
from maskclip_jax.postprocess.panoptic import PanopticCollector, Segment, panoptic
from maskclip_jax.postprocess.pieces import (
  find_pieces,
  piece_instances,
  piece_segments,
)
from maskclip_jax.postprocess.semantic import (
  ScoredSemanticCollector,
  SemanticCollector,
  effective_order,
  semantic,
)
from maskclip_jax.postprocess.tiles import TILE, Geometry, Order

OutputKind = Literal['semantic', 'panoptic', 'instance']
OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
Objects = Literal['masks', 'pieces']

__all__ = [
  'NO_CLASS',
  'OUTPUT_KINDS',
  'ClassScores',
  'Geometry',
  'Instances',
  'PostprocessConfig',
  'Results',
  'Segment',
  'check_tasks',
  'class_probabilities',
  'instances',
  'panoptic',
  'postprocess',
  'semantic',
]


@dataclasses.dataclass(frozen=True)
class PostprocessConfig:
  """Choices of post-processing that the systems and data sets differ in.

  Attributes:
    object_threshold: panoptic keeps a query whose best class scores more than this.
    overlap_threshold: panoptic drops a query that won less than this share of the
      pixels its mask covers.
    reject_void: panoptic drops a query whose best column is the void column (stock
      Mask2Former and MaskCLIP; MasQCLIP carries that in the object score).
    semantic_order: 'masks_first' resizes the masks to the photo before anything else
      (the official code when panoptic or instance output is on); 'scores_first' resizes
      the class score maps (when only semantic output is on).
    top_k: most detections per image.
    things_only: drop detections of stuff classes, after the top-k (the official code
      when panoptic output is on).
    objects: what panoptic and instance results are made of: the masks of queries, or
      connected pieces of the semantic map, to which `overlap_threshold` and
      `reject_void` do not apply.
    region_threshold: semantic results are made of each class's best mask alone, cut at
      this probability, and other pixels have no class (`best_regions.py`); None for all
      masks together.

  Raises:
    ValueError: a threshold outside [0, 1], top_k below 1, an unknown order or an
      unknown kind of object.
  """

  object_threshold: float = 0.3
  overlap_threshold: float = 0.3
  reject_void: bool = False
  semantic_order: Order = 'masks_first'
  top_k: int = 100
  things_only: bool = True
  objects: Objects = 'masks'
  region_threshold: float | None = None

  def __post_init__(self):
    for name in ('object_threshold', 'overlap_threshold'):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f'{name} must be in [0, 1], not {value}')
    if self.region_threshold is not None and not 0 < self.region_threshold < 1:
      raise ValueError(
        f'region_threshold must be between 0 and 1, not {self.region_threshold}'
      )
    if self.top_k < 1:
      raise ValueError(f'top_k must be at least 1, not {self.top_k}')
    for name, known in (('semantic_order', Order), ('objects', Objects)):
      if (value := getattr(self, name)) not in get_args(known):
        raise ValueError(f'{name} must be one of {get_args(known)}, not {value!r}')


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """What was asked for; the rest is None.

  Attributes:
    semantic: the class (a column of the text bank) of every pixel; `NO_CLASS` where
      there is none.
    panoptic: the segment id of every pixel, 0 where there is none.
    segments: what the ids are.
    instances: scored masks.
  """

  semantic: Int32[np.ndarray, 'height width'] | None = None
  panoptic: Int32[np.ndarray, 'height width'] | None = None
  segments: tuple[Segment, ...] | None = None
  instances: Instances | None = None


def check_tasks(tasks: Collection[OutputKind], config: PostprocessConfig) -> None:
  """Finds that results can be had together.

  Raises:
    ValueError: an unknown task, none, or one that `region_threshold` is not for.
  """
  unknown = set(tasks) - set(OUTPUT_KINDS)
  if unknown or not tasks:
    raise ValueError(f'tasks must be some of {OUTPUT_KINDS}, not {sorted(tasks)}')
  if config.region_threshold is not None and set(tasks) != {'semantic'}:
    raise ValueError(
      "region_threshold is for the task 'semantic' alone, not for "
      f'{", ".join(sorted(tasks))}'
    )


def postprocess(
  mask_logits: Float[Array, 'q h w'],
  scores: ClassScores,
  thing: Bool[Array, ' k'],
  geometry: Geometry,
  config: PostprocessConfig,
  tasks: Collection[OutputKind],
  *,
  rest: Bool[np.ndarray, ' k'] | None = None,
  tile: int = TILE,
) -> Results:
  """Results of one image.

  Args:
    mask_logits: one map per query.
    scores: from `class_probabilities`.
    thing: which columns are countable.
    geometry: how the maps lie on the photo.
    config: thresholds and rules.
    tasks: some of 'semantic', 'panoptic' and 'instance'.
    rest: classes whose best masks do not count, where `region_threshold` is set.
    tile: side of the tiles the work is cut into, in pixels.

  Raises:
    ValueError: as `check_tasks`, NaN in masks or scores, or sizes that do not fit.
  """
  check_tasks(tasks, config)
  if (threshold := config.region_threshold) is not None:
    found, _ = best_regions(
      mask_logits, scores, geometry, threshold, rest=rest, tile=tile
    )
    return Results(semantic=found)
  queries = len(mask_logits)
  order = effective_order(config.semantic_order, geometry)
  if config.objects == 'pieces':
    collector = ScoredSemanticCollector(scores, geometry, queries)
    one_pass([collector], mask_logits, geometry, order=order, tile=tile)
    return _results_of_pieces(collector, np.asarray(thing), config, tasks)
  collectors: dict[OutputKind, Collector] = {}
  if 'semantic' in tasks:
    collectors['semantic'] = SemanticCollector(scores, geometry, queries)
  if 'panoptic' in tasks:
    collectors['panoptic'] = PanopticCollector(
      scores,
      thing,
      geometry,
      queries,
      object_threshold=config.object_threshold,
      overlap_threshold=config.overlap_threshold,
      reject_void=config.reject_void,
    )
  if 'instance' in tasks:
    collectors['instance'] = InstanceCollector(
      scores,
      thing,
      geometry,
      queries,
      top_k=config.top_k,
      things_only=config.things_only,
    )
  apart = {'semantic'} if order == 'scores_first' else set()
  for how, names in (
    ('scores_first', apart),
    ('masks_first', set(OUTPUT_KINDS) - apart),
  ):
    some = [one for task, one in collectors.items() if task in names]
    if some:
      one_pass(some, mask_logits, geometry, order=how, tile=tile)
  found = {task: one.result() for task, one in collectors.items()}
  ids, segments = found.get('panoptic', (None, None))
  return Results(found.get('semantic'), ids, segments, found.get('instance'))


def _results_of_pieces(
  found: ScoredSemanticCollector,
  thing: Bool[np.ndarray, ' k'],
  config: PostprocessConfig,
  tasks: Collection[OutputKind],
) -> Results:
  """What was asked for, made of a semantic map alone."""
  semantic = found.result()
  ids = segments = detections = None
  if set(tasks) - {'semantic'}:
    pieces = find_pieces(semantic, found.scores(), thing, config.object_threshold)
    if 'panoptic' in tasks:
      ids, segments = piece_segments(pieces, thing)
    if 'instance' in tasks:
      detections = piece_instances(pieces, thing, config.top_k, config.things_only)
  return Results(semantic if 'semantic' in tasks else None, ids, segments, detections)
