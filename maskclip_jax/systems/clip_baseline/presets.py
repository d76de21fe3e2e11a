"""The CLIP baseline's presets, among them one whose weights come with the package."""

from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.clip_baseline.model import CLIPBaselineConfig
from maskclip_jax.systems.mask2former import presets as mask2former
from maskclip_jax.systems.masqclip.presets import THRESHOLDS
from maskclip_jax.systems.system import ModelCard, Preset

# Chosen on scenes of another seed.
_CROPS = PostprocessConfig(object_threshold=0.5, overlap_threshold=0.5)

PRESETS = {
  'clip_baseline_r50_vit_l14_336': Preset(
    'clip_baseline',
    CLIPBaselineConfig(mask2former.r50(1), CLIP_SIZES['vit_l14_336']),
    postprocessing=THRESHOLDS,
  ),
  'clip_baseline_miniature': Preset(
    'clip_baseline',
    CLIPBaselineConfig(mask2former.MINIATURE, CLIP_SIZES['vit_miniature']),
    mask2former.SMALL_SCENES,
    _CROPS,
  ),
  'clip_baseline_tiny': Preset(
    'clip_baseline',
    CLIPBaselineConfig(mask2former.TINY, CLIP_SIZES['vit_tiny']),
    mask2former.SMALL_PHOTOS,
    THRESHOLDS,
  ),
}

CARDS = {
  'clip_baseline_miniature': ModelCard(
    'CLIP on crops of proposals: small, to try everything out',
    'in this package, made by launch/miniature.sh',
    'Apache-2.0',
    'benchmarks/miniature.md',
    shipped='miniature/clip_baseline',
    limits='knows a generated world of shapes on grounds, and no photographs',
  ),
  'clip_baseline_r50_vit_l14_336': ModelCard(
    'crops every proposal and classifies the crop by CLIP; slow',
    'proposals of MasQCLIP, and CLIP',
    'CC BY-NC 4.0 (authors), on MIT (OpenAI CLIP)',
    url='https://drive.google.com/drive/folders/1wGpl9k7lEYigvSiI2IMx_V_TBGrzfVNl',
  ),
}
