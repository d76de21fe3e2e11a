"""The benchmarks, as the papers ran them: data, words, resizing, thresholds.

Published numbers move with the protocol, so a number is named after it: 'ade150/PQ',
'pc459/mIoU_gt_or_pred'. Where systems were run differently on the same benchmark, the
difference is in the presets of a system (`BENCHMARKS`); what neither changes comes
from the model's preset.
Sources: [masqclip 7.4, 8.4, 9], [ovseg 7], [segclip 4].
"""

import dataclasses
import os
from collections.abc import Mapping

from maskclip_jax.data import described
from maskclip_jax.data.views import BACKGROUND, View, find_view
from maskclip_jax.postprocess import OutputKind, PostprocessConfig
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.systems.contract import Scores
from maskclip_jax.systems.system import Preprocessing, Preset, all_systems, find_system
from maskclip_jax.text.category import Category
from maskclip_jax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One benchmark.

  Attributes:
    name: how it is called, and the first part of its metrics' names.
    about: what it is, for people.
    truth: by task, the view of the dataset that is the ground truth. The classes of the
      first are the vocabulary; those of the others must be its first classes.
    settings: how systems are run that have no settings of their own for it
      (`System.benchmarks`).
    headline: the metrics that the literature quotes.
    groups: by group, the vocabulary that lists its classes; ':things' or ':stuff'
      behind it leaves out the others. Or the names of its classes. Every task reports
      its numbers by group, over those of the group's classes that it judges.
    split: the split of the dataset.
    data_dir: where a dataset of one's own lies; TFDS's own place by default.
  """

  name: str
  about: str
  truth: Mapping[OutputKind, str]
  settings: BenchmarkSettings
  headline: tuple[str, ...]
  groups: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
  split: str = 'val'
  data_dir: str | os.PathLike | None = None

  def for_system(self, system: str) -> 'ProtocolRun':
    """The protocol as it is run with a system; '' stands for any other code."""
    own = find_system(system).benchmarks if system else {}
    return ProtocolRun(self, own.get(self.name, self.settings))


@dataclasses.dataclass(frozen=True)
class ProtocolRun:
  """A protocol with the settings of one system: all that an evaluation needs to know.

  Attributes:
    protocol: the benchmark.
    settings: how the system is run on it.
  """

  protocol: Protocol
  settings: BenchmarkSettings

  @property
  def views(self) -> dict[OutputKind, View]:
    """By task, how the stored records become ground truth."""
    tasks = self.settings.tasks or tuple(self.protocol.truth)
    names = {task: self.protocol.truth[task] for task in tasks}
    if self.settings.view is not None:
      names[tasks[0]] = self.settings.view
    place = self.protocol.data_dir
    return {task: find_view(name, place) for task, name in names.items()}

  @property
  def main_view(self) -> View:
    """The view whose classes are the vocabulary and whose examples count."""
    return next(iter(self.views.values()))

  def vocabulary(self) -> Vocabulary:
    """The classes in the order of their index, before any system's treatment."""
    view = self.main_view
    words = view.words()
    if view.background:
      classes = (Category(BACKGROUND, thing=False), *words.classes)
      return Vocabulary(classes, f'{words.name}+{BACKGROUND}')
    return words

  def class_names(self) -> tuple[str, ...]:
    """Names by class index of the ground truth."""
    return self.main_view.class_names()

  def groups(self) -> dict[str, tuple[int, ...]]:
    """Class indices by group.

    'seen' are the classes that share a word with the vocabulary of training; there is
    no such split where all of them do.
    """
    names = self.class_names()
    members = {
      group: _group_names(listed) for group, listed in self.protocol.groups.items()
    }
    if self.settings.training is not None:
      training = _spoken(self.settings.training)
      seen, unseen = self.main_view.words().overlap(training)
      if seen and unseen:
        members |= {'seen': seen, 'unseen': unseen}
    return {
      group: tuple(names.index(name) for name in classes)
      for group, classes in members.items()
    }

  def after_training(self, preset: Preset) -> 'ProtocolRun':
    """The protocol with the split of a model that was trained with words of its own."""
    if self.settings.training is None or preset.training is None:
      return self
    settings = dataclasses.replace(self.settings, training=preset.training)
    return dataclasses.replace(self, settings=settings)

  def preprocessing(self, preset: Preset) -> Preprocessing:
    """How photos are resized."""
    return _replaced(preset.preprocessing, self.settings, ('short_edge', 'long_edge'))

  def scores(self, preset: Preset) -> Scores:
    """How class scores are combined."""
    return dataclasses.replace(preset.scores, **self.settings.scores)

  def postprocessing(self, preset: Preset) -> PostprocessConfig:
    """Thresholds and rules."""
    config = _replaced(
      preset.postprocessing, self.settings, ('object_threshold', 'overlap_threshold')
    )
    order = self.settings.semantic_order
    if order is None:
      order = 'scores_first' if set(self.views) == {'semantic'} else 'masks_first'
    return dataclasses.replace(config, semantic_order=order)


def _spoken(training: str | tuple[str, ...]) -> Vocabulary:
  """A vocabulary of all words of training."""
  if isinstance(training, str):
    return Vocabulary.named(training)
  return Vocabulary((Category('training', training),))


def _group_names(listed: str | tuple[str, ...]) -> tuple[str, ...]:
  """Names of the classes that 'coco-base48' or 'miniature-116:stuff' lists.

  Raises:
    ValueError: what stands behind the colon is neither 'things' nor 'stuff'.
  """
  if isinstance(listed, tuple):
    return listed
  vocabulary, _, kind = listed.partition(':')
  kinds = {'': (True, False), 'things': (True,), 'stuff': (False,)}
  if kind not in kinds:
    raise ValueError(f'a group is of things or of stuff, not as in {listed!r}')
  wanted = kinds[kind]
  words = Vocabulary.named(vocabulary)
  return tuple(
    category.name
    for category, thing in zip(words.classes, words.things.tolist(), strict=True)
    if thing in wanted
  )


def _replaced(config, settings: BenchmarkSettings, names: tuple[str, ...]):
  values = {name: getattr(settings, name) for name in names}
  return dataclasses.replace(
    config, **{name: value for name, value in values.items() if value is not None}
  )


def _groups() -> dict[str, tuple[str, ...]]:
  """Names that stand for several protocols: a system's, for those of its papers."""
  own = {system.name: tuple(system.benchmarks) for system in all_systems()}
  return {
    **PROTOCOL_GROUPS,
    **{name: members for name, members in own.items() if members},
  }


def protocol_names() -> tuple[str, ...]:
  """Everything that `find_protocols` knows: protocols, and groups of them."""
  return (*PROTOCOLS, *_groups())


def find_protocols(
  names: str, data_dir: str | os.PathLike | None = None
) -> tuple[Protocol, ...]:
  """The protocols that 'ade150,pc59' names; a group stands for several.

  Args:
    names: protocols, groups of them, and datasets of one's own, which are judged in
      every way that their labels allow.
    data_dir: where the built datasets lie; TFDS's own place by default.

  Raises:
    ValueError: there is none of a name.
  """
  found: dict[str, Protocol] = {}
  groups = _groups()
  for name in filter(None, (part.strip() for part in names.split(','))):
    for member in groups.get(name, (name,)):
      protocol = PROTOCOLS.get(member) or _own(member, data_dir)
      if protocol is None:
        raise described.unknown_name('evaluation', name, protocol_names(), data_dir)
      found[member] = protocol
  if not found:
    raise ValueError(f'name an evaluation: {", ".join(protocol_names())}')
  return tuple(found.values())


def _own(name: str, data_dir: str | os.PathLike | None) -> Protocol | None:
  """The protocol of a dataset of one's own: sizes and thresholds are the model's."""
  dataset = described.find(name, data_dir)
  if dataset is None:
    return None
  views = [find_view(f'{name}/{view}', data_dir) for view in dataset.contents.views]
  truth = {view.kind: view.name for view in views}
  numbers = {'panoptic': ('PQ',), 'semantic': _MIOU, 'instance': ('AP', 'AP50')}
  headline = [number for task in truth for number in numbers[task]]
  groups, split = dataset.contents.groups, dataset.judged
  return Protocol(
    name,
    f'{split} of {name}, {dataset.contents.splits[split]} photos of your own',
    truth,
    BenchmarkSettings(),
    (*headline, *(f'{number}[{group}]' for group in groups for number in headline)),
    groups,
    split,
    data_dir,
  )


_MIOU = ('mIoU_gt_or_pred', 'mIoU_gt')
_PANOPTIC = 'coco-panoptic-133'


def _masks(
  short_edge: int, long_edge: int, training: str | None = _PANOPTIC, **changes
) -> BenchmarkSettings:
  """Settings of MaskCLIP, MasQCLIP and the baselines [masqclip 7.4, 8.4]."""
  return BenchmarkSettings(short_edge, long_edge, training=training, **changes)


def _semantic(
  name: str, about: str, view: str, settings: BenchmarkSettings
) -> Protocol:
  return Protocol(name, about, {'semantic': view}, settings, _MIOU)


_MINIATURE = {
  'base': 'miniature-base',
  'base_things': 'miniature-base:things',
  'novel': 'miniature-novel',
}
_MINIATURE_FAR = {
  'base': 'miniature-far-base',
  'base_things': 'miniature-far-base:things',
  'near': 'miniature-near',
  'far': 'miniature-far',
}


def _miniature(
  name: str, split: str, about: str, groups: Mapping[str, str] = _MINIATURE
) -> Protocol:
  """The generated world: all 116 words compete, whether trained on or not.

  Sizes and thresholds are the model's own. Base words hold all stuff, the others are
  things only, so what compares with them is 'base_things'.
  """
  parts = tuple(f'[{group}]' for group in groups)
  return Protocol(
    name,
    about,
    {
      'panoptic': 'miniature/panoptic',
      'semantic': 'miniature/semantic',
      'instance': 'miniature/instances',
    },
    BenchmarkSettings(),
    (
      *(f'PQ{part}' for part in ('', 'th', 'st', *parts)),
      *(f'mIoU_gt{part}' for part in ('', *parts)),
      *(
        f'{ap}{part}'
        for ap in ('AP', 'AP50')
        for part in ('', *parts)
        if part != '[base_things]'  # Objects are things: the same as of base.
      ),
    ),
    groups={
      **groups,
      'things': 'miniature-116:things',
      'stuff': 'miniature-116:stuff',
    },
    split=split,
  )


_ADE_TRUTH: dict[OutputKind, str] = {
  'panoptic': 'ade20k_150/panoptic',
  'semantic': 'ade20k_150/semantic',
  'instance': 'ade20k_150/instance',
}
_SMALL = _masks(512, 2048)
_COCO_INSTANCE = _masks(800, 1333, training=None)

_TABLE = (
  Protocol(
    'ade150',
    'ADE20K-150 val, 2000 photos, the panoptic configuration of both mask systems',
    _ADE_TRUTH,
    _masks(640, 2560, object_threshold=0.3, overlap_threshold=0.3),
    ('PQ', *_MIOU, 'AP'),
  ),
  _semantic(
    'ade150_semantic',
    'ADE20K-150 val by the semantic configuration: smaller photos, scores resized last',
    'ade20k_150/semantic',
    _SMALL,
  ),
  _semantic(
    'ade847',
    'ADE20K-847 val, 2000 photos reduced to a short side of 512 when built',
    'ade20k_847/semantic',
    _SMALL,
  ),
  _semantic(
    'pc59',
    'PASCAL Context val, the 59 frequent classes; everything else is ignored',
    'pascal_context/59',
    _SMALL,
  ),
  _semantic(
    'pc60',
    'PASCAL Context val, 59 classes and background, nothing ignored',
    'pascal_context/60',
    _SMALL,
  ),
  _semantic(
    'pc459',
    'PASCAL Context val, all 459 classes',
    'pascal_context/459',
    _SMALL,
  ),
  _semantic(
    'voc20',
    'PASCAL VOC 2012 val, 1449 photos, background ignored (PAS-20)',
    'voc2012/20',
    _SMALL,
  ),
  _semantic(
    'voc21',
    'PASCAL VOC 2012 val with background as a class (PAS-21)',
    'voc2012/21',
    _SMALL,
  ),
  Protocol(
    'coco_panoptic',
    'COCO 2017 val, 5000 photos, 133 classes',
    {
      'panoptic': 'coco/panoptic',
      'semantic': 'coco/semantic',
      'instance': 'coco/instances80',
    },
    _masks(800, 1333, None, object_threshold=0.3, overlap_threshold=0.3),
    ('PQ', *_MIOU, 'AP'),
  ),
  Protocol(
    'coco_instance48_17_base',
    'COCO 2017 val, constrained: words and objects of the 48 base classes only',
    {'instance': 'coco/base48'},
    _COCO_INSTANCE,
    ('AP50',),
  ),
  Protocol(
    'coco_instance48_17_novel',
    'COCO 2017 val, constrained: words and objects of the 17 novel classes only',
    {'instance': 'coco/novel17'},
    _COCO_INSTANCE,
    ('AP50',),
  ),
  Protocol(
    'coco_instance48_17_generalised',
    'COCO 2017 val, generalised: all 65 words; AP over base, novel and all',
    {'instance': 'coco/instances65'},
    _COCO_INSTANCE,
    ('AP50', 'AP50[base]', 'AP50[novel]'),
    groups={'base': 'coco-base48', 'novel': 'coco-novel17'},
  ),
  _semantic(
    'coco_object',
    'COCO 2017 val, 80 objects and background, nothing ignored (COCO-Object)',
    'coco/object81',
    _masks(800, 1333),
  ),
  _miniature(
    'miniature',
    'test',
    'the generated world, 250 scenes like those of training, 116 words of which 36 are '
    'never trained on',
  ),
  _miniature(
    'miniature_shifted',
    'shifted',
    'the generated world in other light and other styles, 250 scenes, the same words',
  ),
  _miniature(
    'miniature_far',
    'test',
    'the same 250 scenes for models of the far split: base, near and far words',
    _MINIATURE_FAR,
  ),
  _miniature(
    'miniature_far_shifted',
    'shifted',
    'the same in other light and other styles: base, near and far words',
    _MINIATURE_FAR,
  ),
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in _TABLE}

# One name for protocols that are reported together.
PROTOCOL_GROUPS: dict[str, tuple[str, ...]] = {
  # SegCLIP's name for PASCAL Context with background.
  'context60': ('pc60',),
  'coco_instance48_17': (
    'coco_instance48_17_base',
    'coco_instance48_17_novel',
    'coco_instance48_17_generalised',
  ),
}
