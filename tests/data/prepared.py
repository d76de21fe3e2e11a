"""Datasets as TFDS's own catalogue prepares them: its features, a few photos."""

import pathlib

import numpy as np
import raw_ade20k
import raw_coco
import tensorflow_datasets as tfds
from raw_files import jpeg

from maskclip_jax.text.vocabulary import Vocabulary

_SIZE = raw_coco.SIZE
_COCO_SPLITS = {'train': 'train2017', 'validation': 'val2017'}


class _PanopticConfig(tfds.core.BuilderConfig):
  pass


class _Coco(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  name = 'coco'
  VERSION = tfds.core.Version('1.1.0')
  BUILDER_CONFIGS = [_PanopticConfig(name='2017_panoptic')]  # noqa: RUF012

  def _info(self):
    objects = {
      'id': np.int64,
      'area': np.int64,
      'bbox': tfds.features.BBoxFeature(),
      'label': tfds.features.ClassLabel(num_classes=133),
      'is_crowd': np.bool_,
    }
    features = {
      'image': tfds.features.Image(encoding_format='jpeg'),
      'image/filename': tfds.features.Text(),
      'image/id': np.int64,
      'panoptic_image': tfds.features.Image(encoding_format='png'),
      'panoptic_image/filename': tfds.features.Text(),
      'panoptic_objects': tfds.features.Sequence(objects),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in _COCO_SPLITS}

  def _generate_examples(self, split):
    classes = Vocabulary.named('coco-panoptic-133').classes
    self.info.features['panoptic_objects']['label'].names = [c.name for c in classes]
    names = {category.id: category.name for category in classes}
    files, official = raw_coco.files(), raw_coco.annotations(_COCO_SPLITS[split])
    height, width = _SIZE
    for row in official['panoptic']['annotations']:
      stem = row['file_name'].removesuffix('.png')
      objects = []
      for segment in row['segments_info']:
        x, y, w, h = segment['bbox']
        box = tfds.features.BBox(
          y / height, x / width, (y + h) / height, (x + w) / width
        )
        objects.append(
          {
            'id': segment['id'],
            'area': segment['area'],
            'bbox': box,
            'label': names[segment['category_id']],
            'is_crowd': bool(segment['iscrowd']),
          }
        )
      yield (
        f'{stem}.jpg',
        {
          'image': files[f'{_COCO_SPLITS[split]}/{stem}.jpg'],
          'image/filename': f'{stem}.jpg',
          'image/id': row['image_id'],
          'panoptic_image': files[f'panoptic_{_COCO_SPLITS[split]}/{stem}.png'],
          'panoptic_image/filename': row['file_name'],
          'panoptic_objects': objects,
        },
      )


class _SceneParse150(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  name = 'scene_parse150'
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {
      'image': tfds.features.Image(encoding_format='jpeg'),
      'annotation': tfds.features.Image(encoding_format='png'),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples('training'), 'test': self._test()}

  def _test(self):
    return self._generate_examples('validation')

  def _generate_examples(self, folder):
    files = raw_ade20k.files_150()
    start = f'annotations_instance/{folder}/'
    for number, name in enumerate(sorted(n for n in files if n.startswith(start))):
      photo = jpeg(number, raw_ade20k.SIZE)
      yield name, {'image': photo, 'annotation': files[name]}


def prepare(data_dir: pathlib.Path, file_format: str) -> None:
  """Writes both datasets, with a file format of TFDS."""
  for builder in (_Coco, _SceneParse150):
    builder(data_dir=data_dir, file_format=file_format).download_and_prepare()
