"""MaskFormer's presets."""

from maskclip_jax.nn.swin import SWIN_SIZES, SwinConfig
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.mask2former.presets import SMALL_PHOTOS
from maskclip_jax.systems.maskformer.model import ClosedMaskFormerConfig
from maskclip_jax.systems.ovseg.maskformer import MaskFormerConfig
from maskclip_jax.systems.system import ModelCard, Preset

# As in the authors' configurations for panoptic segmentation.
_RESULTS = PostprocessConfig(
  object_threshold=0.8, overlap_threshold=0.8, reject_void=True
)
_COCO = 'coco-panoptic-133'


def _preset(network: MaskFormerConfig, **photos) -> Preset:
  config = ClosedMaskFormerConfig(133, network)
  return Preset(
    'maskformer', config, postprocessing=_RESULTS, vocabulary=_COCO, **photos
  )


# Small enough for tests; not listed.
_TINY = MaskFormerConfig(
  SwinConfig(16, (1, 1, 2, 1), (1, 2, 4, 8), 5),
  hidden=64,
  mask_dim=48,
  heads=4,
  decoder_layers=1,
  decoder_ffn=128,
  queries=10,
)

PRESETS = {
  **{
    f'maskformer_{size}_coco_panoptic': _preset(MaskFormerConfig(config))
    for size, config in SWIN_SIZES.items()
  },
  'maskformer_tiny': _preset(_TINY, preprocessing=SMALL_PHOTOS),
}

CARDS = {
  f'maskformer_{size}_coco_panoptic': ModelCard(
    f'MaskFormer on a Swin-{size[-1].upper()} with the 133 classes of COCO',
    f'huggingface.co/facebook/maskformer-swin-{name}-coco',
    'CC BY-NC 4.0 (MaskFormer model zoo)',
    f'MaskFormer model zoo: COCO PQ {quality}',
    url=f'https://huggingface.co/facebook/maskformer-swin-{name}-coco',
  )
  for size, name, quality in (
    ('swin_t', 'tiny', '47.7'),
    ('swin_s', 'small', '49.7'),
    ('swin_b', 'base', '51.8'),
    ('swin_l', 'large', '52.7'),
  )
}
