"""Mask2Former's presets, and the sizes that other systems' proposals have."""

import dataclasses

from maskclip_jax.nn.swin import SWIN_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.system import ModelCard, Preprocessing, Preset


def r50(num_classes: int | None) -> Mask2FormerConfig:
  """The published ResNet-50 network."""
  return Mask2FormerConfig(num_classes=num_classes)


def swin(size: str, num_classes: int | None) -> Mask2FormerConfig:
  """A published network on a Swin of `SWIN_SIZES`; the largest has more queries."""
  queries = 200 if size == 'swin_l' else 100
  return Mask2FormerConfig(num_classes, SWIN_SIZES[size], queries=queries)


# Small enough for tests and for `:runlocal` configurations; not listed.
TINY = Mask2FormerConfig(
  depth=26,
  stem=8,
  width=16,
  hidden=64,
  mask_dim=48,
  heads=4,
  encoder_layers=1,
  encoder_ffn=64,
  decoder_layers=1,
  decoder_ffn=128,
  queries=10,
)
SMALL_PHOTOS = Preprocessing(short_edge=96, long_edge=160)

# Trained from nothing on the generated world in minutes: `configs/miniature.py`.
MINIATURE = Mask2FormerConfig(
  depth=26,
  stem=32,
  width=64,
  hidden=64,
  mask_dim=64,
  heads=4,
  encoder_layers=1,
  encoder_ffn=128,
  decoder_layers=3,
  decoder_ffn=128,
  queries=20,
)
SMALL_SCENES = Preprocessing(short_edge=128, long_edge=256)

# Thresholds: [masqclip 8.4].
_STOCK = PostprocessConfig(
  object_threshold=0.8, overlap_threshold=0.8, reject_void=True
)
_COCO = 'coco-panoptic-133'

PRESETS = {
  'mask2former_r50_coco_panoptic': Preset(
    'mask2former', r50(133), postprocessing=_STOCK, vocabulary=_COCO
  ),
  **{
    f'mask2former_{size}_coco_panoptic': Preset(
      'mask2former', swin(size, 133), postprocessing=_STOCK, vocabulary=_COCO
    )
    for size in SWIN_SIZES
  },
  'proposals_r50': Preset('mask2former', r50(1), vocabulary='object'),
  'proposals_miniature': Preset(
    'mask2former', MINIATURE, SMALL_SCENES, vocabulary='object'
  ),
  'proposals_tiny': Preset('mask2former', TINY, SMALL_PHOTOS, vocabulary='object'),
  'mask2former_tiny': Preset(
    'mask2former',
    dataclasses.replace(TINY, num_classes=133),
    SMALL_PHOTOS,
    _STOCK,
    vocabulary=_COCO,
  ),
}

CARDS = {
  'mask2former_r50_coco_panoptic': ModelCard(
    'stock Mask2Former with its closed vocabulary of 133 COCO classes',
    'github.com/facebookresearch/Mask2Former model zoo, detectron2 files',
    'CC BY-NC 4.0 (model zoo)',
    'Mask2Former model zoo: COCO PQ 51.9, AP 41.7, mIoU 61.7',
    url='https://github.com/facebookresearch/Mask2Former/blob/main/MODEL_ZOO.md',
  ),
  **{
    f'mask2former_{size}_coco_panoptic': ModelCard(
      f'Mask2Former on a Swin-{size[-1].upper()} with the 133 classes of COCO',
      f'huggingface.co/{where}, or detectron2 files of the Mask2Former model zoo',
      'CC BY-NC 4.0 (model zoo)',
      f'Mask2Former model zoo: COCO {numbers}',
      url=f'https://huggingface.co/{where}',
    )
    for size, where, numbers in (
      (
        'swin_t',
        'facebook/mask2former-swin-tiny-coco-panoptic',
        'PQ 53.2, AP 43.3, mIoU 63.2',
      ),
      (
        'swin_s',
        'facebook/mask2former-swin-small-coco-panoptic',
        'PQ 54.6, AP 44.7, mIoU 64.2',
      ),
      (
        'swin_b',
        'facebook/mask2former-swin-base-coco-panoptic',
        # Which of the two this repository holds, it does not say.
        'PQ 55.1, AP 45.2, mIoU 65.1; from ImageNet-21k 56.4, 46.3, 67.1',
      ),
      (
        'swin_l',
        'facebook/mask2former-swin-large-coco-panoptic',
        'PQ 57.8, AP 48.6, mIoU 67.4',
      ),
    )
  },
  'proposals_r50': ModelCard(
    'class-agnostic proposals: MasQCLIP teacher or student',
    'github.com/mlpc-ucsd/MasQCLIP, PyTorch files',
    'CC BY-NC 4.0 (authors)',
    url='https://drive.google.com/drive/folders/1wGpl9k7lEYigvSiI2IMx_V_TBGrzfVNl',
  ),
}

# Source: [masqclip 8.4].
BENCHMARKS = {
  'coco_panoptic': BenchmarkSettings(
    800, 1333, object_threshold=0.8, overlap_threshold=0.8
  )
}
