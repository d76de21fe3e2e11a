"""The models by name: how each is built, where its weights come from, what it scores.

One model comes with the package, `clip_baseline_miniature`, for a generated world.
The official weights are under licences of their own: fetch them from their authors and
`convert` them, which makes a bundle.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from maskclip_jax import plain
from maskclip_jax.nn.clip import CLIP_SIZES
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.systems.clip_baseline.model import CLIPBaselineConfig
from maskclip_jax.systems.mask2former.model import Mask2FormerConfig
from maskclip_jax.systems.maskclip.model import MaskCLIPConfig
from maskclip_jax.systems.masqclip.model import MasQCLIPConfig
from maskclip_jax.systems.system import find_system


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How a photo reaches the network.

  Attributes:
    short_edge: its short side is resized to this many pixels,
    long_edge: unless the long side would exceed this many.
  """

  short_edge: int = 800
  long_edge: int = 1333

  def __post_init__(self):
    if not 0 < self.short_edge <= self.long_edge:
      raise ValueError(
        f'short_edge {self.short_edge} must be positive and at most long_edge '
        f'{self.long_edge}'
      )


@dataclasses.dataclass(frozen=True)
class Preset:
  """Everything but the weights: a bundle's config.json holds exactly this.

  Attributes:
    system: a key of `systems.system.SYSTEMS`.
    config: that system's config.
    preprocessing: photo to network.
    postprocessing: network to result.
    words: how names become text vectors, a system in `text/treatments.json`.
    vocabulary: name of the only vocabulary the model knows; None for any words.
  """

  system: str
  config: Any
  preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
  postprocessing: PostprocessConfig = dataclasses.field(
    default_factory=PostprocessConfig
  )
  words: str = 'clean'
  vocabulary: str | None = None

  def to_dict(self) -> dict[str, Any]:
    """As plain JSON values."""
    return plain.to_dict(self)

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> 'Preset':
    """The inverse of `to_dict`.

    Raises:
      ValueError: an unknown system, or fields that are missing or unknown.
    """
    preset = plain.read(cls, values, 'preset')
    sizes = find_system(preset.system).config
    config = plain.read(sizes, preset.config, 'preset.config')
    return dataclasses.replace(preset, config=config)


@dataclasses.dataclass(frozen=True)
class Card:
  """What a person should know of a model before using it.

  Attributes:
    summary: one line.
    weights: where the official weights are published, and in which form.
    licence: what the weights inherit.
    numbers: published results, each with its protocol; '' where there are none.
  """

  summary: str
  weights: str
  licence: str
  numbers: str = ''


_MIT_CLIP = 'MIT (OpenAI CLIP)'
_NC = 'CC BY-NC 4.0 (authors), on MIT (OpenAI CLIP)'

# Thresholds: [masqclip 8.4], the COCO configurations of each system.
_MASQ = PostprocessConfig(object_threshold=0.3, overlap_threshold=0.3)
_MASK = PostprocessConfig(object_threshold=0.5, overlap_threshold=0.5, reject_void=True)
_STOCK = PostprocessConfig(
  object_threshold=0.8, overlap_threshold=0.8, reject_void=True
)


def _r50(num_classes: int | None) -> Mask2FormerConfig:
  return Mask2FormerConfig(num_classes=num_classes)


def _masqclip(clip: str) -> Preset:
  config = MasQCLIPConfig(_r50(1), CLIP_SIZES[clip])
  return Preset('masqclip', config, postprocessing=_MASQ, words='masqclip')


def _maskclip(clip: str, **kwargs) -> Preset:
  config = MaskCLIPConfig(_r50(None), CLIP_SIZES[clip], **kwargs)
  return Preset('maskclip', config, postprocessing=_MASK, words='maskclip')


# Small enough for tests and for `:runlocal` configurations; not listed.
_TINY = Mask2FormerConfig(
  stem=8,
  width=16,
  hidden=64,
  mask_dim=48,
  heads=4,
  encoder_layers=2,
  decoder_layers=4,
  decoder_ffn=128,
  queries=10,
)
_SMALL_PHOTOS = Preprocessing(short_edge=96, long_edge=160)

# Trained from nothing on the generated world in minutes: `configs/miniature.py`.
_MINIATURE = Mask2FormerConfig(
  depth=26,
  stem=32,
  width=64,
  hidden=64,
  mask_dim=64,
  heads=4,
  encoder_layers=1,
  encoder_ffn=128,
  decoder_layers=3,
  decoder_ffn=128,
  queries=20,
)
_SMALL_SCENES = Preprocessing(short_edge=128, long_edge=256)
# Chosen on scenes of another seed.
_CROPS = PostprocessConfig(object_threshold=0.5, overlap_threshold=0.5)

PRESETS: dict[str, Preset] = {
  'masqclip_r50_vit_l14_336': _masqclip('vit_l14_336'),
  'masqclip_r50_vit_b16': _masqclip('vit_b16'),
  'maskclip_r50_vit_l14_336': _maskclip('vit_l14_336'),
  'maskclip_freeze_r50_vit_l14_336': _maskclip('vit_l14_336', rma_blocks=()),
  'clip_baseline_r50_vit_l14_336': Preset(
    'clip_baseline',
    CLIPBaselineConfig(_r50(1), CLIP_SIZES['vit_l14_336']),
    postprocessing=_MASQ,
    words='clean',
  ),
  'mask2former_r50_coco_panoptic': Preset(
    'mask2former',
    _r50(133),
    postprocessing=_STOCK,
    vocabulary='coco-panoptic-133',
  ),
  'proposals_r50': Preset('mask2former', _r50(1), vocabulary='object'),
  **{f'clip_{size}': Preset('clip', CLIP_SIZES[size]) for size in CLIP_SIZES},
  'masqclip_miniature': Preset(
    'masqclip',
    MasQCLIPConfig(_MINIATURE, CLIP_SIZES['vit_miniature']),
    _SMALL_SCENES,
    _MASQ,
    words='masqclip',
  ),
  'maskclip_miniature': Preset(
    'maskclip',
    MaskCLIPConfig(
      dataclasses.replace(_MINIATURE, num_classes=None),
      CLIP_SIZES['vit_miniature'],
      rma_blocks=(1, 3),
    ),
    _SMALL_SCENES,
    _MASK,
    words='maskclip',
  ),
  'maskclip_freeze_miniature': Preset(
    'maskclip',
    MaskCLIPConfig(
      dataclasses.replace(_MINIATURE, num_classes=None),
      CLIP_SIZES['vit_miniature'],
      rma_blocks=(),
    ),
    _SMALL_SCENES,
    _MASK,
    words='maskclip',
  ),
  'clip_baseline_miniature': Preset(
    'clip_baseline',
    CLIPBaselineConfig(_MINIATURE, CLIP_SIZES['vit_miniature']),
    _SMALL_SCENES,
    _CROPS,
  ),
  'proposals_miniature': Preset(
    'mask2former', _MINIATURE, _SMALL_SCENES, vocabulary='object'
  ),
  'masqclip_tiny': Preset(
    'masqclip',
    MasQCLIPConfig(_TINY, CLIP_SIZES['vit_tiny']),
    _SMALL_PHOTOS,
    _MASQ,
    words='masqclip',
  ),
  'maskclip_tiny': Preset(
    'maskclip',
    MaskCLIPConfig(
      dataclasses.replace(_TINY, num_classes=None),
      CLIP_SIZES['vit_tiny'],
      rma_blocks=(0, 1),
    ),
    _SMALL_PHOTOS,
    _MASK,
    words='maskclip',
  ),
  'clip_baseline_tiny': Preset(
    'clip_baseline',
    CLIPBaselineConfig(_TINY, CLIP_SIZES['vit_tiny']),
    _SMALL_PHOTOS,
    _MASQ,
  ),
  'proposals_tiny': Preset('mask2former', _TINY, _SMALL_PHOTOS, vocabulary='object'),
  'mask2former_tiny': Preset(
    'mask2former',
    dataclasses.replace(_TINY, num_classes=133),
    _SMALL_PHOTOS,
    _STOCK,
    vocabulary='coco-panoptic-133',
  ),
}

# Models whose bundles are part of the package.
_MINIATURE_MODEL = pathlib.Path(__file__).parent / 'miniature' / 'model'
SHIPPED = {'clip_baseline_miniature': _MINIATURE_MODEL}

CARDS: dict[str, Card] = {
  'clip_baseline_miniature': Card(
    'CLIP on crops of proposals, for a generated world: small; works at once',
    'in this package, made by launch/miniature.sh',
    'Apache-2.0',
    'benchmarks/miniature.md',
  ),
  'masqclip_r50_vit_l14_336': Card(
    'MasQCLIP: ResNet-50 proposals, tuned mask queries in CLIP ViT-L/14@336',
    'github.com/mlpc-ucsd/MasQCLIP, PyTorch files; text tower from CLIP',
    _NC,
    'paper Table 1: ADE20K-150 PQ 23.3, mIoU 30.4; A-847 10.7, PC-59 57.8, PC-459 18.2',
  ),
  'masqclip_r50_vit_b16': Card(
    'MasQCLIP on the smaller CLIP ViT-B/16, for training and for trying out',
    'none published',
    'none: no weights',
  ),
  'maskclip_r50_vit_l14_336': Card(
    'MaskCLIP (Ding et al.): mask class tokens and relative mask attention',
    'github.com/mlpc-ucsd/MaskCLIP, PyTorch files; text tower from CLIP',
    _NC,
    'MasQCLIP paper Table 1: ADE20K-150 PQ 15.1, mIoU 23.7; A-847 8.2, PC-59 45.9',
  ),
  'maskclip_freeze_r50_vit_l14_336': Card(
    'MaskCLIP without relative mask attention: nothing trained on CLIP',
    'proposals of MaskCLIP or MasQCLIP, and CLIP',
    _NC,
    'MasQCLIP paper Table 5 ("freeze", with object score): ADE20K-150 PQ 10.7',
  ),
  'clip_baseline_r50_vit_l14_336': Card(
    'crops every proposal and classifies the crop by CLIP; slow',
    'proposals of MasQCLIP, and CLIP',
    _NC,
  ),
  'mask2former_r50_coco_panoptic': Card(
    'stock Mask2Former with its closed vocabulary of 133 COCO classes',
    'github.com/facebookresearch/Mask2Former model zoo, detectron2 files',
    'CC BY-NC 4.0 (model zoo)',
    'Mask2Former model zoo: COCO PQ 51.9, AP 41.7, mIoU 61.7',
  ),
  'proposals_r50': Card(
    'class-agnostic proposals: MasQCLIP teacher or student',
    'github.com/mlpc-ucsd/MasQCLIP, PyTorch files',
    'CC BY-NC 4.0 (authors)',
  ),
  **{
    f'clip_{size}': Card(
      f'CLIP {size.replace("_", " ")}',
      f'timm/vit_{name}.openai on the Hugging Face hub, safetensors',
      _MIT_CLIP,
    )
    for size, name in (
      ('vit_b32', 'base_patch32_clip_224'),
      ('vit_b16', 'base_patch16_clip_224'),
      ('vit_l14', 'large_patch14_clip_224'),
      ('vit_l14_336', 'large_patch14_clip_336'),
    )
  },
}


def list_models() -> list[str]:
  """Names that `load` and the command line know, in the order of the table."""
  return [name for name in PRESETS if name in CARDS]


def find_preset(name: str) -> Preset:
  """The preset of a name.

  Raises:
    ValueError: there is none.
  """
  if name not in PRESETS:
    raise ValueError(
      f'there is no model {name!r}: `maskclip_jax models list` names them all'
    )
  return PRESETS[name]
