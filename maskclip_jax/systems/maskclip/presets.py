"""MaskCLIP's presets, with and without relative mask attention."""

import dataclasses

from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.systems.mask2former import presets as mask2former
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.maskclip.model import MaskCLIPConfig
from maskclip_jax.systems.system import ModelCard, Preprocessing, Preset

# Thresholds of the COCO configuration: [masqclip 8.4].
_THRESHOLDS = PostprocessConfig(
  object_threshold=0.5, overlap_threshold=0.5, reject_void=True
)


def _preset(
  proposals: Mask2FormerConfig,
  clip: str,
  photos: Preprocessing,
  rma_blocks: tuple[int, ...],
) -> Preset:
  proposals = dataclasses.replace(proposals, num_classes=None)
  config = MaskCLIPConfig(proposals, CLIP_SIZES[clip], rma_blocks)
  return Preset('maskclip', config, photos, _THRESHOLDS, words='maskclip')


_PUBLISHED = mask2former.r50(None), 'vit_l14_336', Preprocessing()
_MINIATURE = mask2former.MINIATURE, 'vit_miniature', mask2former.SMALL_SCENES

PRESETS = {
  'maskclip_r50_vit_l14_336': _preset(*_PUBLISHED, (5, 11, 17, 23)),
  'maskclip_freeze_r50_vit_l14_336': _preset(*_PUBLISHED, ()),
  'maskclip_miniature': _preset(*_MINIATURE, (1, 3)),
  'maskclip_freeze_miniature': _preset(*_MINIATURE, ()),
  'maskclip_tiny': _preset(
    mask2former.TINY, 'vit_tiny', mask2former.SMALL_PHOTOS, (0, 1)
  ),
}

_LICENCE = 'CC BY-NC 4.0 (authors), on MIT (OpenAI CLIP)'

CARDS = {
  'maskclip_r50_vit_l14_336': ModelCard(
    'MaskCLIP (Ding et al.): mask class tokens and relative mask attention',
    'github.com/mlpc-ucsd/MaskCLIP, PyTorch files; text tower from CLIP',
    _LICENCE,
    'MasQCLIP paper Table 1: ADE20K-150 PQ 15.1, mIoU 23.7; A-847 8.2, PC-59 45.9',
    url='https://drive.google.com/file/d/1fzf4y-l-BwhBkxambk_yS4yrCwHOKij7',
  ),
  'maskclip_freeze_r50_vit_l14_336': ModelCard(
    'MaskCLIP without relative mask attention: nothing trained on CLIP',
    'proposals of MaskCLIP or MasQCLIP, and CLIP',
    _LICENCE,
    'MasQCLIP paper Table 5 ("freeze", with object score): ADE20K-150 PQ 10.7',
    url='https://drive.google.com/file/d/1NdXOUzJVQUdl0V0HkQ0yFMUa2MJQojiv',
  ),
}

# Source: [masqclip 7.4, 8.4].
BENCHMARKS = {
  'ade150': BenchmarkSettings(
    640,
    2560,
    object_threshold=0.3,
    overlap_threshold=0.5,
    training='coco-panoptic-133',
  ),
  'coco_panoptic': BenchmarkSettings(
    800, 1333, object_threshold=0.5, overlap_threshold=0.5
  ),
}
