"""FC-CLIP's presets."""

import dataclasses

from maskclip_jax.nn.clip_resnet import RESNET_CLIP_SIZES
from maskclip_jax.nn.convnext import CONVNEXT_CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.benchmarks import BenchmarkSettings
from maskclip_jax.systems.contract import Scores
from maskclip_jax.systems.fcclip.adapter import MaskAdapterConfig
from maskclip_jax.systems.fcclip.model import SCORES, FCCLIPConfig
from maskclip_jax.systems.fcclip.transfer import Form
from maskclip_jax.systems.mask2former.presets import SMALL_PHOTOS
from maskclip_jax.systems.system import ModelCard, Preprocessing, Preset

# Every query that is not void takes part [fcclip 7].
_THRESHOLDS = PostprocessConfig(
  object_threshold=0.0, overlap_threshold=0.8, reject_void=True
)
# How much CLIP lowers the probability of void [fcclip 9.1].
_COAT = dataclasses.replace(SCORES, coat=0.5)
_TRAINING = 'coco-panoptic-133'

_FCCLIP = Preset(
  'fcclip',
  FCCLIPConfig(),
  postprocessing=_THRESHOLDS,
  words='fcclip',
  scores=SCORES,
  training=_TRAINING,
)


def _maft(size: str, form: Form) -> Preset:
  """MAFT+: CLIP alone names masks, by words that have seen the photo [fcclip 9.2]."""
  config = FCCLIPConfig(CONVNEXT_CLIP_SIZES[size], queries=100, transfer=form)
  return dataclasses.replace(
    _FCCLIP,
    config=config,
    postprocessing=dataclasses.replace(
      _THRESHOLDS, object_threshold=0.2, overlap_threshold=0.7
    ),
    scores=Scores(seen_weight=1.0, unseen_weight=1.0),
    training='coco-stuff-171',
  )


def _adapted(host: Preset, seen: float, unseen: float, mask_threshold: float) -> Preset:
  """A host with a Mask-Adapter, which CLIP's say counts more with [fcclip 9.3]."""
  return dataclasses.replace(
    host,
    config=dataclasses.replace(host.config, adapter=MaskAdapterConfig()),
    scores=Scores(seen, unseen, mask_threshold),
  )


# Small enough for tests; not listed.
_TINY = FCCLIPConfig(
  CONVNEXT_CLIP_SIZES['convnext_tiny'],
  hidden=64,
  heads=4,
  encoder_layers=1,
  encoder_ffn=64,
  decoder_layers=1,
  decoder_ffn=128,
  queries=10,
)

# Trained on the generated world (`configs/miniature.py`), whose scenes are read at a
# size at which CLIP's last map has a few places for a thing.
_MINIATURE = FCCLIPConfig(
  CONVNEXT_CLIP_SIZES['convnext_miniature'],
  hidden=64,
  heads=4,
  encoder_layers=1,
  encoder_ffn=128,
  decoder_layers=3,
  decoder_ffn=128,
  queries=20,
)


def _resnet(size: str) -> Preset:
  """On a CLIP of OpenAI's, which says nothing of masks without a place [fcclip 6.4]."""
  return dataclasses.replace(
    _FCCLIP,
    config=FCCLIPConfig(RESNET_CLIP_SIZES[size]),
    scores=dataclasses.replace(SCORES, skip_empty=True),
  )


# The published models on OpenAI's CLIPs, with their numbers.
_RESNETS = {
  'rn50': ('RN50', 'ADE20K-150 PQ 17.9, AP 9.5, mIoU 23.3; COCO PQ 50.7 (seen)'),
  'rn101': ('RN101', 'ADE20K-150 PQ 19.1, AP 10.2, mIoU 24.0; COCO PQ 51.4 (seen)'),
  'rn50x4': ('RN50x4', 'ADE20K-150 PQ 21.8, AP 11.7, mIoU 26.8; COCO PQ 52.1 (seen)'),
  'rn50x16': (
    'RN50x16',
    'ADE20K-150 PQ 22.5, AP 13.6, mIoU 29.4; COCO PQ 54.4 (seen)',
  ),
  'rn50x64': (
    'RN50x64',
    'ADE20K-150 PQ 22.8, AP 13.6, mIoU 28.4; COCO PQ 55.6 (seen)',
  ),
}

PRESETS = {
  'fcclip_convnext_large': _FCCLIP,
  **{f'fcclip_{size}': _resnet(size) for size in _RESNETS},
  'ovrcoat_convnext_large': dataclasses.replace(_FCCLIP, scores=_COAT),
  'maftp_convnext_base': _maft('convnext_base_w', 'semantic'),
  'maftp_convnext_large': _maft('convnext_large_d', 'semantic'),
  'maftp_convnext_large_panoptic': _maft('convnext_large_d', 'panoptic'),
  'maskadapter_fcclip_convnext_large': _adapted(_FCCLIP, 0.7, 0.9, 0.5),
  'maskadapter_maftp_convnext_large': _adapted(
    _maft('convnext_large_d', 'semantic'), 0.8, 1.0, 0.4
  ),
  'fcclip_miniature': dataclasses.replace(
    _FCCLIP,
    config=_MINIATURE,
    preprocessing=Preprocessing(192, 384),
    words='fcclip_words',
    training='miniature-base',
  ),
  'fcclip_tiny': dataclasses.replace(_FCCLIP, config=_TINY, preprocessing=SMALL_PHOTOS),
}

CARDS = {
  'fcclip_convnext_large': ModelCard(
    'FC-CLIP: masks and words from one frozen CLIP ConvNeXt-L',
    'github.com/bytedance/fc-clip, fcclip_cocopan.pth; and clip_convnext_large_d',
    'Apache-2.0 (authors), on MIT (LAION CLIP)',
    'authors: ADE20K-150 PQ 26.8, AP 16.8, mIoU 34.1; A-847 14.8, PC-59 58.4, PC-459 '
    '18.2; COCO PQ 54.4 (seen)',
    url='https://drive.google.com/file/d/1-91PIns86vyNaL3CzMmDD39zKGnPMtvj',
  ),
  **{
    f'fcclip_{size}': ModelCard(
      f"FC-CLIP on OpenAI's CLIP {title}",
      f'github.com/bytedance/fc-clip, its file of {title}; and clip_{size}',
      'Apache-2.0 (authors), on MIT (OpenAI CLIP)',
      f'authors: {numbers}',
      url='https://github.com/bytedance/fc-clip',
    )
    for size, (title, numbers) in _RESNETS.items()
  },
  'ovrcoat_convnext_large': ModelCard(
    'OVRCOAT: FC-CLIP with its CLIP trained further; void gives way where CLIP is sure',
    'github.com/nickormushev/OVRCOAT, PyTorch file; and clip_convnext_large_d',
    'Apache-2.0 (authors), on MIT (LAION CLIP)',
    'authors: ADE20K-150 PQ 28.6; Cityscapes PQ 45.3; COCO PQ 54.6 (seen)',
    url='https://github.com/nickormushev/OVRCOAT',
  ),
  **{
    f'maftp_convnext_{name}': ModelCard(
      f'MAFT+ ({size}): FC-CLIP with its CLIP trained further, {about}',
      f'github.com/jiaosiyu1999/MAFT-Plus, {file}; and {clip}',
      'MIT (authors), on MIT (LAION CLIP)',
      numbers,
      url=url,
    )
    for name, size, about, file, url, clip, numbers in (
      (
        'base',
        'CLIP ConvNeXt-B',
        'words that have seen the photo',
        'maftp_b.pth',
        'https://drive.google.com/file/d/1BeEeKOnWWIWIH-QWK_zLhAPUzCOnHuFG',
        'clip_convnext_base_w',
        'authors, mIoU: ADE20K-150 34.6, A-847 13.8, PC-459 16.2, PC-59 57.5',
      ),
      (
        'large',
        'CLIP ConvNeXt-L',
        'words that have seen the photo',
        'maftp_l.pth',
        'https://drive.google.com/file/d/1EQo5guVuKkSSZj4bv0FQN_4X9h_Rwfe5',
        'clip_convnext_large_d',
        'authors, mIoU: ADE20K-150 36.1, A-847 15.1, PC-459 21.6, PC-59 59.4',
      ),
      (
        'large_panoptic',
        'CLIP ConvNeXt-L',
        'the panoptic model: name this preset, which its file does not tell',
        'maftp_l_pano.pth',
        'https://github.com/jiaosiyu1999/MAFT-Plus',
        'clip_convnext_large_d',
        'authors: ADE20K-150 PQ 27.1',
      ),
    )
  },
  **{
    f'maskadapter_{host}_convnext_large': ModelCard(
      f'Mask-Adapter on {title}: learned weights in the place of the mean over a mask',
      'github.com/hustvl/MaskAdapter, PyTorch file; and clip_convnext_large_d',
      f'{licence} (authors), on MIT (LAION CLIP)',
      numbers,
      url='https://github.com/hustvl/MaskAdapter',
    )
    for host, title, licence, numbers in (
      (
        'fcclip',
        'FC-CLIP',
        'Apache-2.0',
        'authors, mIoU: ADE20K-150 36.6, A-847 14.1, PC-459 19.3, PC-59 59.7',
      ),
      (
        'maftp',
        'MAFT+',
        'Apache-2.0, MIT',
        'authors, mIoU: ADE20K-150 38.2, A-847 16.2, PC-459 22.7, PC-59 60.4',
      ),
    )
  },
}

# Photos of every data set but the street scenes, which are larger [fcclip 7].
_BENCHMARK = BenchmarkSettings(800, 1333, training=_TRAINING)

BENCHMARKS = {
  **dict.fromkeys(
    ('ade150', 'ade150_semantic', 'ade847', 'pc59', 'pc459', 'voc20'), _BENCHMARK
  ),
  # Background has words of its own.
  'voc21': dataclasses.replace(_BENCHMARK, view='voc2012/21_words'),
  'coco_panoptic': dataclasses.replace(_BENCHMARK, training=None),
}
