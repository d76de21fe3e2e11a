"""Class vectors for training: the text tower runs once, before the first step."""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from maskclip_jax.checkpoints import params
from maskclip_jax.checkpoints.restore import ConstantRngs
from maskclip_jax.nn.clip import CLIPConfig, TextTower
from maskclip_jax.systems.contract import TextBank
from maskclip_jax.systems.system import Preset
from maskclip_jax.text.bank import Tower, class_vectors, encode_prompts
from maskclip_jax.text.vocabulary import Vocabulary

_PREFIX = 'clip/text/'


def training_words(vocabulary: str, classes: int, preset: Preset) -> Vocabulary:
  """The words of a run's classes, as its system reads them.

  Args:
    vocabulary: a name, a file or words.
    classes: how many the ground truth has.
    preset: says how names become prompts.

  Raises:
    ValueError: no such vocabulary, or one of another length.
  """
  words = Vocabulary.parse(vocabulary)
  if len(words) != classes:
    raise ValueError(
      f'config.vocabulary {vocabulary!r} has {len(words)} classes and the training '
      f'data has {classes}: their order must be the same, one to one'
    )
  return words.for_system(preset.words)


def make_text_bank(
  words: Vocabulary, preset: Preset, values: Mapping[str, np.ndarray]
) -> TextBank:
  """The class vectors of a vocabulary.

  Args:
    words: from `training_words`.
    preset: tells the sizes of CLIP.
    values: parameters of the model by path, `clip/text/...` among them.
  """
  config = preset.config.clip
  tower = _tower(config, values)

  def encode(prompts: Sequence[str]) -> Float[np.ndarray, 'n d']:
    return encode_prompts(prompts, tower, config.context_length, truncate=False)

  vectors = class_vectors(words, encode)
  return TextBank.build(vectors, **words.columns())


def _tower(config: CLIPConfig, values: Mapping[str, np.ndarray]) -> Tower:
  """The text tower of some parameters, compiled."""
  tower = params.abstract(lambda: TextTower(config, rngs=ConstantRngs()))
  flat = {path: values[_PREFIX + path] for path in params.flatten(tower)}
  graphdef, state = nnx.split(params.load_into(tower, flat))
  program = jax.jit(lambda state, tokens: nnx.merge(graphdef, state)(tokens))
  return functools.partial(program, state)
