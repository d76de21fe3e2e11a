"""MaskCLIP++'s presets [fcclip 9.4]."""

import dataclasses

from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.nn.eva import EVA_CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.fcclip import presets as fcclip
from maskclip_jax.systems.fcclip.model import FCCLIPConfig
from maskclip_jax.systems.mask2former.presets import SMALL_PHOTOS
from maskclip_jax.systems.maskclippp.model import SCORES, MaskCLIPPPConfig
from maskclip_jax.systems.system import ModelCard, Preset

_WORDS, _TRAINING = 'fcclip', 'coco-stuff-171'
# Of masks whose segmenter says nothing of words: there is no void to reject.
ALONE = {
  'words': 'maskclippp_alone',
  'postprocessing': PostprocessConfig(object_threshold=0.3, overlap_threshold=0.8),
}


def _preset(proposals: FCCLIPConfig, clip: str = 'eva02_l14_336_masks') -> Preset:
  """On a segmenter of FC-CLIP's kind, whose photos and thresholds it has."""
  return dataclasses.replace(
    fcclip.PRESETS['fcclip_convnext_large'],
    system='maskclippp',
    config=MaskCLIPPPConfig(proposals, EVA_CLIP_SIZES[clip], _WORDS),
    words='maskclippp',
    scores=SCORES,
    training=_TRAINING,
  )


_TINY = _preset(fcclip.PRESETS['fcclip_tiny'].config, 'eva02_tiny_masks')

PRESETS = {
  'maskclippp_fcclip_eva02_l14_336': _preset(FCCLIPConfig()),
  'maskclippp_maftp_eva02_l14_336': _preset(
    FCCLIPConfig(CONVNEXT_CLIP_SIZES['convnext_large_d'], queries=100)
  ),
  'maskclippp_tiny': dataclasses.replace(
    _TINY,
    config=dataclasses.replace(_TINY.config, short_edge=64, long_edge=112),
    preprocessing=SMALL_PHOTOS,
  ),
}

# The segmenter's photos, and what the CLIP's training named.
BENCHMARKS = {
  name: dataclasses.replace(one, training=one.training and _TRAINING)
  for name, one in fcclip.BENCHMARKS.items()
}

CARDS = {
  f'maskclippp_{host}_eva02_l14_336': ModelCard(
    f'MaskCLIP++ on {title}: its masks, named by an EVA02-CLIP tuned to read masks',
    'github.com/HVision-NKU/MaskCLIPpp, PyTorch file, as --classifier of a cross with '
    f'{segmenter}',
    f'Apache-2.0 (authors), on {title} ({licence}) and EVA02-CLIP (said to be MIT, not '
    'checked)',
    numbers,
    url='https://github.com/HVision-NKU/MaskCLIPpp',
  )
  for host, title, segmenter, licence, numbers in (
    (
      'fcclip',
      'FC-CLIP',
      'fcclip_convnext_large',
      'Apache-2.0',
      'authors: ADE20K-150 PQ 27.7, AP 17.3, mIoU 37.1; A-847 15.4',
    ),
    (
      'maftp',
      'MAFT+',
      'maftp_convnext_large_panoptic or, for mIoU, maftp_convnext_large',
      'MIT',
      'authors: ADE20K-150 PQ 28.1, mIoU 38.2; A-847 16.8, PC-459 23.9',
    ),
  )
}
