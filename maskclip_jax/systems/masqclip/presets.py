"""MasQCLIP's presets."""

from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.mask2former import presets as mask2former
from maskclip_jax.systems.masqclip.model import MasQCLIPConfig
from maskclip_jax.systems.system import ModelCard, Preprocessing, Preset

# Thresholds of the COCO configuration: [masqclip 8.4].
THRESHOLDS = PostprocessConfig(object_threshold=0.3, overlap_threshold=0.3)


def _preset(proposals, clip: str, photos: Preprocessing) -> Preset:
  config = MasQCLIPConfig(proposals, CLIP_SIZES[clip])
  return Preset('masqclip', config, photos, THRESHOLDS, words='masqclip')


PRESETS = {
  'masqclip_r50_vit_l14_336': _preset(
    mask2former.r50(1), 'vit_l14_336', Preprocessing()
  ),
  'masqclip_r50_vit_b16': _preset(mask2former.r50(1), 'vit_b16', Preprocessing()),
  'masqclip_miniature': _preset(
    mask2former.MINIATURE, 'vit_miniature', mask2former.SMALL_SCENES
  ),
  'masqclip_miniature_192': _preset(
    mask2former.MINIATURE, 'vit_miniature_192', mask2former.SMALL_SCENES
  ),
  'masqclip_tiny': _preset(mask2former.TINY, 'vit_tiny', mask2former.SMALL_PHOTOS),
}

CARDS = {
  'masqclip_miniature_192': ModelCard(
    'MasQCLIP, small, to try everything out',
    'in this package, made by launch/miniature.sh --systems masqclip',
    'Apache-2.0',
    'benchmarks/miniature.md',
    shipped='miniature/masqclip',
    limits='knows a generated world of shapes on grounds, and no photographs',
  ),
  'masqclip_r50_vit_l14_336': ModelCard(
    'MasQCLIP: ResNet-50 proposals, tuned mask queries in CLIP ViT-L/14@336',
    'github.com/mlpc-ucsd/MasQCLIP, PyTorch files; text tower from CLIP',
    'CC BY-NC 4.0 (authors), on MIT (OpenAI CLIP)',
    'paper Table 1: ADE20K-150 PQ 23.3, mIoU 30.4; A-847 10.7, PC-59 57.8, PC-459 18.2',
    url='https://drive.google.com/drive/folders/1wGpl9k7lEYigvSiI2IMx_V_TBGrzfVNl',
  ),
  'masqclip_r50_vit_b16': ModelCard(
    'MasQCLIP on the smaller CLIP ViT-B/16, for training and for trying out',
    'none published',
    'none: no weights',
  ),
}
