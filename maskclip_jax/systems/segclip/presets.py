"""SegCLIP's presets."""

from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.systems.contract import Scores
from maskclip_jax.systems.segclip.model import SegCLIPConfig
from maskclip_jax.systems.system import ModelCard, Preprocessing, Preset

# Score maps are resized last, and objects are pieces of the semantic map: the masks of
# groups end at windows. What scores too little is background already.
_RESULTS = PostprocessConfig(
  object_threshold=0.0, semantic_order='scores_first', objects='pieces'
)
# The threshold published for COCO-Object, the widest of the vocabularies [segclip 4.5].
_SCORES = Scores(background_threshold=0.65)


def _preset(config: SegCLIPConfig, long_edge: int) -> Preset:
  """Photos are as small as a window, which they fill [segclip 4.2]."""
  photos = Preprocessing(config.clip.image_size, long_edge, 'opencv')
  return Preset('segclip', config, photos, _RESULTS, words='segclip', scores=_SCORES)


PRESETS = {
  'segclip_vit_b16': _preset(SegCLIPConfig(CLIP_SIZES['vit_b16']), 2048),
  'segclip_tiny': _preset(
    SegCLIPConfig(
      CLIP_SIZES['vit_tiny'],
      first_blocks=2,
      centres=4,
      spread_blocks=1,
      decoder_width=32,
      decoder_depth=1,
      decoder_heads=2,
    ),
    160,
  ),
  # Trained on the generated world in minutes (`configs/miniature.py`). Its scenes are
  # read in nine windows: in fewer and larger ones, groups follow things less.
  'segclip_miniature': Preset(
    'segclip',
    SegCLIPConfig(
      CLIP_SIZES['vit_miniature'],
      first_blocks=3,
      spread_blocks=1,
      decoder_width=48,
      decoder_depth=1,
      decoder_heads=3,
      stride=48,
    ),
    Preprocessing(192, 384),
    _RESULTS,
  ),
}

CARDS = {
  'segclip_vit_b16': ModelCard(
    'SegCLIP: patches of CLIP ViT-B/16 gathered into groups, learned from captions',
    'github.com/ArrowLuo/SegCLIP, release checkpoint_v0, segclip.bin',
    'none stated (authors), on MIT (OpenAI CLIP)',
    'paper: mIoU with background, VOC 52.6, PASCAL Context 24.7, COCO-Object 26.5',
    url='https://github.com/ArrowLuo/SegCLIP/releases/download/checkpoint_v0/segclip.bin',
  ),
}


def _benchmark(background_threshold: float) -> BenchmarkSettings:
  """Photos as small as a window, the background by a threshold [segclip 4]."""
  return BenchmarkSettings(
    224,
    2048,
    tasks=('semantic',),
    scores={'background_threshold': background_threshold},
    options={'top_classes': 5},
  )


BENCHMARKS = {
  'voc21': _benchmark(0.80),
  'pc60': _benchmark(0.25),
  'coco_object': _benchmark(0.65),
}
