"""From the network's outputs for one photo, in one or several variants, to results."""

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Int32

from maskclip_jax.eval.predictor import ClassColumns, ImageOutputs, Variant
from maskclip_jax.postprocess import OutputKind, PostprocessConfig, Results, postprocess
from maskclip_jax.postprocess.class_scores import ClassScores, class_probabilities
from maskclip_jax.postprocess.semantic import semantic_scores
from maskclip_jax.postprocess.tiles import Order

# Bytes that the score maps of one variant may take.
_BUDGET = 256 << 20
_BLOCKS = (64, 16, 4, 1)


def class_scores(outputs: ImageOutputs, words: ClassColumns) -> ClassScores:
  """Class probabilities of the queries."""
  return class_probabilities(
    outputs.class_logits, words.valid, words.void, outputs.objectness
  )


def image_results(
  outputs: Sequence[ImageOutputs],
  variants: Sequence[Variant],
  words: ClassColumns,
  config: PostprocessConfig,
  tasks: Collection[OutputKind],
) -> Results:
  """Results of one photo.

  Args:
    outputs: one per variant.
    variants: how the photo was shown; several only for semantic results.
    words: flags of the text bank.
    config: thresholds and rules.
    tasks: what is asked for.

  Raises:
    ValueError: NaN in the outputs.
  """
  scores = [class_scores(one, words) for one in outputs]
  if len(outputs) == 1 and not variants[0].flip:
    one = outputs[0]
    return postprocess(
      one.mask_logits, scores[0], words.thing, one.geometry, config, tasks
    )
  return Results(
    semantic=averaged_semantic(outputs, scores, variants, config.semantic_order)
  )


def averaged_semantic(
  outputs: Sequence[ImageOutputs],
  scores: Sequence[ClassScores],
  variants: Sequence[Variant],
  order: Order,
) -> Int32[np.ndarray, 'height width']:
  """The best class of every pixel by the mean of the variants' class score maps.

  A block of classes at a time: all maps of 847 classes do not fit in memory.
  """
  height, width = outputs[0].geometry.original
  classes = np.asarray(scores[0].classes)
  block = next(
    size
    for size in _BLOCKS
    if size == 1 or (4 * size * height * width <= _BUDGET and len(classes) % size == 0)
  )
  best = np.full((height, width), -1, np.float32)
  winner = np.zeros((height, width), np.int32)
  for first in range(0, int(np.flatnonzero(classes)[-1]) + 1, block):
    part = slice(first, first + block)
    total = np.zeros((block, height, width), np.float32)
    for one, score, variant in zip(outputs, scores, variants, strict=True):
      some = ClassScores(score.probabilities[:, part], score.void, score.classes[part])
      maps = semantic_scores(one.mask_logits, some, one.geometry, order=order)
      total += maps[:, :, ::-1] if variant.flip else maps
    total[~classes[part]] = -1
    # Strictly greater: of equals the first class wins, as in the plain rule.
    top = total.max(0)
    better = top > best
    best = np.where(better, top, best)
    winner = np.where(better, first + total.argmax(0).astype(np.int32), winner)
  return winner
