"""What is exported: a model as pure functions of plain arrays.

    photo   weights, a photo on its canvas, words -> masks, class scores, class ids
    text    weights, token ids -> vectors of prompts

Arguments and results are dictionaries of arrays, so that what runs an artefact needs
none of this package's types.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from maskclip_jax import jax_settings, postprocess
from maskclip_jax.checkpoints import params
from maskclip_jax.names import an
from maskclip_jax.ops import fused_attention
from maskclip_jax.ops.deformable import portable
from maskclip_jax.postprocess import PostprocessConfig
from maskclip_jax.postprocess.class_scores import ClassScores
from maskclip_jax.postprocess.partition import Partition
from maskclip_jax.postprocess.traced import panoptic_ids, semantic_ids
from maskclip_jax.segmenter import Segmenter
from maskclip_jax.systems.contract import STRIDE, Images, Scores, TextBank
from maskclip_jax.systems.system import find_system

Arrays = dict[str, Array]

# The weights of the text tower, which only the text program reads.
TEXT_TOWER = 'clip/text/'
# What of a text bank the photo program reads; `columns` is not in every bank.
WORDS = ('embeddings', 'valid', 'thing', 'void', 'seen', 'columns')
# Sizes of a program's file are 32 bits.
_MOST_BYTES = 2**31 - 1
# Numbers of the panoptic result.
THRESHOLDS = ('object_threshold', 'overlap_threshold')


@dataclasses.dataclass(frozen=True)
class Program:
  """A pure function, and what it is called with.

  Attributes:
    function: (weights, inputs) -> outputs, all of them dictionaries of arrays.
    weights: those that it reads, by their paths.
    inputs: an example, for shapes, types and a first call.
    free: inputs whose first axis, like that of every output, may have any length.
  """

  function: Callable[[Arrays, Arrays], Arrays]
  weights: Arrays
  inputs: dict[str, np.ndarray]
  free: tuple[str, ...] = ()

  def check_weights_fit(self) -> None:
    """Refuses what one file cannot hold.

    Raises:
      ValueError: more than 2 GB of weights.
    """
    size = sum(w.nbytes for w in self.weights.values())
    if size > _MOST_BYTES:
      raise ValueError(
        f'{size / 1e9:.1f} GB of weights do not fit into a program, which holds 2 GB: '
        'leave them beside it (--weights beside)'
      )

  def without_weights(self) -> Callable[[Arrays], Arrays]:
    """The function of its inputs alone, with the weights as constants in it.

    Raises:
      ValueError: they are more than a file holds.
    """
    self.check_weights_fit()
    return lambda inputs: self.function(self.weights, inputs)


@contextlib.contextmanager
def lowering(platforms: Sequence[str], *, any_number: bool = False) -> Iterator[None]:
  """Within it, programs are traced so that they lower for all of these platforms.

  Kernels of the GPU that is here are not in them, nor is that of TPUs where there are
  several platforms, or any number of photos is a call.
  """
  alone = len(platforms) == 1 and not any_number
  sampling = contextlib.nullcontext() if alone else portable()
  with fused_attention.never(), sampling:
    yield


def words_of(bank: TextBank) -> dict[str, np.ndarray]:
  """A text bank as the arrays that the photo program reads."""
  arrays = {name: getattr(bank, name) for name in WORDS}
  return {name: np.asarray(a) for name, a in arrays.items() if a is not None}


def photo_program(
  segmenter: Segmenter,
  words: Mapping[str, np.ndarray],
  canvas: tuple[int, int],
  result_canvas: tuple[int, int],
  batch: int | None = 1,
) -> Program:
  """The network and its post-processing for photos on one canvas.

  Inputs are `pixels` uint8 [batch, height, width, 3], each photo in the top left corner
  and zeros beside it; `image_hw` int32 [batch, 2], its size there; `result_hw` int32
  [batch, 2], the size wanted of the results; the arrays of the words; and the numbers
  of `number_inputs`. Results are

      mask_logits          [batch, queries, h, w]; `mask_hw` of it covers the photo
                           with its padding to a multiple of 32
      mask_hw              [batch, 2]
      class_probabilities  [batch, queries, columns]; zero where there is no class
      void_probability     [batch, queries]
      semantic             [batch, height, width], on the result's canvas; the best
                           column of every pixel in the top left `result_hw`, else -1
      panoptic             the same of segments, from 1; 0 where there is none
      segment_classes      [batch, queries]; the column of segment i + 1, -1 for none
      segment_scores       [batch, queries]
      segment_areas        [batch, queries], pixels

  Systems whose objects are pieces of the semantic map have no panoptic result here.

  Args:
    segmenter: the model.
    words: from `words_of`; they give the shapes and are the example.
    canvas: (height, width), multiples of 32.
    result_canvas: (height, width) that holds ids of classes and segments.
    batch: photos of a call; None for any number.

  Raises:
    ValueError: a model that reads words by two text towers, of which a program of words
      has one.
  """
  if getattr(segmenter.preset.config, 'proposal_words', ''):
    raise ValueError(
      f'{an(find_system(segmenter.preset.system).title)} whose segmenter names masks '
      'too reads words by two text towers, and an artefact has one: serve it, or put '
      'together one whose proposals say nothing of words'
    )
  forward, weights = segmenter.as_function()
  weights, others = _divided(weights, text=False)
  names, config = sorted(segmenter.score_names), segmenter.preset.postprocessing

  @jax_settings.own()
  def function(weights: Arrays, inputs: Arrays) -> Arrays:
    image_hw = inputs['image_hw']
    padded_hw = -(-image_hw // STRIDE) * STRIDE
    text = TextBank(**{name: inputs[name] for name in WORDS if name in inputs})
    outputs = forward(
      weights | others,
      Images(inputs['pixels'], image_hw, padded_hw),
      text,
      Scores(**{name: inputs[name] for name in names}),
    )
    masks = outputs.mask_logits
    masks = masks.logits() if isinstance(masks, Partition) else masks
    scores = jax.vmap(postprocess.class_probabilities, (0, None, None, 0))(
      outputs.class_logits, text.valid, text.void, outputs.objectness
    )
    steps = (outputs.mask_hw, padded_hw, image_hw, inputs['result_hw'])
    ids = jax.lax.map(
      lambda one: _ids(*one, inputs, result_canvas, config),
      (masks, scores, jnp.stack(steps, axis=-1)),
    )
    return {
      'mask_logits': masks.astype(jnp.float32),
      'mask_hw': outputs.mask_hw,
      'class_probabilities': scores.probabilities,
      'void_probability': scores.void,
      **ids,
    }

  whole = np.tile(np.array(canvas, np.int32), (batch or 1, 1))
  photos = {
    'pixels': np.zeros((batch or 1, *canvas, 3), np.uint8),
    'image_hw': whole,
    'result_hw': whole,
  }
  example = photos | words | number_inputs(segmenter)
  return Program(function, weights, example, () if batch else tuple(photos))


def _ids(
  masks: Float[Array, 'q h w'],
  scores: ClassScores,
  sizes: Int[Array, 'axis=2 step=4'],
  inputs: Arrays,
  canvas: tuple[int, int],
  config: PostprocessConfig,
) -> Arrays:
  """The results of one photo that have a value for every pixel."""
  ids = semantic_ids(masks, scores, sizes, canvas, config.semantic_order)
  if config.objects != 'masks':
    return {'semantic': ids}
  found = panoptic_ids(
    masks,
    scores,
    inputs['thing'],
    sizes,
    canvas,
    reject_void=config.reject_void,
    **{name: inputs[name] for name in THRESHOLDS},
  )
  return {
    'semantic': ids,
    'panoptic': found.ids,
    'segment_classes': found.classes,
    'segment_scores': found.scores,
    'segment_areas': found.areas,
  }


def number_inputs(segmenter: Segmenter) -> dict[str, np.ndarray]:
  """Numbers that may be chosen anew at every call, as the preset has them.

  They are the fields of `Scores` that the model reads, and the two thresholds of
  `PostprocessConfig`.
  """
  scores, config = segmenter.preset.scores, segmenter.preset.postprocessing
  kinds = {float: np.float32, bool: np.bool_}
  numbers = {name: getattr(scores, name) for name in sorted(segmenter.score_names)}
  inputs = {
    name: np.asarray(number, kinds[type(getattr(Scores, name))])
    for name, number in numbers.items()
  }
  if config.objects == 'masks':
    inputs |= {name: np.float32(getattr(config, name)) for name in THRESHOLDS}
  return inputs


def text_program(segmenter: Segmenter) -> Program | None:
  """The text tower; None for a model that knows one vocabulary only.

  Its input is `tokens` int32 [n, length] of CLIP's tokenizer: start token, the text,
  end token, zeros; of a SigLIP what `text.word_pieces` gives. Its result is `vectors`
  [n, d], not normalised.
  """
  if segmenter.preset.vocabulary is not None:
    return None
  whole, weights = params.split(segmenter.model)
  weights, others = _divided(weights, text=True)

  @jax_settings.own()
  def function(weights: Arrays, inputs: Arrays) -> Arrays:
    tokens: Int[Array, 'n t'] = inputs['tokens']
    return {'vectors': whole(weights | others).clip.text(tokens)}

  length = segmenter.preset.config.clip.context_length
  return Program(
    function, weights, {'tokens': np.zeros((1, length), np.int32)}, ('tokens',)
  )


def _divided(weights: Arrays, *, text: bool) -> tuple[Arrays, dict]:
  """The weights of a program, and in the place of the others what cannot be computed
  with: a network that read them would fail when it is traced."""
  mine = {p: w for p, w in weights.items() if p.startswith(TEXT_TOWER) == text}
  others = {
    path: jax.ShapeDtypeStruct(w.shape, w.dtype)
    for path, w in weights.items()
    if path not in mine
  }
  return mine, others
