"""FC-CLIP's presets."""

import dataclasses

from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.systems.contract import Scores
from maskclip_jax.systems.fcclip.model import SCORES, FCCLIPConfig
from maskclip_jax.systems.mask2former.presets import SMALL_PHOTOS
from maskclip_jax.systems.system import Card, Preprocessing, Preset

# Every query that is not void takes part [fcclip 7].
_THRESHOLDS = PostprocessConfig(
  object_threshold=0.0, overlap_threshold=0.8, reject_void=True
)


_TRAINING = 'coco-panoptic-133'


def _preset(
  config: FCCLIPConfig, photos: Preprocessing, scores: Scores = SCORES
) -> Preset:
  return Preset(
    'fcclip',
    config,
    photos,
    _THRESHOLDS,
    words='fcclip',
    scores=scores,
    training=_TRAINING,
  )


# How much CLIP lowers the probability of void [fcclip 9.1].
_COAT = dataclasses.replace(SCORES, coat=0.5)

PRESETS = {
  'fcclip_convnext_large': _preset(FCCLIPConfig(), Preprocessing()),
  'ovrcoat_convnext_large': _preset(FCCLIPConfig(), Preprocessing(), _COAT),
  # Small enough for tests; not listed.
  'fcclip_tiny': _preset(
    FCCLIPConfig(
      CONVNEXT_CLIP_SIZES['convnext_tiny'],
      hidden=64,
      heads=4,
      encoder_layers=2,
      decoder_layers=4,
      decoder_ffn=128,
      queries=10,
    ),
    SMALL_PHOTOS,
  ),
}

CARDS = {
  'fcclip_convnext_large': Card(
    'FC-CLIP: masks and words from one frozen CLIP ConvNeXt-L',
    'github.com/bytedance/fc-clip, PyTorch files; CLIP from open_clip',
    'Apache-2.0 (authors), on MIT (LAION CLIP)',
    'README: ADE20K-150 PQ 26.8, AP 16.8, mIoU 34.1; A-847 14.8, PC-59 58.4, PC-459 '
    '18.2; COCO PQ 54.4 (seen)',
    url='https://github.com/bytedance/fc-clip',
  ),
  'ovrcoat_convnext_large': Card(
    'OVRCOAT: FC-CLIP with its CLIP trained further; void gives way where CLIP is sure',
    'github.com/nickormushev/OVRCOAT, PyTorch file; text tower from open_clip',
    'Apache-2.0 (authors), on MIT (LAION CLIP)',
    'README: ADE20K-150 PQ 28.6; Cityscapes PQ 45.3; COCO PQ 54.6 (seen)',
    url='https://github.com/nickormushev/OVRCOAT',
  ),
}

# Photos of every data set but the street scenes, which are larger [fcclip 7].
_BENCHMARK = BenchmarkSettings(
  800,
  1333,
  object_threshold=_THRESHOLDS.object_threshold,
  overlap_threshold=_THRESHOLDS.overlap_threshold,
  training=_TRAINING,
)

BENCHMARKS = {
  **dict.fromkeys(
    ('ade150', 'ade150_semantic', 'ade847', 'pc59', 'pc459', 'voc20'), _BENCHMARK
  ),
  # Background has words of its own.
  'voc21': dataclasses.replace(_BENCHMARK, view='voc2012/21_words'),
  'coco_panoptic': dataclasses.replace(_BENCHMARK, training=None),
}
