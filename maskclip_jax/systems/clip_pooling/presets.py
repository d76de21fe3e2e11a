"""Presets of pooling; their thresholds are FC-CLIP's."""

from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.clip_pooling.model import CLIPPoolingConfig
from maskclip_jax.systems.mask2former import presets as mask2former
from maskclip_jax.systems.system import Preprocessing, Preset

# There is no void to reject, so a mask needs a score.
_THRESHOLDS = PostprocessConfig(object_threshold=0.3, overlap_threshold=0.8)


def _preset(proposals, clip: str, photos: Preprocessing) -> Preset:
  config = CLIPPoolingConfig(proposals, CONVNEXT_CLIP_SIZES[clip])
  return Preset('clip_pooling', config, photos, _THRESHOLDS, words='clip_pooling')


PRESETS = {
  'clip_pooling_r50_convnext_large': _preset(
    mask2former.r50(1), 'convnext_large_d', Preprocessing()
  ),
  'clip_pooling_tiny': _preset(
    mask2former.TINY, 'convnext_tiny', mask2former.SMALL_PHOTOS
  ),
}
