"""Mask2Former: class-agnostic mask proposals, or a closed-vocabulary segmenter.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation",
CVPR 2022; [masqclip 2]. The open-vocabulary systems put words to its masks.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax import plain
from maskclip_jax.nn.layers import Dtype, check_heads
from maskclip_jax.nn.mask_decoder import MASK_STRIDE, LayerPrediction, MaskedDecoder
from maskclip_jax.nn.pixel_decoder import PixelDecoder
from maskclip_jax.nn.resnet import ResNet
from maskclip_jax.nn.swin import Swin, SwinConfig
from maskclip_jax.ops.deformable import AUTO, check_form
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, Outputs, TextBank, check_inputs


@dataclasses.dataclass(frozen=True)
class Mask2FormerConfig:
  """Sizes of a Mask2Former; the defaults are the published R50 model's.

  Attributes:
    num_classes: classes of the head, not counting 'no object': None for no class head,
      1 for class-agnostic proposals, more for a closed vocabulary.
    swin: the backbone, or None for a residual network.
    depth: the depth of the residual network, 26, 50 or 101.
    stem: channels of its stem.
    width: channels of its res2; later stages double them.
    hidden: channels of the pixel decoder and of the queries.
    mask_dim: channels of the mask features.
    heads: attention heads of both decoders.
    encoder_layers: deformable layers of the pixel decoder.
    encoder_ffn: hidden width of their feed-forward networks.
    decoder_layers: layers of the masked decoder.
    decoder_ffn: hidden width of their feed-forward networks.
    queries: learned queries, one mask each.
    remat: recompute blocks in the backward pass: less memory, a third more time.
    sampling: how the pixel decoder samples: 'auto' for what suits the platform, or a
      form of `ops.deformable.sample_pyramid`. The results are the same.
    pixel_dtype: compute type of the pixel decoder, which the published models keep in
      float32 whatever the rest does; 'bfloat16' moves masks.
    pixel_mean: RGB mean, 0..255.
    pixel_std: RGB standard deviation, 0..255.
  """

  num_classes: int | None = 1
  swin: SwinConfig | None = None
  depth: int = 50
  stem: int = 64
  width: int = 256
  hidden: int = 256
  mask_dim: int = 256
  heads: int = 8
  encoder_layers: int = 6
  encoder_ffn: int = 1024
  decoder_layers: int = 9
  decoder_ffn: int = 2048
  queries: int = 100
  remat: bool = False
  sampling: str = AUTO
  pixel_dtype: Dtype = 'float32'
  pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

  def __post_init__(self):
    sizes = 'stem', 'width', 'hidden', 'mask_dim', 'heads', 'encoder_ffn', 'decoder_ffn'
    plain.at_least(self, 1, *sizes, 'num_classes', 'queries', 'decoder_layers')
    plain.at_least(self, 0, 'encoder_layers', 'pixel_mean')
    plain.above(self, 0, 'pixel_std')
    check_heads('hidden', self.hidden, self.heads)
    check_form(self.sampling)

  @property
  def channels(self) -> dict[str, int]:
    """Channels of the backbone's feature maps."""
    if self.swin is not None:
      return self.swin.channels
    return {f'res{i + 2}': self.width * 2**i for i in range(4)}


class Mask2Former(nnx.Module):
  """Backbone, pixel decoder and masked decoder.

  Args:
    config: sizes.
    dtype: compute type of the backbone and of the masked decoder's linear layers.
    rngs: seeds of the initialisation.
  """

  def __init__(self, config: Mask2FormerConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    remat = config.remat
    common = {'remat': remat, 'dtype': dtype, 'rngs': rngs}
    if config.swin is not None:
      self.backbone = Swin(config.swin, **common)
    else:
      self.backbone = ResNet(
        config.depth, stem=config.stem, width=config.width, **common
      )
    self.pixel_decoder = PixelDecoder(
      config.channels,
      width=config.hidden,
      mask_dim=config.mask_dim,
      heads=config.heads,
      ffn=config.encoder_ffn,
      layers=config.encoder_layers,
      remat=remat,
      sampling=config.sampling,
      dtype=jnp.dtype(config.pixel_dtype),
      rngs=rngs,
    )
    self.predictor = MaskedDecoder(
      config.num_classes,
      width=config.hidden,
      mask_dim=config.mask_dim,
      heads=config.heads,
      ffn=config.decoder_ffn,
      layers=config.decoder_layers,
      queries=config.queries,
      **common,
    )
    self.config = config

  def features(self, images: Images) -> dict[str, Float[Array, 'b h w c']]:
    """The backbone's maps: 'res2' (stride 4) to 'res5' (stride 32)."""
    pixels = images.standardised(self.config.pixel_mean, self.config.pixel_std)
    return self.backbone(pixels, images.padded_hw)

  def __call__(
    self, images: Images, text: TextBank | None = None, *, aux: bool = False
  ) -> Outputs:
    """Proposes masks.

    Args:
      images: photos on their canvas.
      text: not used; the classes are the head's own.
      aux: also return the outputs of the initial queries and of every earlier layer.

    Returns:
      Mask logits at a quarter of the canvas; class logits of the head (the last column
      is 'no object') or None without one; the object log-probability if the head is
      class-agnostic.
    """
    check_inputs(images)
    pixel = self.pixel_decoder(self.features(images), images.padded_hw)
    predictions = self.predictor(pixel, images.padded_hw, aux=aux)
    mask_hw = images.input_hw // MASK_STRIDE
    *earlier, last = (self._outputs(p, mask_hw) for p in predictions)
    return dataclasses.replace(last, aux=tuple(earlier))

  def propose_masks(self, images: Images, text: TextBank | None = None) -> Outputs:
    """The masks without classes; what is an object, a class head of any size tells."""
    found = self(images)
    objectness = found.objectness
    if objectness is None and found.class_logits is not None:
      objectness = regions.is_object(found.class_logits)
    return dataclasses.replace(found, class_logits=None, objectness=objectness)

  def _outputs(
    self, prediction: LayerPrediction, mask_hw: Int[Array, 'b 2']
  ) -> Outputs:
    logits = prediction.class_logits
    objectness = None
    if self.config.num_classes == 1:
      objectness = jax.nn.log_softmax(logits, axis=-1)[..., 0]
    return Outputs(prediction.mask_logits, logits, objectness, mask_hw)
