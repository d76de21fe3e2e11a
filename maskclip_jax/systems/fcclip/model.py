"""FC-CLIP (Yu et al., NeurIPS 2023): masks and words from one frozen CLIP.

A Mask2Former stands on the feature maps of CLIP's image tower, which is a ConvNeXt or a
ResNet. Its masks are classified twice: by the mask features inside them, which training
saw, and by CLIP's own features inside them, which know all words. Both are joined per
class, by whether training named it. Source: [fcclip 1, 5, 6], and [fcclip 2.5] for
ResNets.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from maskclip_jax import plain
from maskclip_jax.nn.clip_resnet import ResNetCLIP, ResNetCLIPConfig
from maskclip_jax.nn.convnext import STAGES, ConvNeXtCLIP, ConvNeXtCLIPConfig
from maskclip_jax.nn.layers import Dtype, ValidHW, check_heads, inside
from maskclip_jax.nn.mask_decoder import MASK_STRIDE, LayerPrediction
from maskclip_jax.nn.pixel_decoder import PixelDecoder
from maskclip_jax.nn.pooled_decoder import PooledDecoder
from maskclip_jax.ops.resize import resize
from maskclip_jax.systems import pooling, regions
from maskclip_jax.systems.contract import (
  Images,
  Outputs,
  RegionVectors,
  Scores,
  TextBank,
  check_inputs,
)
from maskclip_jax.systems.fcclip.adapter import (
  MASK_SCALE,
  MaskAdapter,
  MaskAdapterConfig,
)
from maskclip_jax.systems.fcclip.transfer import ContentTransfer, Form, scrambled
from maskclip_jax.systems.score_rules import geometric_ensemble

_LARGEST_SCALE = 100.0
# The CLIPs that it can stand on.
_TOWERS = {ConvNeXtCLIPConfig: ConvNeXtCLIP, ResNetCLIPConfig: ResNetCLIP}
# How much CLIP counts beside the trained classifier [fcclip 6].
SCORES = Scores(seen_weight=0.4, unseen_weight=0.8)


@dataclasses.dataclass(frozen=True)
class FCCLIPConfig:
  """Sizes of an FC-CLIP; the defaults are the published model's.

  Attributes:
    clip: the CLIP that is its backbone and its classifier.
    hidden: channels of the pixel decoder, of the queries and of the mask features.
    heads: attention heads of both decoders.
    encoder_layers: deformable layers of the pixel decoder.
    encoder_ffn: hidden width of their feed-forward networks.
    decoder_layers: layers of the masked decoder.
    decoder_ffn: hidden width of their feed-forward networks.
    queries: learned queries, one mask each.
    transfer: how words adapt to the photo before CLIP compares them with masks, as in
      MAFT+; None for FC-CLIP's fixed words.
    transfer_heads: attention heads of that.
    adapter: how CLIP's features of a mask are weighted, as in Mask-Adapter; None for
      their mean.
    remat: recompute blocks in the backward pass: less memory, a third more time.
    pixel_dtype: compute type of the pixel decoder, which the published models keep in
      float32 whatever the rest does; 'bfloat16' moves masks.
  """

  clip: ConvNeXtCLIPConfig | ResNetCLIPConfig = dataclasses.field(
    default_factory=ConvNeXtCLIPConfig
  )
  hidden: int = 256
  heads: int = 8
  encoder_layers: int = 6
  encoder_ffn: int = 1024
  decoder_layers: int = 9
  decoder_ffn: int = 2048
  queries: int = 250
  transfer: Form | None = None
  transfer_heads: int = 8
  adapter: MaskAdapterConfig | None = None
  remat: bool = False
  pixel_dtype: Dtype = 'float32'

  def __post_init__(self):
    sizes = 'hidden', 'heads', 'encoder_ffn', 'decoder_ffn', 'queries', 'transfer_heads'
    plain.at_least(self, 1, *sizes, 'decoder_layers')
    plain.at_least(self, 0, 'encoder_layers')
    check_heads('hidden', self.hidden, self.heads)
    if isinstance(self.clip, ResNetCLIPConfig) and (self.transfer or self.adapter):
      raise ValueError('transfer and adapter need a CLIP with a ConvNeXt')


class FCCLIP(nnx.Module):
  """CLIP, pixel decoder, masked decoder and the void vector.

  Args:
    config: sizes.
    dtype: compute type of CLIP and of the masked decoder's linear layers.
    rngs: seeds of the initialisation.
  """

  def __init__(self, config: FCCLIPConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
    common = {'heads': config.heads, 'remat': config.remat, 'rngs': rngs}
    kind = _TOWERS[type(config.clip)]
    self.clip = kind(config.clip, remat=config.remat, dtype=dtype, rngs=rngs)
    self.pixel_decoder = PixelDecoder(
      dict(zip(STAGES, config.clip.widths, strict=True)),
      width=config.hidden,
      mask_dim=config.hidden,
      ffn=config.encoder_ffn,
      layers=config.encoder_layers,
      dtype=jnp.dtype(config.pixel_dtype),
      **common,
    )
    self.predictor = PooledDecoder(
      config.clip.embed_dim,
      width=config.hidden,
      ffn=config.decoder_ffn,
      layers=config.decoder_layers,
      queries=config.queries,
      dtype=dtype,
      **common,
    )
    self.void_embedding = nnx.Embed(
      1,
      config.clip.embed_dim,
      embedding_init=nnx.initializers.normal(1.0),
      rngs=rngs,
    )
    if config.transfer is None:
      self.transfer = None
    else:
      self.transfer = ContentTransfer(
        config.clip.embed_dim,
        config.transfer_heads,
        config.transfer,
        dtype=dtype,
        rngs=rngs,
      )
    if config.adapter is None:
      self.adapter = None
    else:
      self.adapter = MaskAdapter(
        config.clip.embed_dim, config.adapter, dtype=dtype, rngs=rngs
      )
    self.config = config

  def features(self, images: Images) -> dict[str, Float[Array, 'b h w c']]:
    """CLIP's maps: 'res2' (stride 4) to 'res5' (stride 32)."""
    return pooling.feature_maps(self.clip, images)

  def class_logits(
    self,
    vectors: Float[Array, 'b q d'],
    text: TextBank,
    log_scale: Float[Array, ''],
    *,
    rows: Float[Array, 'b r d'] | None = None,
  ) -> Float[Array, 'b q k']:
    """Scaled cosines of vectors and classes, and of vectors and the void vector.

    Args:
      vectors: the vectors of regions.
      text: class vectors.
      log_scale: the logarithm of the temperature.
      rows: class vectors of each photo in the place of the bank's.
    """
    scale = jnp.minimum(jnp.exp(log_scale), _LARGEST_SCALE)
    void = self.void_embedding.embedding[0]
    return regions.class_similarity(vectors, text, scale, rows=rows, void_vector=void)

  def adapted(
    self, images: Images, dense: Float[Array, 'b h w c'], text: TextBank
  ) -> Float[Array, 'b r d'] | None:
    """Class vectors that have seen the photo; None if words stay as they are.

    Args:
      images: photos on their canvas.
      dense: CLIP's last map.
      text: class vectors.
    """
    if self.transfer is None:
      return None
    places, hw = self.places(images, dense)
    return self.transfer(text.embeddings, places, hw)

  def places(
    self, images: Images, dense: Float[Array, 'b h w c']
  ) -> tuple[Float[Array, 'b h w d'], ValidHW]:
    """CLIP's vectors of all places of its last map, and the real part of them.

    Of a MAFT+, of the map as the released code reads it.

    Args:
      images: photos on their canvas.
      dense: CLIP's last map.
    """
    hw = images.padded_hw
    hw = None if hw is None else hw // STAGES['res5']
    if self.transfer is not None:
      dense = scrambled(dense, hw)
    return self.clip.visual.head(dense), hw

  def propose(
    self,
    images: Images,
    features: dict[str, Float[Array, 'b h w c']],
    text: TextBank | None,
    *,
    aux: bool = False,
  ) -> Outputs:
    """Masks, and class logits of the classifier that was trained with them.

    Args:
      images: photos on their canvas.
      features: CLIP's features.
      text: class vectors; None for masks alone.
      aux: also return the outputs of the initial queries and of every earlier layer.
    """
    pixel = self.pixel_decoder(features, images.padded_hw)
    predictions = self.predictor(pixel, images.padded_hw, aux=aux)
    scale = self.predictor.logit_scale[...]
    mask_hw = images.input_hw // MASK_STRIDE

    def outputs(prediction: LayerPrediction) -> Outputs:
      logits = None
      if text is not None:
        logits = self.class_logits(prediction.class_vectors, text, scale)
      return Outputs(prediction.mask_logits, logits, None, mask_hw)

    *earlier, last = map(outputs, predictions)
    return dataclasses.replace(last, aux=tuple(earlier))

  def propose_masks(self, images: Images, text: TextBank | None = None) -> Outputs:
    """The masks; by words also their classes. The void vector says what is no object,
    in the void column of words that have one."""
    return self.propose(images, self.features(images), text)

  def pool(
    self,
    images: Images,
    dense: Float[Array, 'b h w c'],
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    threshold: float | Float[Array, ''] = SCORES.mask_threshold,
  ) -> RegionVectors:
    """CLIP's vectors of masks: its last map, averaged over each and put through its
    head. A mask that covers no position of the map gets the head's vector of zeros.

    Args:
      images: photos on their canvas.
      dense: CLIP's last map.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      threshold: probability above which a position belongs to a mask.
    """
    if self.adapter is not None:
      return self._adapted_pool(images, dense, mask_logits, mask_hw, threshold)
    return pooling.pool_map(
      self.clip.visual, images, dense, mask_logits, mask_hw, threshold
    )

  def _adapted_pool(
    self,
    images: Images,
    dense: Float[Array, 'b h w c'],
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    threshold: float | Float[Array, ''],
  ) -> RegionVectors:
    """The same by learned weights: the mean of the vectors of all maps [fcclip 9.3]."""
    hw = images.input_hw // STAGES['res5'] * MASK_SCALE
    shape = tuple(MASK_SCALE * side for side in dense.shape[1:3])
    binary = (jax.nn.sigmoid(mask_logits) > threshold).astype(jnp.float32)
    masks = jax.vmap(lambda m, a, b: resize(m, shape, in_hw=a, out_hw=b))(
      binary, mask_hw, hw
    )
    masks = jnp.where(inside(hw, shape)[:, None], masks, 0.0)
    places, places_hw = self.places(images, dense)
    weights = self.adapter(places, masks, places_hw)
    pooled = jnp.einsum('bqmhw,bhwc->bqmc', weights, dense.astype(jnp.float32))
    vectors = self.clip.visual.head(pooled).mean(2)
    return RegionVectors(vectors, (), ~(masks > 0).any((-2, -1)))

  def encode_masks(
    self,
    images: Images,
    mask_logits: Float[Array, 'b q h w'],
    mask_hw: Int[Array, 'b 2'],
    scores: Scores | None = None,
  ) -> RegionVectors:
    """CLIP vectors (not normalised) of arbitrary masks, any number of them.

    Args:
      images: photos on their canvas.
      mask_logits: positive inside a mask.
      mask_hw: the part of `mask_logits` that covers the padded photo.
      scores: of them, from which probability on a position belongs to a mask.
    """
    threshold = (SCORES if scores is None else scores).mask_threshold
    dense = self.features(images)['res5']
    return self.pool(images, dense, mask_logits, mask_hw, threshold)

  def __call__(
    self, images: Images, text: TextBank, scores: Scores = SCORES
  ) -> Outputs:
    """Masks at a quarter of the canvas, and the joint log-probabilities of classes.

    The void column holds the probability that a query is no class.

    Args:
      images: photos on their canvas.
      text: class vectors, with `seen` as training named the classes.
      scores: how both classifiers are joined; the published way by default.
    """
    check_inputs(images, text)
    features = self.features(images)
    found = self.propose(images, features, text)
    clip = self.pool(
      images,
      features['res5'],
      found.mask_logits,
      found.mask_hw,
      scores.mask_threshold,
    )
    known = self.class_logits(
      clip.vectors,
      text,
      self.clip.logit_scale[...],
      rows=self.adapted(images, features['res5'], text),
    )
    joint = geometric_ensemble(
      found.class_logits, known, text, scores, empty=clip.empty
    )
    return dataclasses.replace(found, class_logits=joint)
