"""What a model found in photos, judged by the metrics of a protocol's tasks."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from maskclip_jax.eval.examples import EvalExample
from maskclip_jax.eval.metrics.instance import Detections, InstanceMetrics
from maskclip_jax.eval.metrics.metric import Metrics, State, joined_states, state_of
from maskclip_jax.eval.metrics.panoptic import PanopticMetrics, Segments
from maskclip_jax.eval.metrics.semantic import SemanticMetrics
from maskclip_jax.eval.protocols import ProtocolRun
from maskclip_jax.postprocess import OutputKind, Results
from maskclip_jax.postprocess.instances import Instances
from maskclip_jax.postprocess.panoptic import Segment
from maskclip_jax.results import files


@dataclasses.dataclass(frozen=True, eq=False)
class Predicted:
  """What is judged of one photo; the rest is None.

  Attributes:
    semantic: class of each pixel; negative where there is none.
    panoptic: segments.
    instance: detections.
  """

  semantic: Int[np.ndarray, 'height width'] | None = None
  panoptic: Segments | None = None
  instance: Detections | None = None

  @classmethod
  def of(cls, results: Results) -> 'Predicted':
    """What post-processing found."""
    panoptic = instance = None
    if results.panoptic is not None:
      panoptic = predicted_segments(results.panoptic, results.segments)
    if results.instances is not None:
      instance = detections(results.instances)
    return cls(results.semantic, panoptic, instance)


class Judge:
  """Accumulates the metrics of some tasks of a protocol.

  Args:
    run: the protocol as a system runs it.
    thing: which classes of its vocabulary are countable.
    tasks: those that are judged; all of the run's by default.
  """

  def __init__(
    self,
    run: ProtocolRun,
    thing: Bool[np.ndarray, ' k'],
    tasks: Sequence[OutputKind] | None = None,
  ):
    self.tasks = tuple(t for t in run.views if tasks is None or t in tasks)
    self._classes, groups = len(thing), run.groups()
    self.metrics: dict[
      OutputKind, SemanticMetrics | PanopticMetrics | InstanceMetrics
    ] = {}
    for task in self.tasks:
      if task == 'semantic':
        self.metrics[task] = SemanticMetrics(self._classes, groups)
      elif task == 'panoptic':
        self.metrics[task] = PanopticMetrics(thing, groups)
      else:
        # Where objects have a list of their own, it begins the vocabulary.
        objects = len(run.views[task].class_names())
        own = {group: tuple(k for k in g if k < objects) for group, g in groups.items()}
        own = {group: members for group, members in own.items() if members}
        self.metrics[task] = InstanceMetrics(objects, own)

  def add(self, example: EvalExample, found: Predicted) -> None:
    """Judges one photo.

    Raises:
      ValueError: results of another size, or the photo was judged before.
    """
    truth = example.truth
    for task, metrics in self.metrics.items():
      if task == 'semantic':
        metrics.add(found.semantic, truth.semantic)
      elif task == 'panoptic':
        metrics.add(found.panoptic, truth.panoptic)
      else:
        metrics.add(example.image_id, found.instance, truth.instance)

  def state(self) -> State:
    return joined_states({task: one.state() for task, one in self.metrics.items()})

  def merge(self, state: State) -> None:
    for task, metrics in self.metrics.items():
      metrics.merge(state_of(task, state))

  def result(self) -> Metrics:
    """All numbers of all tasks; per class, NaN where a task does not know the class."""
    values, per_class = {}, {}
    for metrics in self.metrics.values():
      found = metrics.result()
      values |= found.values
      for name, column in found.per_class.items():
        missing = self._classes - len(column)
        per_class[name] = np.pad(column, (0, missing), constant_values=np.nan)
    return Metrics(values, per_class)


def predicted_segments(ids: np.ndarray, segments: Sequence[Segment]) -> Segments:
  """A panoptic result as segments; ids count from 1 in their order."""
  classes = np.array([segment.class_index for segment in segments], np.int32)
  return Segments(ids - 1, classes)


def detections(found: Instances) -> Detections:
  """Instances with their masks encoded; one mask may serve several of them."""
  encode = functools.cache(lambda row: files.encode_rle(found.masks[row]))
  masks = [encode(row) for row in found.rows.tolist()]
  return Detections(masks, found.classes, found.scores)
