"""MaskFormer: as OVSeg's proposals, whose queries end as vectors, or with a class head.

Cheng et al., "Per-Pixel Classification is Not All You Need", NeurIPS 2021, as modified
by OVSeg [ovseg 1].
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from maskclip_jax import plain
from maskclip_jax.nn.detr_decoder import DETRDecoder
from maskclip_jax.nn.dropout import Drops
from maskclip_jax.nn.fpn import FPN
from maskclip_jax.nn.layers import Dtype, ValidHW, check_heads
from maskclip_jax.nn.mask_decoder import LayerPrediction
from maskclip_jax.nn.resnet import ResNet
from maskclip_jax.nn.swin import Swin, SwinConfig


@dataclasses.dataclass(frozen=True)
class DeepLabConfig:
  """Sizes of a residual network, by default DeepLab's [ovseg 1.3].

  Attributes:
    depth: 26, 50 or 101.
    stem: channels of the first convolution.
    width: channels of res2; later stages double them.
    deeplab: with DeepLab's stem and its far-reaching last stage.
  """

  depth: int = 101
  stem: int = 64
  width: int = 256
  deeplab: bool = True

  def __post_init__(self):
    plain.at_least(self, 1, 'stem', 'width')

  @property
  def channels(self) -> dict[str, int]:
    """Channels of each feature map."""
    return {f'res{i + 2}': self.width * 2**i for i in range(4)}


@dataclasses.dataclass(frozen=True)
class MaskFormerConfig:
  """Sizes of a MaskFormer; the defaults are those of the published Swin-B.

  Attributes:
    swin: the backbone, or None for a residual network.
    deeplab: the backbone, or None for a Swin.
    hidden: channels of the pixel decoder and of the queries.
    mask_dim: channels of the mask features.
    heads: attention heads of the decoder.
    decoder_layers: its layers.
    decoder_ffn: hidden width of their feed-forward networks.
    class_hidden: hidden width of the head that makes the vectors.
    queries: learned queries, one mask each.
    remat: recompute blocks in the backward pass: less memory, a third more time.
    pixel_dtype: compute type of the feature pyramid, which the published models keep in
      float32 whatever the rest does; 'bfloat16' moves masks.
    pixel_mean: RGB mean, 0..255.
    pixel_std: RGB standard deviation, 0..255.

  Raises:
    ValueError: no backbone, or two.
  """

  swin: SwinConfig | None = dataclasses.field(default_factory=SwinConfig)
  deeplab: DeepLabConfig | None = None
  hidden: int = 256
  mask_dim: int = 256
  heads: int = 8
  decoder_layers: int = 6
  decoder_ffn: int = 2048
  class_hidden: int = 1024
  queries: int = 100
  remat: bool = False
  pixel_dtype: Dtype = 'float32'
  pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

  def __post_init__(self):
    if (self.swin is None) == (self.deeplab is None):
      raise ValueError('a MaskFormer has one backbone: give either swin or deeplab')
    sizes = 'hidden', 'mask_dim', 'heads', 'decoder_ffn', 'class_hidden', 'queries'
    plain.at_least(self, 1, *sizes, 'decoder_layers')
    plain.at_least(self, 0, 'pixel_mean')
    plain.above(self, 0, 'pixel_std')
    check_heads('hidden', self.hidden, self.heads)

  @property
  def channels(self) -> dict[str, int]:
    """Channels of the backbone's feature maps."""
    return (self.swin or self.deeplab).channels


class MaskFormer(nnx.Module):
  """Backbone, feature pyramid and transformer decoder.

  Args:
    config: sizes.
    embed_dim: width of the vectors that words are compared with; None for a class head.
    num_classes: classes of that head, not counting 'no object'.
    dtype: compute type of the backbone and of the decoder's linear layers.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self,
    config: MaskFormerConfig,
    embed_dim: int | None,
    *,
    num_classes: int | None = None,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
  ):
    common = {'remat': config.remat, 'dtype': dtype, 'rngs': rngs}
    if config.swin is not None:
      self.backbone = Swin(config.swin, **common)
    else:
      self.backbone = ResNet(**dataclasses.asdict(config.deeplab), **common)
    self.pixel_decoder = FPN(
      config.channels,
      width=config.hidden,
      mask_dim=config.mask_dim,
      dtype=jnp.dtype(config.pixel_dtype),
      rngs=rngs,
    )
    self.predictor = DETRDecoder(
      config.channels['res5'],
      embed_dim,
      num_classes=num_classes,
      width=config.hidden,
      mask_dim=config.mask_dim,
      heads=config.heads,
      ffn=config.decoder_ffn,
      class_hidden=config.class_hidden,
      layers=config.decoder_layers,
      queries=config.queries,
      **common,
    )

  def __call__(
    self,
    pixels: Float[Array, 'b h w 3'],
    padded_hw: ValidHW = None,
    *,
    aux: bool = False,
    drops: Drops | None = None,
  ) -> tuple[LayerPrediction, ...]:
    """Proposes masks at a quarter of the canvas, each with a vector.

    Args:
      pixels: standardised RGB, zero beyond the photo.
      padded_hw: the real part of the canvas, or None if all is real.
      aux: also return the predictions of every earlier layer, before the last.
      drops: what is left out in training: branches of a Swin, values of the decoder.
    """
    if isinstance(self.backbone, Swin):
      features = self.backbone(pixels, padded_hw, drops=drops)
    else:
      features = self.backbone(pixels, padded_hw)
    mask_features = self.pixel_decoder(features, padded_hw)
    drops = None if drops is None else drops.part()
    return self.predictor(
      features['res5'], mask_features, padded_hw, aux=aux, drops=drops
    )
