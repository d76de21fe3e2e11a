"""Our networks behind the two methods of a Linen module that Scenic's trainers call.

Scenic asks for `init` and `apply` and for nothing else of Linen. Names of parameters
are Scenic's: blocks are `resblocks.0`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from maskclip_jax import postprocess
from maskclip_jax.checkpoints import params
from maskclip_jax.integrations.scenic.variables import Tree, flattened, nested
from maskclip_jax.ops.resize import resize
from maskclip_jax.postprocess.partition import Partition
from maskclip_jax.segmenter import Segmenter, Weights
from maskclip_jax.systems.contract import Images
from maskclip_jax.text.vocabulary import Vocabulary

# The collection of what is not trained.
FROZEN = 'frozen'
# The weakest score whose logarithm is told from none.
_LEAST = 1e-6
_NUMBER = re.compile(r'/(\d+)(?=/|$)')


class ScenicModule:
  """A function of weights and inputs as a module.

  Args:
    function: (weights, inputs) -> logits.
    weights: what training starts from, by path.
    trainable: regular expressions over paths, each of which matches some in full; the
      other weights are a collection of their own, which optimisers do not see.

  Raises:
    ValueError: an expression that matches nothing.
  """

  def __init__(
    self,
    function: Callable[[Weights, Array], Array],
    weights: Weights,
    trainable: Sequence[str] = ('.*',),
  ):
    self._function, self._weights = function, weights
    trained = set(params.select(weights, *trainable))
    self._place = {
      path: ('params' if path in trained else FROZEN, _NUMBER.sub(r'.\1', path))
      for path in weights
    }

  def init(self, rngs: Any, *inputs: Array, **options: Any) -> Tree:
    """The variables to start from, whatever the seed and the inputs are."""
    del rngs, inputs, options
    flat = {'/'.join(self._place[path]): w for path, w in self._weights.items()}
    return {'params': {}, **nested(flat)}

  def apply(
    self,
    variables: Mapping[str, Any],
    inputs: Array,
    *,
    mutable: Any = False,
    **options: Any,
  ) -> Array | tuple[Array, Tree]:
    """Logits; with `mutable` also the collections other than params, unchanged.

    Our networks compute in training what they compute in evaluation, so `train`, `rngs`
    and `debug` change nothing.
    """
    del options
    flat = dict(flattened(variables))
    weights = {path: flat['/'.join(place)] for path, place in self._place.items()}
    logits = self._function(weights, inputs)
    if not mutable:
      return logits
    return logits, {name: v for name, v in variables.items() if name != 'params'}


def semantic_logits(
  segmenter: Segmenter, words: str | Vocabulary | None, input_scale: float = 1.0
) -> Callable[[Weights, Num[Array, 'b h w 3']], Float[Array, 'b h w k']]:
  """A model as a classifier of pixels, whose softmax is its class scores.

  The best class of a pixel is that of the semantic result at the size of the inputs
  [masqclip 8.1]; gradients reach masks and classes.

  Args:
    segmenter: the model.
    words: the classes, in the order of the labels; see `Segmenter.vocabulary`.
    input_scale: what makes inputs RGB of 0..255: 255 for inputs of 0..1. Their sides
      are multiples of 32.
  """
  vocabulary = segmenter.vocabulary(words)
  bank, classes = segmenter.text_bank(vocabulary), len(vocabulary)
  forward, _ = segmenter.as_function()

  def function(weights: Weights, inputs: Num[Array, 'b h w 3']):
    batch, *hw, _ = inputs.shape
    image_hw = jnp.broadcast_to(jnp.array(hw, jnp.int32), (batch, 2))
    images = Images(inputs.astype(jnp.float32) * input_scale, image_hw)
    outputs = forward(weights, images, bank)
    scores = jax.vmap(postprocess.class_probabilities, (0, None, None, 0))(
      outputs.class_logits, bank.valid, bank.void, outputs.objectness
    )
    masks = outputs.mask_logits
    masks = masks.logits() if isinstance(masks, Partition) else masks
    enlarge = jax.vmap(lambda maps, real: resize(maps, tuple(hw), in_hw=real))
    mask_p = jax.nn.sigmoid(enlarge(masks, outputs.mask_hw))
    score = jnp.einsum('bqk,bqhw->bhwk', scores.probabilities[..., :classes], mask_p)
    return jnp.log(jnp.maximum(score, _LEAST))

  return function
