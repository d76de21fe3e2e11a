"""The datasets that can be built: where each comes from, its terms, its true counts.

Facts only; the classes that read the files are in `builders/` and are imported when a
build starts. Sources: the owners' pages, [masqclip 9], [ovseg 7.1].
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from maskclip_jax.names import look_up

if TYPE_CHECKING:
  from maskclip_jax.data.builders.base import SegmentationBuilder

_COCO = 'http://images.cocodataset.org'
_VOC = 'http://host.robots.ox.ac.uk/pascal/VOC'


@dataclasses.dataclass(frozen=True)
class Download:
  """One file of the owners.

  Attributes:
    file: its name as published; a pattern where the owners change it.
    url: where to get it.
    what: what it holds.
    size: megabytes, about; 0 where it is not known.
    by_hand: what a person must do first (register, ask); empty if nothing.
    optional: the build does without it and says so.
  """

  file: str
  url: str
  what: str
  size: int
  by_hand: str = ''
  optional: bool = False


@dataclasses.dataclass(frozen=True)
class Counts:
  """Published sizes of a split; None where the owners publish none."""

  images: int
  instances: int | None = None
  captions: int | None = None
  instance_images: int | None = None


@dataclasses.dataclass(frozen=True)
class DatasetCard:
  """What to know about a dataset.

  Attributes:
    title: its name in the literature.
    homepage: the owners' page; empty if they are we.
    licence: their terms, in short; the homepage decides.
    downloads: the files that `--raw` must hold, as archives or extracted; none if the
      dataset is generated.
    counts: published sizes by split.
    builder: module and class that read the files.
    notes: traps.
  """

  name: str
  title: str
  homepage: str
  licence: str
  downloads: tuple[Download, ...]
  counts: Mapping[str, Counts]
  builder: str
  notes: str = ''

  @property
  def archives(self) -> tuple[str, ...]:
    """Names of the archives that are opened if they lie under `--raw`."""
    return tuple(download.file for download in self.downloads)

  def builder_class(self) -> type['SegmentationBuilder']:
    """Imports the TFDS builder; needs tensorflow_datasets, not TensorFlow."""
    module, _, name = self.builder.partition(':')
    return getattr(importlib.import_module(module), name)


def list_datasets() -> tuple[DatasetCard, ...]:
  """All datasets that `build` knows."""
  return _CARDS


def find_dataset(name: str) -> DatasetCard:
  """The card of a dataset.

  Raises:
    ValueError: there is none of that name.
  """
  return look_up('dataset', name, {card.name: card for card in _CARDS})


_ADE20K_150 = DatasetCard(
  name='ade20k_150',
  title='ADE20K, SceneParse150 (semantic, instance and panoptic)',
  homepage='http://sceneparsing.csail.mit.edu',
  licence='non-commercial research and education; see the terms on the homepage',
  downloads=(
    Download(
      'ADEChallengeData2016.zip',
      'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
      'photos and the maps of 150 classes',
      968,
    ),
    Download(
      'annotations_instance.tar',
      'http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar',
      'maps of the objects of 100 classes (challenge of 2017)',
      90,
    ),
  ),
  counts={'train': Counts(20_210), 'val': Counts(2_000)},
  builder='maskclip_jax.data.builders.ade20k_150:Ade20k150',
  notes='Not the full ADE20K. Panoptic labels are made from the two kinds of maps, '
  'with the areas of the un-overwritten masks, so that PQ is comparable.',
)

_ADE20K_847 = DatasetCard(
  name='ade20k_847',
  title='ADE20K 2021_17_01, all classes (847 of them evaluated)',
  homepage='https://groups.csail.mit.edu/vision/datasets/ADE20K/',
  licence='non-commercial research and education; see the terms on the homepage',
  downloads=(
    Download(
      'ADE20K_2021_17_01.zip',
      'https://groups.csail.mit.edu/vision/datasets/ADE20K/request_data/',
      'photos, label maps and the index of the full dataset',
      0,
      by_hand='register on the page and wait for the approval by mail',
    ),
  ),
  counts={'train': Counts(25_574), 'val': Counts(2_000)},
  builder='maskclip_jax.data.builders.ade20k_847:Ade20k847',
  notes='Faces and number plates are blurred, so photos differ from SceneParse150. '
  'Large photos are reduced to a short side of 512 and saved as JPEG again, as the '
  'published evaluations do.',
)

_COCO_2017 = DatasetCard(
  name='coco',
  title='COCO 2017 (panoptic, instances, COCO-Stuff 171, captions)',
  homepage='https://cocodataset.org',
  licence='annotations CC BY 4.0; the photos belong to Flickr users under their terms',
  downloads=(
    Download('train2017.zip', f'{_COCO}/zips/train2017.zip', 'training photos', 19_336),
    Download('val2017.zip', f'{_COCO}/zips/val2017.zip', 'validation photos', 816),
    Download(
      'annotations_trainval2017.zip',
      f'{_COCO}/annotations/annotations_trainval2017.zip',
      'instance masks and captions',
      253,
    ),
    Download(
      'panoptic_annotations_trainval2017.zip',
      f'{_COCO}/annotations/panoptic_annotations_trainval2017.zip',
      'panoptic JSON, and inside it the zips of the panoptic PNG',
      861,
    ),
    Download(
      'stuffthingmaps_trainval2017.zip',
      'http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/'
      'stuffthingmaps_trainval2017.zip',
      'COCO-Stuff label maps',
      691,
      optional=True,
    ),
    Download(
      'caption_datasets.zip',
      'https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip',
      "dataset_coco.json: Karpathy's caption split, which SegCLIP trains on",
      37,
      optional=True,
    ),
  ),
  counts={
    'train': Counts(118_287, 860_001, 591_753, 117_266),
    'val': Counts(5_000, 36_781, 25_014, 4_952),
  },
  builder='maskclip_jax.data.builders.coco:Coco',
  notes='The panoptic PNG zips are inside the panoptic annotation zip; both forms are '
  'read. The stuff maps must be the published ones, not a copy with other numbers.',
)

_PASCAL_CONTEXT = DatasetCard(
  name='pascal_context',
  title='PASCAL Context (459 classes; 59 frequent ones)',
  homepage='https://roozbehm.info/pascal-context/',
  licence='none stated for the labels; the photos follow the PASCAL VOC terms',
  downloads=(
    Download(
      'VOCtrainval_03-May-2010.tar',
      f'{_VOC}/voc2010/VOCtrainval_03-May-2010.tar',
      'photos of VOC 2010 and the lists of the splits',
      1_300,
    ),
    Download(
      'trainval.tar.gz',
      'https://roozbehm.info/pascal-context/trainval.tar.gz',
      'MATLAB files with 459 classes',
      32,
    ),
    Download(
      'labels.txt',
      'https://roozbehm.info/pascal-context/labels.txt',
      'names of the 459 classes, to check the ids against',
      1,
      optional=True,
    ),
    Download(
      'pascalcontext_val.txt',
      'https://github.com/cvlab-kaist/CAT-Seg',
      'another list of validation photos (5,104); replaces the one of VOC 2010 (5,105)',
      1,
      optional=True,
    ),
  ),
  counts={'train': Counts(4_998), 'val': Counts(5_105)},
  builder='maskclip_jax.data.builders.pascal_context:PascalContext',
  notes='The original 459 values are stored; the 59 classes are chosen on reading, so '
  'no order of classes can be confused.',
)

_VOC2012 = DatasetCard(
  name='voc2012',
  title='PASCAL VOC 2012 (20 classes, or 21 with background)',
  homepage=f'{_VOC}/voc2012/',
  licence="the photos belong to Flickr users under Flickr's terms of use",
  downloads=(
    Download(
      'VOCtrainval_11-May-2012.tar',
      f'{_VOC}/voc2012/VOCtrainval_11-May-2012.tar',
      'photos, label maps and lists',
      2_000,
    ),
    Download(
      'SegmentationClassAug.zip',
      'https://github.com/DrSleep/tensorflow-deeplab-resnet',
      'label maps of the SBD photos as VOC values; adds the split train_aug',
      26,
      optional=True,
    ),
  ),
  counts={
    'train': Counts(1_464),
    'val': Counts(1_449),
    'train_aug': Counts(10_582),
  },
  builder='maskclip_jax.data.builders.voc2012:Voc2012',
)

_MINIATURE = DatasetCard(
  name='miniature',
  title='Miniature world: 108 things and 8 stuff, drawn (all tasks, captions)',
  homepage='',
  licence='Apache-2.0; generated by this package',
  downloads=(),
  counts={
    'train': Counts(4_000),
    'test': Counts(250),
    'shifted': Counts(250),
    'pairs': Counts(36_000),
    'photos': Counts(20_000),
  },
  builder='maskclip_jax.miniature.builder:Miniature',
  notes='Needs no files. `test` looks like `train`; `shifted` shows the same words in '
  'other light and other styles; `pairs` and `photos` have captions to train a CLIP: '
  'windows of scenes, and whole scenes.',
)

_CAPTIONS = DatasetCard(
  name='captions',
  title='Pairs of photo and text: your own, or CC3M',
  homepage='https://ai.google.com/research/ConceptualCaptions',
  licence='that of the pairs; of CC3M the list is free to use, the photos are not ours',
  downloads=(
    Download(
      '*.tar',
      'https://github.com/rom1504/img2dataset',
      'webdataset tars, as img2dataset fetches CC3M; or a JSON of COCO captions, a CSV '
      'or TSV list, photos beside .txt files, or parquet',
      0,
    ),
  ),
  counts={},
  builder='maskclip_jax.data.builders.captions:Captions',
  notes='Under a name of your own: `data build NAME --from captions --raw DIR`; '
  'training then reads NAME/captions.',
)

_CARDS = (
  _ADE20K_150,
  _ADE20K_847,
  _COCO_2017,
  _PASCAL_CONTEXT,
  _VOC2012,
  _MINIATURE,
  _CAPTIONS,
)
