"""FC-CLIP's presets."""

from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.fcclip.model import SCORES, FCCLIPConfig
from maskclip_jax.systems.mask2former.presets import SMALL_PHOTOS
from maskclip_jax.systems.system import Card, Preprocessing, Preset

# Every query that is not void takes part [fcclip 7].
_THRESHOLDS = PostprocessConfig(
  object_threshold=0.0, overlap_threshold=0.8, reject_void=True
)


def _preset(config: FCCLIPConfig, photos: Preprocessing) -> Preset:
  return Preset(
    'fcclip',
    config,
    photos,
    _THRESHOLDS,
    words='fcclip',
    scores=SCORES,
    training='coco-panoptic-133',
  )


PRESETS = {
  'fcclip_convnext_large': _preset(FCCLIPConfig(), Preprocessing()),
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
  ),
}
