"""MaskFormer (Cheng et al., NeurIPS 2021) with its class head [ovseg 1]."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from maskclip_jax import plain
from maskclip_jax.nn.mask_decoder import MASK_STRIDE
from maskclip_jax.systems import regions
from maskclip_jax.systems.contract import Images, Outputs, TextBank, check_inputs
from maskclip_jax.systems.ovseg.maskformer import MaskFormer, MaskFormerConfig


@dataclasses.dataclass(frozen=True)
class ClosedMaskFormerConfig:
  """Sizes of a MaskFormer with a class head.

  Attributes:
    num_classes: classes of the head, not counting 'no object'.
    network: everything else; there is no hidden layer of a head that makes vectors.
  """

  num_classes: int = 133
  network: MaskFormerConfig = dataclasses.field(default_factory=MaskFormerConfig)

  def __post_init__(self):
    plain.at_least(self, 1, 'num_classes')


class ClosedMaskFormer(nnx.Module):
  """Backbone, feature pyramid, transformer decoder and a class head.

  Args:
    config: sizes.
    dtype: compute type of the backbone and of the decoder's linear layers.
    rngs: seeds of the initialisation.
  """

  def __init__(
    self, config: ClosedMaskFormerConfig, *, dtype=jnp.float32, rngs: nnx.Rngs
  ):
    self.network = MaskFormer(
      config.network, None, num_classes=config.num_classes, dtype=dtype, rngs=rngs
    )
    self.config = config

  def __call__(
    self, images: Images, text: TextBank | None = None, *, aux: bool = False
  ) -> Outputs:
    """Proposes masks, each with the logits of the classes.

    Args:
      images: photos on their canvas.
      text: not used; the classes are the head's own.
      aux: also return the outputs of every earlier layer.

    Returns:
      Mask logits at a quarter of the canvas, and class logits whose last column is 'no
      object'.
    """
    check_inputs(images)
    network = self.config.network
    pixels = images.standardised(network.pixel_mean, network.pixel_std)
    mask_hw = images.input_hw // MASK_STRIDE
    *earlier, last = (
      Outputs(found.mask_logits, found.class_logits, None, mask_hw)
      for found in self.network(pixels, images.padded_hw, aux=aux)
    )
    return dataclasses.replace(last, aux=tuple(earlier))

  def propose_masks(self, images: Images, text: TextBank | None = None) -> Outputs:
    """The masks without classes; what is an object, the class head tells."""
    found = self(images)
    objectness = regions.is_object(found.class_logits)
    return dataclasses.replace(found, class_logits=None, objectness=objectness)
